"""Batches: what is new is sealed by count and by age; no object is ever in two, and none is forgotten."""

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from shardmill.dataset.source import read_manifest
from shardmill.errors import ConfigurationError, ConflictError
from shardmill.partitions import read_batch, seal_batch, sealed_batches
from shardmill.watch.batching import Batching
from shardmill.watch.known import KnownObjects
from shardmill.watch.look import look
from shardmill.watch.state import State, Walk
from shardmill.watch.walks import Budget
from tests.servers.places import KINDS, Kind
from tests.shardmill.watch.conftest import Watch, Watched

MINUTE = 60.0


def batches(count: int = 3, minutes: float = 60) -> dict[str, Any]:
    return {"partitions": {"by": "batch", "max_objects": count, "max_age_minutes": minutes}, "template": "raw"}


def sealed(watched: Watched) -> dict[str, list[str]]:
    """Batch → names of its objects."""
    storage, home = watched.dataset.storage, watched.dataset.home
    base = f"{watched.dataset.partitioning.base}/"
    return {
        key: [uri.removeprefix(base) for uri in read_batch(storage, home, key).uris]
        for key in sealed_batches(storage, home)
    }


def committed_names(watched: Watched) -> list[str]:
    """Of the objects in all committed manifests, with the versions that are there now."""
    there = {info.uri: info.version for info in watched.source.storage.list(watched.dataset.partitioning.base)}
    found = []
    for key in watched.dataset.stored_partitions("raw_images"):
        stored = watched.dataset.stored("raw_images", key)
        assert stored
        for item in read_manifest(stored):
            assert there.get(item.uri) == item.version
            found.append(item.uri.rpartition("/")[2])
    return sorted(found)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_sealed_by_count_and_then_by_age(watch: Watch, kind: Kind) -> None:
    watched = watch(kind, **batches(3, 60))
    now = time.time() + MINUTE
    for number in range(7):
        watched.put(f"raw/x/{number}.jpg")
    found = watched.look(now)
    assert [item.partition for item in found.due] == ["batch-000001", "batch-000002"]
    assert found.waiting == 1
    assert "1 new objects wait for their batch" in str(found)
    watched.run("batch-000001", "batch-000002")
    assert watched.look(now + 59 * MINUTE).due == []
    assert watched.look_and_run(now + 61 * MINUTE) == ["batch-000003"]
    assert sealed(watched) == {
        "batch-000001": ["x/0.jpg", "x/1.jpg", "x/2.jpg"],
        "batch-000002": ["x/3.jpg", "x/4.jpg", "x/5.jpg"],
        "batch-000003": ["x/6.jpg"],
    }
    assert watched.look(now + 200 * MINUTE).due == []
    assert found.partitions == ["batch-000001", "batch-000002"]


def test_an_overwritten_object_stays_in_its_batch_and_a_deleted_one_leaves_it(watch: Watch) -> None:
    watched = watch(**batches(3))
    for name in "abcdef":
        watched.put(f"raw/{name}")
    assert watched.look_and_run() == ["batch-000001", "batch-000002"]
    before = sealed(watched)
    watched.put("raw/b", b"other")
    watched.delete("raw/d")
    found = watched.look()
    assert sorted(item.partition for item in found.due) == ["batch-000001", "batch-000002"]
    watched.run("batch-000001", "batch-000002")
    assert committed_names(watched) == ["a", "b", "c", "e", "f"]
    assert sealed(watched) == before
    watched.put("raw/d", b"again")
    assert watched.look_and_run() == ["batch-000002"]
    for name in "abc":
        watched.delete(f"raw/{name}")
    emptied = watched.look()
    assert ([item.partition for item in emptied.due], emptied.deleted) == (["batch-000001"], 1)
    watched.run("batch-000001")
    assert committed_names(watched) == ["d", "e", "f"]
    assert watched.look().due == []


def test_the_object_that_has_waited_longest_decides_when_a_batch_is_sealed(watch: Watch) -> None:
    watched = watch(**batches(10, 60))
    now = time.time() + MINUTE
    for minute, name in ((0, "a"), (50, "b")):
        watched.put(f"raw/{name}")
        assert watched.look(now + minute * MINUTE).due == []
    watched.look(now + 60 * MINUTE)
    assert sealed(watched) == {"batch-000001": ["a", "b"]}


