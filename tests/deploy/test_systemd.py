"""The units and what they start: systemd accepts them, and together they bring a run to its end."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.conftest import DEPLOY, MakeInstance
from tests.deploy.services import Services

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROGRAMS = "/opt/shardmill/.venv/bin"
HERE = str(Path(sys.executable).parent)


def exec_start(unit: Path) -> list[str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(unit)
    return shlex.split(parser["Service"]["ExecStart"])


def verified(folder: Path) -> str:
    """What systemd has to say about the units: nothing, if they are right."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine: install Debian's systemd")
    for unit in UNITS:
        (folder / unit.name).write_text(unit.read_text().replace(PROGRAMS, HERE))
    command = ["systemd-analyze", "verify", *(str(folder / unit.name) for unit in UNITS)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    assert verified(tmp_path) == ""


def test_the_environment_has_every_variable_that_the_instance_reads(deploy: Path) -> None:
    read = set(re.findall(r"env: (\w+)", (deploy / "dagster.yaml").read_text()))
    given = set(re.findall(r"^#?(\w+)=", (deploy / "systemd/environment.example").read_text(), re.MULTILINE))
    assert read <= given


@pytest.mark.slow
def test_the_services_bring_runs_to_their_end_and_see_a_new_dataset_after_a_reload(
    deploy: Path, new_project: Callable[[], Path], make_instance: MakeInstance
) -> None:
    project, instance = new_project(), make_instance()
    photographs = project / "data/demo/raw/2026-01"
    photographs.mkdir(parents=True)
    (photographs / "cat.jpg").write_bytes(b"listed, not read")
    paths = {
        PROGRAMS: HERE,
        "/opt/shardmill/deploy/systemd/workspace.yaml": str(project / "workspace.yaml"),
        "/opt/shardmill": str(project),
    }
    with Services(project, instance, deploy / "systemd/workspace.yaml", paths) as services:
        for unit in UNITS:
            services.start(unit.stem, exec_start(unit))
        run = services.submit(["demo", "raw_images"], "2026-01")
        services.wait_for(run, "SUCCESS")
        assert instance.rows("SELECT run_id, status FROM runs") == [(run, "SUCCESS")]

        datasets = project / "orchestration/defs"
        shutil.copytree(datasets / "demo", datasets / "more")
        file = datasets / "more/defs.yaml"
        file.write_text(file.read_text().replace("name: demo", "name: more"))
        services.reload()
        services.wait_for(services.submit(["more", "raw_images"], "2026-01"), "SUCCESS")
