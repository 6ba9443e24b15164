"""Reading tables starts no threads: those of arrow, once started, may abort the process when it ends."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest

THREADS = """
import json, os, sys, time
import pyarrow.parquet, torch
from typer.testing import CliRunner
from shardmill.cli import app

def threads():
    return set(os.listdir("/proc/self/task"))

left = {}
for command, *arguments in json.loads(sys.argv[1]):
    before = threads()
    result = CliRunner().invoke(app, [command, *arguments])
    assert result.exit_code == 0, result.output
    deadline = time.monotonic() + 30
    while threads() - before and time.monotonic() < deadline:
        time.sleep(0.05)  # a thread that was joined takes a moment to be gone; arrow's stay
    left[command] = len(threads() - before)
print(json.dumps(left))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, images, make_dataset, write_dataset, run_chain) -> Path:
    """A dataset file over a partition that is up to date."""
    base = tmp_path_factory.mktemp("tables")
    images(base / "raw", 20)
    run_chain(make_dataset(base / "raw", base / "root", embedder={}))
    return write_dataset(base / "d.yaml", base / "raw", base / "root")


def test_no_command_leaves_a_thread_behind(file: Path, start: Callable[..., Popen[str]]) -> None:
    commands = [["verify", file], ["show", file, "p", "image_00005"], ["partitions", file], ["run", file]]
    output, _ = start(THREADS, json.dumps(commands, default=str)).communicate()
    assert json.loads(output) == {"verify": 0, "show": 0, "partitions": 0, "run": 0}