def test_a_sample_waits_as_a_whole_for_the_last_of_its_components(watch: Watch) -> None:
    watched = watch(**batches(2, 0), quiet_seconds=60)
    now = time.time()
    for name, age in (("a.jpg", 300), ("a.txt", 10)):
        os.utime(watched.put(f"raw/{name}").removeprefix("file://"), (now - age, now - age))
    watched.look(now)
    assert sealed(watched) == {}
    watched.look(now + 51)
    assert sealed(watched) == {"batch-000001": ["a.jpg", "a.txt"]}


def test_an_object_that_is_announced_waits_and_one_whose_deletion_is_announced_does_not(watch: Watch) -> None:
    watched = watch(**batches(3))
    state = State()
    batching = Batching(watched.dataset, state, time.time())
    uris = [watched.put(f"raw/{name}") for name in "ab"]
    assert batching.look_at(uris) == []
    assert sorted(state.waiting) == uris
    watched.delete("raw/a")
    assert batching.look_at(uris) == []
    assert sorted(state.waiting) == uris[1:]


def test_a_batch_has_the_number_after_the_last_also_where_one_is_missing(watch: Watch) -> None:
    watched = watch(**batches(1))
    seal_batch(watched.dataset.storage, watched.dataset.home, 7, [])
    watched.put("raw/a")
    watched.look()
    assert sealed(watched) == {"batch-000007": [], "batch-000008": ["a"]}


def test_objects_that_are_still_being_written_stay_out_of_batches(watch: Watch) -> None:
    watched = watch(**batches(2, 0), quiet_seconds=60)
    now = time.time()
    for name, age in (("a", 300), ("b", 10), ("c", -9999999)):
        os.utime(watched.put(f"raw/{name}").removeprefix("file://"), (now - age, now - age))
    assert [item.partition for item in watched.look(now).due] == ["batch-000001"]
    assert sealed(watched) == {"batch-000001": ["a"]}
    watched.put("raw/b", b"more")
    os.utime(watched.source.uri.removeprefix("file://") + "/raw/b", (now + 40, now + 40))
    watched.look(now + 55)
    assert sealed(watched) == {"batch-000001": ["a"]}
    watched.look(now + 70)
    assert sealed(watched)["batch-000002"] == ["c"]  # its date is a mistake
    watched.look(now + 101)
    assert sealed(watched)["batch-000003"] == ["b"]


def test_an_object_that_is_deleted_while_it_waits_is_never_sealed(watch: Watch) -> None:
    watched = watch(**batches(3, 60))
    now = time.time() + MINUTE
    for name in "ab":
        watched.put(f"raw/{name}")
    assert watched.look(now).waiting == 2
    watched.delete("raw/a")
    assert watched.look(now + MINUTE).waiting == 1
    assert watched.look_and_run(now + 70 * MINUTE) == ["batch-000001"]
    assert sealed(watched) == {"batch-000001": ["b"]}


def test_more_objects_than_may_wait_are_not_forgotten(watch: Watch) -> None:
    watched = watch(**batches(3), quiet_seconds=60)
    for number in range(20):
        watched.put(f"raw/{number:02}")
    now = time.time()
    assert watched.look(now).waiting <= 6
    for step in range(9):
        watched.look_and_run(now + 100 + step)
    watched.look_and_run(now + 100 * MINUTE)
    assert len(committed_names(watched)) == 20


def test_the_sealing_of_a_look_that_died_is_neither_done_again_nor_forgotten(watch: Watch) -> None:
    watched = watch(**batches(3))
    for name in "ab":
        watched.put(f"raw/{name}")
    assert watched.look(objects=2).waiting == 2
    for name in "cde":
        watched.put(f"raw/{name}")
    died = watched.look(objects=2, keep=False)
    assert [item.partition for item in died.due] == ["batch-000001"]
    assert watched.look(objects=2).due == died.due
    watched.run("batch-000001")
    for _ in range(4):
        watched.look_and_run(objects=2)
    watched.put("raw/f")
    for _ in range(4):
        watched.look_and_run(objects=2)
    assert sealed(watched) == {"batch-000001": ["a", "b", "c"], "batch-000002": ["d", "e", "f"]}
    assert committed_names(watched) == list("abcdef")


