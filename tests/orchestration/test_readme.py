"""The README's dataset, command lines and scripts, and what docs/ print, as they stand there."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from shardmill import Dataset, DatasetSpec, LocalEngine, graph, open_shards
from tests.servers.gcs import GCSServer
from tests.servers.places import Place, credentials_file
from tests.servers.seaweedfs import S3Server

PETS = "orchestration/defs/pets/defs.yaml"


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


@pytest.fixture(scope="module")
def project(readme: str, repository: Path, new_project: Callable[[], Path], run_in: Callable[..., Any]) -> Path:
    """A checkout in which the README's dataset was scaffolded, written and given two partitions of images."""
    project = new_project()
    [line] = lines(readme, "dg scaffold")
    done = run_in(project, *shlex.split(line))
    assert done.returncode == 0, done.stdout
    assert "type: orchestration.component.ImageDataset" in (project / PETS).read_text()
    [declared] = re.findall(r"```yaml\n(type: .*?)```", readme, re.DOTALL)
    (project / PETS).write_text(declared.replace("/data/", f"{project}/data/"))
    for partition in ("2026-01", "2026-02"):
        raw = project / "data/pets" / partition
        raw.mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (300, 260, 3), np.uint8)
            Image.fromarray(pixels).save(raw / f"{partition}_{number}.jpg")
            Image.fromarray(pixels[..., 0] % 3).save(raw / f"{partition}_{number}.trimap.png")
    return project


def lines(text: str, start: str = "") -> list[str]:
    """The command lines in the code blocks of a text, without their comments."""
    found = re.findall(rf"^(?:\.venv/bin/)?({start or '(?:dagster|dg|shardmill) '}.*)$", text, re.MULTILINE)
    return [re.sub(r"\s+#.*", "", line) for line in found]


@pytest.mark.slow
def test_the_readme_s_command_lines_work_as_they_stand_there(
    readme: str, project: Path, run_in: Callable[..., Any], gcs_server: GCSServer, s3_server: S3Server, tmp_path: Path
) -> None:
    credentials, environment = bucket_credentials(project / "credentials.yaml", gcs_server, s3_server)
    done = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for line in lines(readme):
            if line.startswith("dg scaffold"):
                continue
            result = run_in(project, *shlex.split(line))
            assert result.returncode == 0, f"{line}\n{result.stdout}"
            done.append(line.split()[1])
    assert done == [
        *("asset", "plan", "run", "partitions", "verify", "show"),
        *("check-storage", "run", "gc"),
    ]
    assert credentials.exists()
    assert run_in(project, "dg", "check", "defs").returncode == 0
    assert open_shards(f"{project}/data/shardmill/pets/embeddings/2026-02").table().num_rows == 4


def bucket_credentials(file: Path, gcs: GCSServer, s3: S3Server) -> tuple[Path, dict[str, str]]:
    """For the README's two buckets, which local servers have."""
    import json

    from shardmill import GCSCredentials, S3Credentials

    gcs.make_bucket("partner-photographs")
    s3.make_bucket("ours")
    key = gcs.account("readme", {"partner-photographs": "rw"})
    keys = s3.identity("readme", *(f"{action}:ours" for action in ("Read", "List", "Write", "Tagging")))
    google = GCSCredentials(prefix="gs://partner-photographs", endpoint=gcs.url, service_account_json=json.dumps(key))
    amazon = S3Credentials(
        prefix="s3://ours",
        endpoint=s3.url,
        region=s3.region,
        access_key_id=keys.access_key_id,
        secret_access_key=keys.secret_access_key,
    )
    return credentials_file(file, Place("gs", google.prefix, (google,)), Place("s3", amazon.prefix, (amazon,)))


def test_the_readme_s_scripts_run_as_they_stand_there(readme: str, project: Path, run_in: Callable[..., Any]) -> None:
    """Last to first: the last makes what the others read."""
    for number, code in enumerate(reversed(re.findall(r"```python\n(.*?)```", readme, re.DOTALL))):
        script = project / f"script_{number}.py"
        script.write_text(code.replace("/data/", f"{project}/data/"))
        done = run_in(project, "python", "-W", "ignore", script.name)
        assert done.returncode == 0, f"{code}\n{done.stdout}"


def test_the_documented_stage_of_one_s_own_works(repository: Path, tmp_path: Path) -> None:
    text = (repository / "docs/datasets.md").read_text()
    section = text[text.index("### Samples and rows") : text.index("## Rejects")]
    [code], [declared] = (re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("python", "yaml"))
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/sharpness.py").write_text(code)
    (tmp_path / "raw").mkdir()
    for name, deviation in (("dull", 1), ("sharp", 90)):
        Image.effect_noise((40, 40), deviation).save(tmp_path / f"raw/{name}.jpg")
    fields = {"name": "d", "root": str(tmp_path / "root"), "source": {"uri": str(tmp_path / "raw")}}
    spec = DatasetSpec.model_validate({**fields, "partitions": ["p"], **yaml.safe_load(declared)})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        made = dict(graph.run(Dataset(spec), "p", LocalEngine(1)))
    rows = {row["key"]: row["sharpness"] for row in made["sharpness"].table().to_pylist()}
    assert rows["sharp"] > 100 * rows["dull"]


@pytest.mark.parametrize("page", ["docs/buckets.md", "docs/gpus.md", "docs/keeping-up-to-date.md", "deploy/README.md"])
def test_commands_that_the_docs_print_take_these_arguments(repository: Path, page: str) -> None:
    for line in lines((repository / page).read_text()):
        words = shlex.split(line)
        command = words[
            : 2
            if words[0] == "shardmill"
            else 1
            + next(
                (place for place, word in enumerate(words[1:]) if word.startswith("-") or "/" in word), len(words) - 1
            )
        ]
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        program = Path(sys.executable).with_name(command[0])
        usage = subprocess.run([program, *command[1:3], "--help"], capture_output=True, text=True, check=False)
        assert usage.returncode == 0, line
        assert flags <= set(re.findall(r"--[a-z-]+", usage.stdout)), line
