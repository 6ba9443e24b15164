"""The spec is data: light to import, strict, and complete in its fingerprint."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from shardmill.errors import ConfigurationError
from shardmill.transforms import TransformSpec


def spec(*operations: dict[str, object], **fields: object) -> TransformSpec:
    return TransformSpec.model_validate({"operations": operations, **fields})


def test_importing_the_package_imports_no_torch() -> None:
    program = "import sys, shardmill.transforms, shardmill.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="arguents"):
        spec({"operation": "Resize", "arguents": {"size": 3}})
    with pytest.raises(ValidationError, match="jpeg_quality"):
        spec(jpeg_quality=101)


def test_the_fingerprint_covers_all_that_determines_the_output() -> None:
    base = {"operation": "Resize", "arguments": {"size": (8, 8)}, "components": ["jpg"]}
    variants = [
        spec(base),
        spec({**base, "arguments": {"size": 9}}),
        spec({**base, "components": None}),
        spec(base, base),
        spec(base, masks=["mask.png"]),
        spec(base, seed=1),
        spec(base, epoch=1),
        spec(base, jpeg_quality=90),
    ]
    assert len({json.dumps(each.fingerprint_parameters(), sort_keys=True) for each in variants}) == len(variants)
    again = TransformSpec.model_validate(json.loads(variants[0].model_dump_json()))
    assert again.fingerprint_parameters() == variants[0].fingerprint_parameters()


def test_the_fingerprint_has_the_code_version_of_a_custom_callable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "def keep(sample): ...\nkeep.code_version = '7'\ndef other(sample): ...\n"
    (tmp_path / "versioned_transform.py").write_text(code)
    versions = spec(
        {"operation": "versioned_transform:keep"}, {"operation": "versioned_transform:other"}
    ).fingerprint_parameters()["code_versions"]
    assert versions == {"versioned_transform:keep": "7", "versioned_transform:other": None}
    with pytest.raises(ConfigurationError, match=r"package\.module:callable"):
        spec({"operation": "versioned_transform:gone"}).fingerprint_parameters()
