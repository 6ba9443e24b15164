"""The steps that are measured: of one partition, and of a dataset of many."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.simulation.dataset import Committed, NothingMade, made, simulated, stand, store_of
from shardmill import Dataset, graph
from shardmill.graph import Planner, states, why_stale
from shardmill.graph.orphans import remove_orphans
from shardmill.watch import look

SOME = 20
"""Partitions on which is tried what is done to each."""
MOST = 100
"""Partitions that one look may find due."""


class Meter:
    """CPU time, requests and peak memory since the step before, without what the bucket took."""

    def __init__(self, dataset: Dataset) -> None:
        self.store = store_of(dataset)
        self._begin()

    def step(self, name: str, times: int = 1, note: str = "") -> dict[str, Any]:
        """Of one, where the step was taken so many times."""
        seconds = (time.process_time() - self._started - self.store.seconds) / times
        requests = {kind: round(number / times, 1) for kind, number in self.store.requests.items()}
        # Not `getrusage`: its maximum is that of the process that started this one, if that was larger.
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
        peak = int(line.split()[1]) * 1024 / 1e6
        self._begin()
        return {"step": name, "seconds": seconds, "requests": requests, "peak": peak, "note": note}

    def _begin(self) -> None:
        self.store.requests.clear()
        self.store.seconds = 0.0
        Path("/proc/self/clear_refs").write_text("5")
        self._started = time.process_time()


def measured(what: str, **options: Any) -> Iterator[dict[str, Any]]:
    """The steps of a partition or of a dataset."""
    yield from of_a_partition(**options) if what == "partition" else of_a_dataset(**options)


def of_a_partition(objects: int) -> Iterator[dict[str, Any]]:
    """One partition of so many objects."""
    made(simulated(["p"], 10), "p")  # libraries are imported
    dataset = simulated(["p"], objects)
    planner, engine = Planner(dataset), NothingMade()
    raw, packed = (planner.graph[name] for name in ("raw_images", "webdataset_shards"))
    planner.check("p")
    meter = Meter(dataset)
    planner.plan(raw, "p", {})
    yield meter.step("list: names, manifest")
    listed = graph.make(planner, raw, "p", {}, engine)
    yield meter.step("list and commit raw_images")
    lazy = planner.plan(packed, "p", {raw.name: listed})
    lazy.fingerprints  # noqa: B018
    yield meter.step("plan webdataset_shards")
    del lazy
    shards = graph.make(planner, packed, "p", {raw.name: listed}, engine)
    size = len(shards.commit.to_json())
    yield meter.step(
        "plan and commit webdataset_shards", note=f"{len(shards.commit.shards)} shards, index.json {size / 1e3:.0f} kB"
    )
    for asset in list(planner.graph)[2:]:
        sets = {
            name: dataset.stored(name, "p" if planner.graph[name].scope == "partition" else "all")
            for name in asset.inputs
        }
        graph.make(planner, asset, "p", {name: found for name, found in sets.items() if found}, engine)
    meter.step("")
    store_of(dataset).formulas[0].each += 1
    again = graph.make(planner, packed, "p", {raw.name: graph.make(planner, raw, "p", {}, engine)}, engine)
    yield meter.step("one object more: list, plan and commit both", note=f"{again.made} shards made")
    for _ in states(planner, "p"):
        pass
    yield meter.step("states: five assets")
    list(why_stale(planner, "p"))
    yield meter.step("staleness")


def of_a_dataset(partitions: int, objects: int, watched: int) -> Iterator[dict[str, Any]]:
    """So many partitions of so many objects; the sensor walks over `watched` objects of each."""
    keys = [f"p{number:05}" for number in range(partitions)]
    dataset = simulated(keys, objects)
    commits = made(dataset, keys[0])
    stand(dataset, keys, commits, 1, partitions - 2)
    whole, one = keys[:-1][:SOME], keys[-1]
    meter = Meter(dataset)
    graph.beside_partitions(dataset)
    yield meter.step("what lies beside the partitions")
    dataset.known_partitions()
    yield meter.step("the partitions, by prefix: those in the source, and those that were made")
    dataset.commits("webdataset_shards")
    yield meter.step("the commits of an asset")
    for _ in states(Planner(dataset), keys[0]):
        pass
    yield meter.step("states of a partition that is up to date")
    for _ in states(Planner(dataset), one):
        pass
    yield meter.step("states of a partition that is not made")
    planner = Planner(dataset)
    for key in whole:
        assert not list(why_stale(planner, key))
    yield meter.step("staleness of a partition", len(whole))
    planner = Planner(_with(dataset, embedder={"normalize": True}))
    for key in whole:
        assert list(why_stale(planner, key))
    yield meter.step("staleness of some partitions, where the model was changed", note=f"{len(whole)} partitions")
    for _ in graph.run(Planner(dataset), one, NothingMade()):
        pass
    yield meter.step("run a new partition, but for the bytes")
    for _ in remove_orphans(dataset, 3600, dry_run=True):
        pass
    yield meter.step("gc, dry run")
    yield from _watched(keys, watched)
    yield from _watched_by_hour(len(keys), watched)
    meter.step("")
    found = look(dataset, None, most=MOST)
    yield meter.step("the sensor: objects in one look", note=f"{found.scanned:,} objects listed")
    from benchmarks.simulation.control_plane import of_dagster

    yield from of_dagster(dataset, keys, meter)


def _watched(keys: list[str], each: int) -> Iterator[dict[str, Any]]:
    """The sensor, from its first look on; what it asks for is made at once."""
    dataset = simulated(keys, each)
    committed = stand(dataset, keys, made(dataset, keys[0]), 1, len(keys) - 1)
    committed.contents = {}
    meter = Meter(dataset)
    cursor, note = _looks(dataset, committed, None, time.time())
    yield meter.step("the sensor: until all is listed and made", note=note)
    found = look(dataset, cursor, most=MOST)
    yield meter.step("the sensor: a look, nothing new", note=f"{found.scanned:,} objects listed")
    _, note = _looks(dataset, committed, found.cursor, time.time() + 25 * 3600)
    yield meter.step("the sensor: reconciling", note=note)


def _watched_by_hour(count: int, each: int) -> Iterator[dict[str, Any]]:
    keys = hours(count)
    spec = {"by": "time", "every": "hour", "start": keys[0][:10]}
    dataset = simulated(keys, each, spec, "%Y-%m-%d-%H", sensor={"quiet_seconds": 0, "late_hours": 5})
    committed = stand(dataset, keys, made(dataset, keys[0]), 1, count - 1)
    committed.contents = {}
    cursor, _ = _looks(dataset, committed, None, time.time())
    meter = Meter(dataset)
    found = look(dataset, cursor, most=MOST)
    yield meter.step("the sensor, by hour: a look, nothing new", note=f"{found.scanned:,} objects listed")
    dataset.partitions()
    yield meter.step("the partitions, by hour")


def _looks(dataset: Dataset, committed: Committed, cursor: str | None, now: float) -> tuple[str, str]:
    """Look until everything is listed and made. Returns the cursor, and what to say of it."""
    looks = longest = 0.0
    assert committed.contents is not None
    while True:
        started = time.process_time()
        found = look(dataset, cursor, most=MOST, now=lambda: now)
        longest, looks, cursor = max(longest, time.process_time() - started), looks + 1, found.cursor
        for due in found.due:
            committed.contents[due.partition] = due.reason.split()[1]
        if not (found.listing or found.due or found.pending):
            return cursor, f"{looks:.0f} looks, the longest {longest:.2f} s, cursor of {len(cursor)} characters"


def _with(dataset: Dataset, **fields: Any) -> Dataset:
    """The same dataset, declared otherwise."""
    spec = type(dataset.spec).model_validate({**dataset.spec.model_dump(exclude_unset=True), **fields})
    return Dataset(spec, dataset.storage)


def hours(count: int) -> list[str]:
    """The keys of so many hours up to now."""
    last = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return [f"{last - timedelta(hours=number):%Y-%m-%d-%H}" for number in reversed(range(count))]
