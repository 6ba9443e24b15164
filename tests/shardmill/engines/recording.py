"""A stage that takes its time, writes down what it does and where, and misbehaves when told: it needs no library."""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardmill.devices import GPUSpec
from shardmill.engines import choose_engine
from shardmill.engines.making import MakeShard, PlannedShard
from shardmill.errors import ConfigurationError
from shardmill.graph import LazyShardSet
from shardmill.shards.index import Source
from shardmill.shards.layout import Layout
from shardmill.shards.reader import ShardSet
from shardmill.shards.report import ShardReport
from shardmill.stages.counts import Counts
from shardmill.stages.outputs import TarOutput
from shardmill.stages.stage import OutputFiles, Resources, Stage, Work
from shardmill.storage import Storage

STEPS = 10
"""Samples of a shard."""


@dataclass(frozen=True)
class Number:
    """A shard."""

    id: str
    start: str = ""
    samples: int = STEPS
    size: int = 1

    def identity(self) -> str:
        return self.id


@dataclass(frozen=True)
class Record(Stage[Number]):
    """Makes a tar of ten texts in `seconds`, or at once where there is a file `hurry`."""

    log: str
    seconds: float = 0.0
    gpus: GPUSpec | None = None
    fault: str = ""
    """`<shard> error` or `<shard> dies`: what happens in the midst of that shard."""

    name = "record"
    suffix = "tar"

    @property
    def resources(self) -> Resources:
        return Resources(threads=1, gpus=self.gpus)

    def __call__(self, shard: Number, work: Work) -> tuple[OutputFiles, ShardReport]:
        counts = Counts(shard, work)
        with self._recorded(shard), TarOutput(work) as output:
            for step in range(shard.samples):
                if not (Path(self.log) / "hurry").exists():
                    time.sleep(self.seconds / shard.samples)
                self._fail(shard, step)
                key, text = f"{shard.id}-{step}", f"{shard.id} {step}".encode()
                digest = hashlib.sha256(text).hexdigest()
                output.add(key, "txt", text, digest, Source(f"file:///{key}.txt", "1", digest))
                output.samples += 1
                counts.done()
        return output.result(counts)

    @contextmanager
    def _recorded(self, shard: Number) -> Iterator[None]:
        use = {"shard": shard.id, "pid": os.getpid(), "begin": time.monotonic(), "node": os.environ.get("NODE", "")}
        use["device"] = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        (Path(self.log) / f"{shard.id}.{os.getpid()}.{time.monotonic_ns()}.begun").touch()
        yield
        use["end"] = time.monotonic()
        with (Path(self.log) / "log").open("a") as stream:
            stream.write(json.dumps(use) + "\n")

    def _fail(self, shard: Number, step: int) -> None:
        if step == shard.samples // 2 and self.fault == f"{shard.id} dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == shard.samples // 2 and self.fault == f"{shard.id} error":
            raise ConfigurationError("the operation is wrong")


def numbers(count: int) -> list[Number]:
    return [Number(f"{number:06x}") for number in range(count)]


def lazy(log: Path, count: int, **fields: Any) -> LazyShardSet:
    """So many shards, to be made."""
    log.mkdir(parents=True, exist_ok=True)
    return LazyShardSet(Record(str(log), **fields), numbers(count))


def planned(log: Path, folder: str, count: int, **fields: Any) -> tuple[MakeShard, list[PlannedShard]]:
    """What an engine is given."""
    shards = lazy(log, count, **fields)
    pairs = zip(shards.inputs, shards.fingerprints, strict=True)
    return MakeShard(shards.stage, Layout.at(folder)), [PlannedShard(*pair) for pair in pairs]


def uses(log: Path) -> list[dict[str, Any]]:
    """What was made."""
    return [json.loads(line) for line in (log / "log").read_text().splitlines()] if (log / "log").exists() else []


def begun(log: Path) -> list[str]:
    """Shards that were begun, as often as they were."""
    return [file.name.partition(".")[0] for file in log.glob("*.begun")]


def drive(engine: str, log: Path, count: int, **fields: Any) -> ShardSet:
    """Make them, in a folder beside the log, and say so."""
    with choose_engine(engine, None, lambda text: print(text, file=sys.stderr)) as opened:
        folder = f"file://{log.parent}/root/d/record/{log.name}"
        return lazy(log, count, **fields).write(Storage(), folder, f"d/record/{log.name}", opened)