def test_of_two_sealers_at_once_one_is_told_and_nothing_is_lost(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """As two processes would: each knows the batches that there were when it began."""
    watched = watch(**batches(2))
    for name in "abcd":
        watched.put(f"raw/{name}")

    def other() -> Batching:
        monkeypatch.setattr("shardmill.watch.known._kept", {})
        made = Batching(watched.dataset, State(), time.time())
        listing = iter(made.everything(Walk(), Budget(3600.0, 4)))
        assert next(listing).key == "batch-000001"
        return made

    late = Batching(watched.dataset, State(), time.time())
    other()
    with pytest.raises(ConflictError):
        list(late.everything(Walk(), Budget(3600.0, 4)))
    monkeypatch.setattr("shardmill.watch.known._kept", {})
    while watched.look_and_run():
        pass
    assert sealed(watched) == {"batch-000001": ["a", "b"], "batch-000002": ["c", "d"]}
    assert committed_names(watched) == list("abcd")


def test_objects_that_fit_no_pattern_are_in_no_batch(watch: Watch) -> None:
    watched = watch(**batches(2), source={"components": {"jpg": "{key}.jpg"}})
    for name in ("a.jpg", "a.txt", "b.jpg", "c.txt"):
        watched.put(f"raw/{name}")
    found = watched.look()
    assert found.outside.names == ["a.txt", "c.txt"]
    assert sealed(watched) == {"batch-000001": ["a.jpg", "b.jpg"]}


def test_a_name_that_is_no_utf8_keeps_no_other_object_out(watch: Watch) -> None:
    watched = watch(**batches(2))
    for name in ("a", "b\udce9", "c"):
        watched.put(f"raw/{name}")
    found = watched.look()
    assert found.outside.objects == 1
    assert sealed(watched) == {"batch-000001": ["a", "c"]}


def test_a_lost_cursor_costs_no_run_of_a_batch_that_is_right(watch: Watch) -> None:
    watched = watch(**batches(2))
    for name in "abcde":
        watched.put(f"raw/{name}")
    watched.look_and_run()
    watched.put("raw/b", b"other")
    watched.cursor = "x"
    found = watched.look()
    assert [item.partition for item in found.due] == ["batch-000001"]
    assert found.waiting == 1
    assert found.reconciled == "the cursor cannot be read"


def test_known_objects_are_found_among_many() -> None:
    known = KnownObjects()
    known.extend([(f"batch-{number:06}", [f"s3://b/{number}/{each}" for each in range(50)]) for number in range(1, 40)])
    known.add("batch-000040", ["s3://b/late"])
    wanted = [f"s3://b/{number}/{number}" for number in range(1, 40)]
    assert known.numbers([*wanted, "s3://b/late", "s3://b/none"]) == [*range(1, 40), 40, 0]
    assert known.numbers([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_every_object_is_in_one_batch(watch: Watch, seed: int) -> None:
    watched = watch(**batches(4, 30))
    draw = random.Random(seed)
    root = Path(watched.source.uri.removeprefix("file://"))
    now = time.time()
    for _ in range(40):
        for _ in range(draw.randrange(4)):
            name = f"raw/{draw.randrange(30):02}"
            if draw.random() < 0.75:
                watched.put(name, draw.randbytes(2))
            else:
                (root / name).unlink(missing_ok=True)
        if draw.random() < 0.1 and (batches_there := list(sealed(watched).values())):
            for name in draw.choice(batches_there):
                (root / "raw" / name).unlink(missing_ok=True)
        now += 5 * MINUTE
        options: dict[str, Any] = {"most": draw.randrange(1, 3), "objects": draw.randrange(1, 12)}
        if draw.random() < 0.2:
            died = look(
                watched.dataset,
                watched.cursor,
                most=9,
                budget=Budget(9.0, options["objects"]),
                now=lambda moment=now: moment,
            )
            assert len(died.cursor) < 200
        else:
            due = [item.partition for item in watched.look(now, **options).due]
            for key in due:
                batch = read_batch(watched.dataset.storage, watched.dataset.home, key)
                if watched.dataset.stored("raw_images", key) or list(batch.objects(watched.dataset.storage)):
                    watched.run(key)
        if draw.random() < 0.06:
            watched.cursor = draw.choice([None, "x"])
    for _ in range(12):
        now += 40 * MINUTE
        watched.look_and_run(now, objects=20)
    names = [name for batch in sealed(watched).values() for name in batch]
    assert len(names) == len(set(names))
    assert committed_names(watched) == sorted(file.name for file in (root / "raw").iterdir() if file.is_file())
    assert watched.look(now).due == []
    reasons = [item.reason for item in watched.asked]
    assert len(reasons) == len(set(reasons))


def test_the_components_of_a_sample_are_in_one_batch(watch: Watch) -> None:
    watched = watch(**batches(3))
    for number in range(5):
        for component in ("cls", "jpg"):
            watched.put(f"raw/{number}.{component}")
    for step in (0, 100):
        watched.look_and_run(time.time() + step * MINUTE)
    names = [name for batch in sealed(watched).values() for name in batch]
    assert len(names) == 10
    for batch in sealed(watched).values():
        assert len(batch) == 2 * len({name.partition(".")[0] for name in batch})


@pytest.mark.parametrize("minutes", [0, 60])
@pytest.mark.parametrize("objects", [1, 2, 3, 5])
def test_a_look_that_stops_within_a_sample_tears_it_not(watch: Watch, objects: int, minutes: float) -> None:
    watched = watch(**batches(3, minutes))
    for number in range(6):
        for component in ("cls", "jpg", "json"):
            watched.put(f"raw/{number}.{component}")
    for step in range(40):
        watched.look_and_run(4e9 + step * 10 * MINUTE, objects=objects)
    assert len(committed_names(watched)) == 18
    for batch in sealed(watched).values():
        assert len(batch) == 3 * len({name.partition(".")[0] for name in batch})


@pytest.mark.parametrize("objects", [1, 4, 100])
def test_where_many_objects_wait_a_sample_waits_whole(
    watch: Watch, objects: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects are taken in only while there is room: all of a sample, or none."""
    monkeypatch.setattr("shardmill.watch.batching._PAGE", 3)
    watched = watch(**batches(2, 0), quiet_seconds=60)
    now = time.time()
    for number in range(8):
        for component in ("cls", "jpg", "json"):
            file = watched.put(f"raw/{number}.{component}").removeprefix("file://")
            os.utime(file, (now - 100, now - 100 + 120 * (number % 3)))
    for step in range(80):
        watched.look_and_run(now + step * 10, objects=objects)
    assert len(committed_names(watched)) == 24
    for batch in sealed(watched).values():
        assert len(batch) == 3 * len({name.partition(".")[0] for name in batch})


@pytest.mark.parametrize("cursor", [None, "x"])
def test_a_batch_that_is_deleted_while_the_cursor_is_lost_is_emptied(watch: Watch, cursor: str | None) -> None:
    watched = watch(**batches(2))
    for name in "abcd":
        watched.put(f"raw/{name}")
    watched.look_and_run()
    for name in "ab":
        watched.delete(f"raw/{name}")
    watched.cursor = cursor
    assert watched.look_and_run() == ["batch-000001"]
    assert committed_names(watched) == ["c", "d"]
    assert watched.look().due == []


def test_batches_of_a_source_that_moved_are_left_alone(watch: Watch) -> None:
    watched = watch(**batches(2))
    for name in "abc":
        watched.put(f"raw/{name}")
        watched.put(f"new/{name}")
    watched.look_and_run()
    again = watch(at=watched.source, **{**batches(2), "template": "new"})
    again.cursor = watched.cursor
    found = again.look()
    assert [item.partition for item in found.due] == ["batch-000002"]
    assert "batch-000001 was made of objects elsewhere" in str(found)
    with pytest.raises(ConfigurationError, match=r"batch-000001 was made of objects elsewhere, such as .*/raw/a, not"):
        again.run("batch-000001")


def test_a_batch_is_looked_at_over_many_looks(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardmill.watch.batching._PAGE", 2)
    watched = watch(**batches(5))
    for number in range(5):
        watched.put(f"raw/{number}")
    assert watched.look_and_run() == ["batch-000001"]
    made = Batching(watched.dataset, State(), time.time())
    walk, looks = Walk(), 1
    while (tally := made.partition("batch-000001", walk, Budget(3600.0, 2))) is None:
        looks += 1
    assert (tally.objects, looks) == (5, 3)
