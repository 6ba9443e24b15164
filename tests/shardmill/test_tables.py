"""Reading tables starts no threads: those of arrow, once started, may abort the process when it ends."""

from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest

THREADS = """
import os, sys, time
import pyarrow.parquet, torch
from typer.testing import CliRunner
from shardmill.cli import app

def threads():
    return set(os.listdir("/proc/self/task"))

before = threads()
result = CliRunner().invoke(app, sys.argv[1:])
assert result.exit_code == 0, result.output
deadline = time.monotonic() + 30
while threads() - before and time.monotonic() < deadline:
    time.sleep(0.05)  # a thread that was joined takes a moment to be gone; arrow's stay
print(len(threads() - before))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, images, make_dataset, write_dataset, run_chain) -> Path:
    """A dataset file over a partition that is up to date."""
    base = tmp_path_factory.mktemp("tables")
    images(base / "raw", 20)
    run_chain(make_dataset(base / "raw", base / "root", embedder={}))
    return write_dataset(base / "d.yaml", base / "raw", base / "root")


@pytest.mark.parametrize("arguments", ["verify", "show p image_00005", "partitions", "run"])
def test_no_command_leaves_a_thread_behind(file: Path, start: Callable[..., Popen[str]], arguments: str) -> None:
    command, *rest = arguments.split()
    assert start(THREADS, command, str(file), *rest).communicate()[0] == "0\n"
