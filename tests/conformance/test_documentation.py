"""The lines of docs/reading.md on other readers, as they stand there."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import Samples, Urls

PAGE = (Path(__file__).parents[2] / "docs/reading.md").read_text().partition("## Other readers")[2]
CODE = {
    name: code
    for name, code in re.findall(r"\*\*([^*]+)\*\*(?:(?!\*\*|```).)*```python\n(.*?)```", PAGE, re.DOTALL)
    if "samples =" in code
}


def run(name: str, urls: list[str], **names: Any) -> list[Any]:
    scope: dict[str, Any] = {"urls": urls, **names}
    exec(CODE[name], scope)
    return list(iter(scope["samples"]))  # some say a length that they do not have


def test_every_reader_has_its_lines() -> None:
    assert [*CODE] == ["webdataset", "Hugging Face datasets", "torchdata", "litData", "Ray Data", "AIStore"]


@pytest.mark.parametrize("reader", ["webdataset", "Hugging Face datasets", "torchdata", "litData"])
def test_the_lines_read_every_sample(
    reader: str, urls: Urls, sources: Mapping[str, Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    assert len(run(reader, urls("plain"))) == len(sources["plain"])


ON_A_CLUSTER = """
# In a process of its own: what ends a node of Ray's ends its driver.
import hashlib, json, sys
import ray
code, *urls = json.loads(sys.stdin.read())
ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False)
scope = {"urls": urls}
exec(code, scope)
found = {row["__key__"]: hashlib.sha256(row["jpg"]).hexdigest() for row in scope["samples"]}
ray.shutdown()
print("\\n" + json.dumps(found))
"""


@pytest.mark.slow
def test_the_lines_on_ray_read_every_sample_on_a_cluster(urls: Urls, sources: Mapping[str, Samples]) -> None:
    pytest.importorskip("ray")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", ON_A_CLUSTER],
        input=json.dumps([CODE["Ray Data"], *urls("plain")]),
        env={**environment, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = {key: hashlib.sha256(sample["jpg"]).hexdigest() for key, sample in sources["plain"].items()}
    assert found == expected
