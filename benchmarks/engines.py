"""What an engine costs: a shard of nothing, and shards of some seconds on Ray beside the same on this machine alone.

    python -m benchmarks.engines [--engines local ray] [--shards 8] [--seconds 10] [--empty 200] [--rounds 3]

An engine is opened once, so that processes have started. Then rounds over all engines in turns, on new shards:
shards without work, whose time is the engine's own, and shards that hash for so many seconds, in one thread each.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from shardmill.concurrency import usable_cores
from shardmill.engines import ENGINES, Engine, choose_engine
from shardmill.engines.making import MakeShard, PlannedShard
from shardmill.shards.index import IndexWriter
from shardmill.shards.layout import Layout
from shardmill.shards.report import ShardReport
from shardmill.stages.stage import OutputFiles, Resources, Stage, Work
from shardmill.storage import Storage

_BLOCK = bytes(1 << 20)


@dataclass(frozen=True)
class Number:
    """A shard."""

    id: str
    start: str = ""
    samples: int = 1
    size: int = 1

    def identity(self) -> str:
        """Its number."""
        return self.id


@dataclass(frozen=True)
class Hash(Stage[Number]):
    """Hashes so many blocks, and keeps nothing."""

    blocks: int
    name = "hash"
    suffix = "tar"

    @property
    @override
    def resources(self) -> Resources:
        return Resources(threads=1)

    @override
    def __call__(self, shard: Number, work: Work) -> tuple[OutputFiles, ShardReport]:
        for _ in range(self.blocks):
            hashlib.sha256(_BLOCK)
        work.advance(shard.samples)
        return OutputFiles(None, IndexWriter()), ShardReport(samples_in=1, kept=0, filtered=1, samples=0)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["local", "ray"], help=f"of {', '.join(ENGINES)}, or addresses")
    parser.add_argument("--shards", type=int, default=8, help="with work")
    parser.add_argument("--seconds", type=float, default=10.0, help="of work a shard")
    parser.add_argument("--empty", type=int, default=200, help="shards without work")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=usable_cores())
    arguments = parser.parse_args(given)
    blocks = _blocks(arguments.seconds)
    took: dict[tuple[str, int], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        engines = {name: opened.enter_context(choose_engine(name, arguments.workers)) for name in arguments.engines}
        for name, engine in engines.items():
            _run(engine, Path(folder) / name / "start", 2 * arguments.workers, 0)
        for number in range(arguments.rounds):
            for name, engine in engines.items():
                for kind, count in ((0, arguments.empty), (blocks, arguments.shards)):
                    took[name, kind].append(_run(engine, Path(folder) / name / f"{number}-{kind}", count, kind))
    medians = {key: statistics.median(values) for key, values in took.items()}
    first = arguments.engines[0]
    print(f"{arguments.workers} threads, medians of {arguments.rounds} rounds")
    print(f"{'engine':24} {'ms a shard of nothing':>22} {f's, {arguments.shards} of {arguments.seconds:g} s':>18}")
    for name in engines:
        worked = medians[name, blocks]
        own = 1000 * medians[name, 0] / arguments.empty
        print(f"{name:24} {own:22.1f} {worked:18.1f}   {medians[first, blocks] / worked:.3f} of {first}")


def _blocks(seconds: float) -> int:
    """How many a core hashes in that time."""
    started, done = time.process_time(), 0
    while time.process_time() - started < 0.5:
        hashlib.sha256(_BLOCK)
        done += 1
    return max(1, round(done * seconds / (time.process_time() - started)))


def _run(engine: Engine, folder: Path, shards: int, blocks: int) -> float:
    """Seconds that it took."""
    make = MakeShard(Hash(blocks), Layout.at(f"file://{folder}/d/hash/p"))
    planned = [PlannedShard(Number(f"{number:06x}"), f"{number:064x}") for number in range(shards)]
    started = time.perf_counter()
    assert sum(1 for _ in engine.run(make, planned, Storage(), lambda _: None)) == shards
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
