"""Fixtures of the chain's tests: small real photographs, datasets over them, and what stands in a folder."""

import hashlib
import io
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from shardmill import graph
from shardmill.cli import app
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.engines import LocalEngine
from shardmill.shards.reader import ShardSet

CallCommand = Callable[..., subprocess.CompletedProcess[str]]
Files = Mapping[str, tuple[str, int]]
Images = Callable[..., list[str]]
MakeDataset = Callable[..., Dataset]
RunChain = Callable[..., dict[str, ShardSet]]
Snapshot = Callable[[Path], Files]
WriteModule = Callable[[str], str]
WriteDataset = Callable[..., Path]

SMALL: dict[str, Any] = {
    "name": "d",
    "partitions": ["p"],
    "shards": {"max_samples": 16},
    "embedder": {"model": "efficientnet-lite0"},
    "transform": {"operations": [{"operation": "CenterCrop", "arguments": {"size": 48}}]},
}
"""A dataset whose shards are small, so that a few samples make several."""


def _jpeg(number: int, size: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def images() -> Images:
    """`images(folder, 10)` writes ten different pairs of `.jpg` and `.cls`, and returns their keys."""

    def make(folder: Path, count: int, *, first: int = 0, size: int = 64) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        keys = [f"image_{number:05d}" for number in range(first, first + count)]
        for number, key in enumerate(keys, first):
            (folder / f"{key}.jpg").write_bytes(_jpeg(number, size))
            (folder / f"{key}.cls").write_text(str(number % 3))
        return keys

    return make


@pytest.fixture(scope="session")
def make_dataset(embedder_of_tests: dict[str, str]) -> MakeDataset:
    """`make_dataset(source, root, …)`: the dataset over the folder `source`, stored in `root`; for this process."""
    small = {**SMALL, "embedder": embedder_of_tests}

    def make(source: Path, root: Path, **fields: Any) -> Dataset:
        return Dataset(
            DatasetSpec.model_validate({**small, "root": str(root), "source": {"uri": str(source)}, **fields})
        )

    return make


@pytest.fixture(scope="session")
def write_dataset() -> WriteDataset:
    """Like `make_dataset`, as a YAML file for the command line."""

    def make(file: Path, source: Path, root: Path, **fields: Any) -> Path:
        declared = {**SMALL, "root": str(root), "source": {"uri": str(source)}, **fields}
        file.write_text(yaml.safe_dump({"attributes": declared}))
        return file

    return make


@pytest.fixture(scope="session")
def run_chain() -> RunChain:
    """Bring a dataset's partition up to date as far as `last`, in this process."""

    def run(
        dataset: Dataset, partition: str = "p", *, workers: int = 2, last: str = "embedding_map"
    ) -> dict[str, ShardSet]:
        made: dict[str, ShardSet] = {}
        for asset, shards in graph.run(dataset, partition, LocalEngine(workers)):
            made[asset] = shards
            if asset == last:
                break
        return made

    return run


@pytest.fixture(scope="session")
def snapshot() -> Snapshot:
    """Name → (sha256, mtime) of every file below a folder, but for locks."""

    def take(folder: Path) -> Files:
        return {
            file.relative_to(folder).as_posix(): (
                hashlib.sha256(file.read_bytes()).hexdigest(),
                file.stat().st_mtime_ns,
            )
            for file in folder.rglob("*")
            if file.is_file() and file.name != ".shardmill-lock"
        }

    return take


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    """Write an importable module of this source; returns its name. Workers and subprocesses can import it too."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")

    def write(source: str) -> str:
        name = f"custom_{uuid.uuid4().hex}"
        (folder / f"{name}.py").write_text(dedent(source))
        return name

    return write


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The `shardmill` command, for a subprocess."""
    return [sys.executable, "-m", "shardmill.cli"]


@pytest.fixture(scope="session")
def call_command() -> CallCommand:
    """`call_command("run", file, VARIABLE="value")`: the `shardmill` command in this process, as if it had been one."""

    def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        done = CliRunner().invoke(app, [*map(str, arguments)], env=environment)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    return call
