"""Fixtures: a copy of the control plane with a small demo dataset of its own, and a way to run commands in it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardmill.demo import make_demo_dataset

REPOSITORY = Path(__file__).parents[1]
CONTROL_PLANE = ("shardmill", "resources", "assets", "orchestration", "workspace.yaml", "pyproject.toml")

Run = Callable[..., subprocess.CompletedProcess[str]]


def one_database(folder: Path) -> dict[str, Any]:
    """Of a Dagster instance: the events of all runs in one database, as in a deployment, and not in one a run."""
    name = "ConsolidatedSqliteEventLogStorage"
    events = {"module": "dagster._core.storage.event_log", "class": name, "config": {"base_dir": str(folder)}}
    return {"telemetry": {"enabled": False}, "event_log_storage": events}


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def new_project(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Copies the control plane's files into a new folder and returns that: a checkout, with no data.

    What Python has compiled of them goes along: it stays valid, and every process in the folder starts sooner.
    """

    def make() -> Path:
        folder = tmp_path_factory.mktemp("project")
        for name in CONTROL_PLANE:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))  # half written
            else:
                shutil.copy(source, folder / name)
        home = folder / ".dagster"
        home.mkdir()
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
        return folder

    return make


@pytest.fixture(scope="session")
def environment() -> Callable[[Path], dict[str, str]]:
    """Of a command in a project: its own code, its own Dagster instance, this virtual environment's programs."""

    def make(project: Path) -> dict[str, str]:
        programs = Path(sys.executable).parent
        return {
            **os.environ,
            "DAGSTER_HOME": str(project / ".dagster"),
            "PYTHONPATH": str(project),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "VIRTUAL_ENV": str(programs.parent),
        }

    return make


@pytest.fixture(scope="session")
def run_in(environment: Callable[[Path], dict[str, str]]) -> Run:
    """`run_in(project, "dg", "check", "defs")`: the finished process, its output in one string.

    `home` is the folder of another Dagster instance than the project's own.
    """

    def run(project: Path, program: str, *arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        own = Path(sys.executable).parent / program
        command = [str(own) if own.exists() else program, *arguments]
        return subprocess.run(
            command,
            cwd=project,
            env=environment(project) | ({"DAGSTER_HOME": str(home)} if home else {}),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def demo_project(new_project: Callable[[], Path]) -> Path:
    """A checkout with a small demo dataset: two views of a photograph a partition, and the planted faults.

    Its first two partitions hold two rejects of 35 samples each, more than the demo's max_reject_ratio; the third one.
    """
    project = new_project()
    make_demo_dataset(project / "data/demo/raw", views=2)
    return project
