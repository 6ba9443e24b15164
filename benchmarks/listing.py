"""Listing and planning a partition of many objects: CPU seconds and peak memory of each step.

    python -m benchmarks.listing [--objects 1000000] [--components 1 3] [--source gcs local table]

Each number of objects is listed and planned in a process of its own, also a tenth of them, so that what grows faster
than the number shows. Buckets are a listing server on this machine (tests/servers/listing.py), folders hold empty
files, tables name objects that nobody may ask for. The seconds are those of this process, without the server's. Peaks
are of the whole process, its libraries included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.library import declared
from shardmill import LocalEngine, Planner, graph
from shardmill.graph import states
from shardmill.sources import SampleNames
from shardmill.storage import GCSCredentials, Storage
from shardmill.watch import look
from tests.servers.listing import BUCKET, FIRST_DAY, ListingServer

SUFFIXES = ("cls", "jpg", "json")


def main(given: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = {"gcs": bucket, "local": folder, "table": table}
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--components", type=int, nargs="+", default=[1, 3], help="of a sample")
    parser.add_argument("--source", nargs="+", choices=list(sources), default=["gcs"])
    parser.add_argument("--folder", type=Path, help="where folders are made")
    parser.add_argument("--spec", type=json.loads, help=argparse.SUPPRESS)  # what a child process lists
    arguments = parser.parse_args(given)
    if arguments.spec is not None:
        for figures in measured(arguments.spec):
            print(json.dumps(figures), flush=True)
        return
    for name in arguments.source:
        for components in arguments.components:
            suffixes = SUFFIXES[:components] if components > 1 else ("jpg",)
            print(f"\n{name}, {components} objects a sample: {arguments.objects:,} objects")
            print("step                              seconds  of a tenth   peak MB  of a tenth")
            runs = []
            for objects in (arguments.objects // 10, arguments.objects):
                with (
                    tempfile.TemporaryDirectory(dir=arguments.folder) as place,
                    sources[name](Path(place), objects, suffixes) as spec,
                ):
                    runs.append(in_its_own_process({"root": f"{place}/made", **spec}))
            for few, many in zip(*runs, strict=True):
                print(
                    f"{many['step']:32} {many['seconds']:8.2f} {many['seconds'] / max(few['seconds'], 1e-3):11.1f} "
                    f"{many['peak']:9.0f} {many['peak'] / few['peak']:11.1f}"
                )


def in_its_own_process(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """What `measured` gives."""
    command = [sys.executable, "-m", "benchmarks.listing", "--spec", json.dumps(spec)]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def measured(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each step its name, CPU seconds of this process, and its peak in MB."""
    storage = Storage((GCSCredentials(endpoint=spec.pop("endpoint", None), anonymous=True),))
    dataset = declared({"name": "d", "partitions": ["p"], **spec}, storage)
    planner, engine = Planner(dataset), LocalEngine(1)
    raw, packed = (planner.graph[name] for name in ("raw_images", "webdataset_shards"))
    clock = Clock()
    if dataset.spec.source.uri:
        names, place = SampleNames(dataset.spec.source), dataset.partitioning.folder("p", storage)
        for _ in storage.list(place, passed_over=names.passed_over(place)):
            pass
        yield clock.step("storage.list")
    lazy = planner.plan(raw, "p", {})
    yield clock.step("list: names, manifest, dots")
    listed = graph.write(dataset, raw, "p", lazy, engine)
    del lazy
    yield clock.step("write: digests, Parquet, commit")
    graph.make(planner, raw, "p", {}, engine)
    yield clock.step("list again: nothing to do")
    lazy = planner.plan(packed, "p", {raw.name: listed})
    yield clock.step("cut into shards")
    lazy.fingerprints  # noqa: B018
    yield clock.step("fingerprints of the shards")
    folder = dataset.folder(packed.name, "p")
    assert len(lazy.missing(storage, dataset.layout(packed.name, "p"), None, lazy.standing(storage, folder, None)))
    yield clock.step("what stands, what is missing")
    del lazy
    for _ in states(planner, "p"):
        pass
    yield clock.step("shardmill plan: all of the above")
    if dataset.spec.source.uri:
        cursor = None
        while (found := look(dataset, cursor, most=1)).listing:
            cursor = found.cursor
        yield clock.step("the sensor looks at everything")


class Clock:
    """CPU time and peak memory since the last step."""

    def __init__(self) -> None:
        self._begin()

    def step(self, name: str) -> dict[str, Any]:
        """What it took."""
        seconds = time.process_time() - self._started
        # Not `getrusage`: its maximum is that of the process that started this one, if that was larger.
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
        self._begin()
        return {"step": name, "seconds": seconds, "peak": int(line.split()[1]) * 1024 / 1e6}

    def _begin(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._started = time.process_time()


@contextmanager
def bucket(_: Path, objects: int, suffixes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A bucket of ten folders."""
    with ListingServer(objects, 10, suffixes) as server:
        yield {"endpoint": server.url, "source": {"uri": f"gs://{BUCKET}/raw"}}


@contextmanager
def folder(place: Path, objects: int, suffixes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A folder with a folder for each thousand samples."""
    for number in range(objects // len(suffixes)):
        name = place / f"raw/{FIRST_DAY}-{number // 1000:04}/IMG_{number:07}"
        if number % 1000 == 0:
            name.parent.mkdir(parents=True)
        for suffix in suffixes:
            os.close(os.open(f"{name}.{suffix}", os.O_CREAT | os.O_WRONLY))
    yield {"source": {"uri": str(place / "raw")}}


@contextmanager
def table(place: Path, objects: int, suffixes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A CSV with a row an object and three columns beside its URI."""
    with (place / "table.csv").open("w") as file:
        file.write("uri,cls,width,caption\n")
        for number in range(objects):
            sample, which = divmod(number, len(suffixes))
            row = f"{sample % 1000},{sample % 800},a photograph of number {sample}"
            file.write(f"s3://elsewhere/raw/{FIRST_DAY}/IMG_{sample:07}.{suffixes[which]},{row}\n")
    yield {"source": {"table": str(place / "table.csv")}}


if __name__ == "__main__":
    main()
