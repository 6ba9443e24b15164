"""Fixtures that every test may use: a storage, a folder on it, processes that run a piece of code, simulated GPUs."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from hypothesis import HealthCheck, settings

from shardmill.images import once
from shardmill.storage import Storage

# Several test processes share the cores: torch's own threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job ignores Ctrl-C, and so would all that the tests start, Ctrl-C being one of the things tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "tests.projects",
    "tests.small_embedder",
    "tests.tiny_clip",
    "tests.servers.fixtures",
    "tests.servers.places",
]

# The same examples in every run: what fails here fails everywhere. No database in the working tree.
settings.register_profile(
    "shardmill", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shardmill")

LONGEST_FIRST = (
    "tests/deploy/test_endurance.py",
    "tests/shardmill/engines/test_ray_nodes.py",
    "tests/shardmill/engines/test_kills.py",
    "tests/shardmill/graph/test_random_walks.py",
    "tests/orchestration/test_browser.py",
    "tests/test_secrets.py",
    "tests/orchestration/test_executors.py",
    "tests/orchestration/test_new_objects.py",
    "tests/orchestration/test_backfills.py",
    "tests/shardmill/storage/test_faults.py",
    "tests/shardmill/engines/test_interruption.py",
    "tests/shardmill/shards/test_reader.py",
    "tests/orchestration/test_materialize.py",
    "tests/shardmill/test_buckets.py",
    "tests/shardmill/stages/test_races.py",
    "tests/shardmill/stages/test_concurrent_runs.py",
    "tests/shardmill/test_passing_faults.py",
    "tests/shardmill/engines/test_local.py",
    "tests/shardmill/loading/test_workers.py",
    "tests/deploy/test_instance.py",
)
"""Modules that take longest: begun early, none is left for one process at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        module = item.nodeid.partition("::")[0]
        return LONGEST_FIRST.index(module) if module in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=rank)


Write = Callable[..., str]
Start = Callable[..., subprocess.Popen[str]]
Simulate = Callable[..., list[str]]


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks() -> Iterator[None]:
    """What a test writes need not outlive a power cut: neither files of ours nor Dagster's databases."""

    def never_wait(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", never_wait)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", never_wait)


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """URI of an empty folder."""
    return f"file://{tmp_path}"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often embedders had which image decoded."""
    counts: Counter[bytes] = Counter()
    given = once.decode_image

    def count(data: bytes, *rest: Any) -> Any:
        counts[data] += 1
        return given(data, *rest)

    monkeypatch.setattr(once, "decode_image", count)
    return counts


@pytest.fixture
def nobody(tmp_path: Path) -> Callable[[], AbstractContextManager[None]]:
    """`with nobody():` may not read what the permissions of files below `tmp_path` forbid, whoever runs the tests."""

    @contextmanager
    def act() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        for folder in tmp_path.parents:
            if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
                folder.chmod(folder.stat().st_mode | 0o011)
        tmp_path.chmod(0o777)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return act


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("a/b.jpg", b"data")` makes a file in `folder` and returns its URI."""

    def make(name: str, data: bytes = b"data") -> str:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return f"file://{file}"

    return make


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python processes that run `code` with `arguments`; kills those that are still there after the test."""
    processes: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def simulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulate:
    """`simulate(4, memory=24)`: devices of so many GiB for this process and those that it starts. Returns the UUIDs."""
    monkeypatch.setenv("SHARDMILL_DEVICE_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(count: int, memory: int = 24) -> list[str]:
        uuids = [f"GPU-{letter * 8}-0000-4000-8000-000000000000" for letter in "abcdef"[:count]]
        lines = (
            "\n".join(f"{index}, {uuid}, {memory * 1024}" for index, uuid in enumerate(uuids))
            or "No devices were found"
        )
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
        program.chmod(0o755)
        return uuids

    return make
