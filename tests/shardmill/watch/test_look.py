"""A look at a source: what is due, over many looks with small budgets, and whatever becomes of the cursor."""

import gzip
import os
import random
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardmill.dataset.source import read_manifest
from shardmill.errors import ConfigurationError, CorruptionError, StorageError
from shardmill.shards.layout import Layout
from shardmill.watch import look
from shardmill.watch.state import Cursor
from tests.servers.places import BUCKETS, KINDS, Kind
from tests.shardmill.watch.conftest import Watch, Watched

DAY = 86400.0


def state_files(watched: Watched) -> list[Path]:
    """The states, and the parts that they name."""
    return sorted(Path(watched.dataset.home.removeprefix("file://"), "_shardmill/sensor").glob("*.gz"))


def commit_file(watched: Watched, partition: str) -> Path:
    return Path(Layout.at(watched.dataset.folder("raw_images", partition)).commit.removeprefix("file://"))


def due(watched: Watched, **options: object) -> list[str]:
    return sorted(watched.look_and_run(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_new_changed_and_deleted_objects_make_their_partitions_due_once(watch: Watch, kind: Kind) -> None:
    watched = watch(kind)
    for name in ("a/1.jpg", "a-b/1.jpg", "a/sub/2.jpg", "é ,/1.jpg"):
        watched.put(name)
    first = watched.look()
    assert sorted(item.partition for item in first.due) == ["a", "a-b", "~C3~A9~20~2C"]
    assert (first.scanned, first.new, first.changed, first.deleted, first.pending) == (4, 3, 0, 0, 0)
    assert first.reconciled == "the first look"
    watched.run(*(item.partition for item in first.due))

    watched.put("a/3.jpg")
    watched.put("a-b/1.jpg", b"other")
    second = watched.look()
    assert sorted(item.partition for item in second.due) == ["a", "a-b"]
    assert (second.scanned, second.new, second.changed, second.deleted) == (5, 0, 2, 0)
    watched.run("a", "a-b")

    watched.delete("a/1.jpg")
    watched.delete("a-b/1.jpg")
    third = watched.look()
    assert sorted(item.partition for item in third.due) == ["a", "a-b"]
    assert (third.changed, third.deleted) == (1, 1)
    assert sorted(third.partitions) == ["a", "~C3~A9~20~2C"]
    watched.run("a", "a-b")

    for _ in range(3):
        quiet = watched.look()
        assert (quiet.due, quiet.new, quiet.changed, quiet.deleted, quiet.pending) == ([], 0, 0, 0, 0)
    assert watched.committed() == watched.there()
    assert len({item.reason for item in watched.asked}) == len(watched.asked)


@pytest.mark.parametrize("kind", KINDS)
def test_a_listing_is_finished_over_many_looks(watch: Watch, kind: Kind) -> None:
    watched = watch(kind)
    for partition in ("a", "b", "c-d", "c"):
        for number in range(4):
            watched.put(f"{partition}/{number}.jpg")
    scanned, going_on, asked = [], [], []
    for _ in range(6):
        found = watched.look(objects=3)
        scanned.append(found.scanned)
        going_on.append(found.listing is not None)
        asked += [item.partition for item in found.due]
        watched.run(*(item.partition for item in found.due))
    assert scanned == [3, 3, 3, 3, 3, 1]
    assert going_on == [True] * 5 + [False]
    assert sorted(asked) == ["a", "b", "c", "c-d"]
    assert watched.committed() == watched.there()


def test_what_appears_behind_the_listing_is_found_by_the_next(watch: Watch) -> None:
    watched = watch()
    for name in ("b/1", "b/2", "c/1", "c/2"):
        watched.put(name)
    assert watched.look(objects=2).listing
    watched.put("a/1")
    watched.put("b/0")
    for _ in range(8):
        watched.look_and_run(objects=2)
    assert watched.committed() == watched.there()


def test_no_more_are_due_than_asked_for_and_the_others_follow(watch: Watch) -> None:
    watched = watch()
    for number in range(7):
        watched.put(f"p{number}/1")
    found = [watched.look(most=3) for _ in range(4)]
    assert [len(item.due) for item in found] == [3, 3, 1, 0]
    assert [item.pending or item.listing is not None for item in found] == [True, True, False, False]
    assert len({each.partition for item in found for each in item.due}) == 7


def test_the_listing_stops_where_a_partition_has_to_wait_and_goes_on_from_there(watch: Watch) -> None:
    watched = watch()
    for number in range(60):
        watched.put(f"{number:02}/1")
    looks = [watched.look(most=20) for _ in range(4)]
    assert [len(found.due) for found in looks] == [20, 20, 20, 0]
    assert [found.scanned for found in looks] == [21, 20, 19, 60]
    assert [found.listing is not None for found in looks] == [True, True, False, False]
    assert "20/1" in str(looks[0]).partition("the listing goes on after ")[2]
    assert len({item.partition for item in watched.asked}) == 60


def test_a_partition_that_changes_while_others_are_asked_for_has_to_be_quiet(watch: Watch) -> None:
    watched = watch(quiet_seconds=60)
    now = time.time() + 100
    for number in range(60):
        watched.put(f"{number:02}/1")
    asked = [item.partition for item in watched.look(now, most=20).due]
    os.utime(watched.put("50/2").removeprefix("file://"), (now + 20, now + 20))
    for step in (1, 2, 3):
        asked += [item.partition for item in watched.look(now + 20 * step, most=20).due]
    assert sorted(asked) == sorted(f"{number:02}" for number in range(60) if number != 50)
    assert [item.partition for item in watched.look(now + 81, most=20).due] == ["50"]


def test_a_partition_that_a_run_is_under_way_for_waits(watch: Watch) -> None:
    watched = watch()
    watched.put("a/1")
    watched.put("b/1")
    found = watched.look(running={"a"})
    assert [item.partition for item in found.due] == ["b"]
    assert found.pending == 1
    assert [item.partition for item in watched.look().due] == ["a"]


def test_what_a_person_ran_meanwhile_is_not_due(watch: Watch) -> None:
    watched = watch()
    watched.put("a/1")
    watched.run("a")
    assert watched.look().due == []
    watched.put("a/2")
    watched.run("a")
    assert watched.look().due == []


def test_the_same_look_taken_again_asks_for_the_same(watch: Watch) -> None:
    watched = watch()
    watched.put("a/1")
    watched.put("b/1")
    assert len(watched.look().due) == 2
    watched.run("a", "b")
    watched.put("b/2")
    died = watched.look(keep=False)
    again = watched.look()
    assert again.due == died.due
    assert watched.look().due == []


def test_a_run_that_was_lost_is_asked_for_again_in_other_words_when_the_cursor_is_lost(watch: Watch) -> None:
    """Dagster never runs what is asked for in the same words."""
    watched = watch()
    watched.put("a/1")
    reasons = [item.reason for item in watched.look().due]
    for lost in (None, "x", watched.cursor):
        watched.cursor = lost
        for file in state_files(watched) if lost else ():
            file.write_bytes(b"damaged")
        reasons += [item.reason for item in watched.look().due]
    assert len(reasons) == len(set(reasons)) == 4


def test_a_run_that_ends_during_a_look_is_not_asked_for_again(watch: Watch) -> None:
    watched = watch()
    watched.put("a/1")
    watched.put("b/1")

    def running() -> set[str]:
        watched.run("a")  # it was under way until now
        return set()

    found = look(watched.dataset, None, running, most=9)
    assert [item.partition for item in found.due] == ["b"]


def test_what_is_committed_is_compared_though_listing_took_all_the_time(watch: Watch) -> None:
    watched = watch()
    for number in range(70):
        watched.put(f"{number:02}/1")
    assert len(watched.look(objects=70).due) == 69  # of the last there might be more to list


def test_a_run_that_was_lost_is_not_asked_for_again_while_nothing_changes(watch: Watch) -> None:
    """It failed: that belongs to the scheduled backfill."""
    watched = watch()
    watched.put("a/1")
    assert len(watched.look().due) == 1
    for _ in range(3):
        assert watched.look().due == []


def test_what_changes_back_and_then_again_is_asked_for_again(watch: Watch) -> None:
    """An ETag comes back with its bytes, a local version with its date: the run in between left no other commit."""
    watched = watch()
    watched.put("a/1")
    watched.look_and_run()

    def copy() -> None:
        os.utime(watched.put("a/2").removeprefix("file://"), ns=(10**18, 10**18))

    copy()
    [first] = watched.look().due
    watched.delete("a/2")
    watched.run("a")
    assert watched.look().due == []
    copy()
    [second] = watched.look().due
    assert first.reason != second.reason
    watched.run("a")
    assert watched.committed() == watched.there()


# Waiting until a partition is quiet.


def test_a_partition_waits_until_nothing_in_it_changed_for_a_while(watch: Watch) -> None:
    watched = watch(quiet_seconds=60)
    now = time.time()
    watched.put("a/1")
    found = watched.look(now + 30)
    assert (found.due, found.pending) == ([], 1)
    watched.put("a/2")
    later = Path(watched.source.uri.removeprefix("file://"), "a/2")
    os.utime(later, (now + 50, now + 50))
    assert watched.look(now + 70).due == []
    assert watched.look(now + 129).due == []
    assert len(watched.look(now + 131).due) == 1  # a minute after the look that saw it


def test_a_partition_that_changes_without_a_new_date_waits_as_well(watch: Watch) -> None:
    """Files that are moved or unpacked keep their old dates, and deleted ones leave none."""
    watched = watch(quiet_seconds=60)
    for name in ("a/1", "a/2", "a/3"):
        watched.put(name)
    assert len(watched.look_and_run(now=time.time() + 100)) == 1
    now = time.time() + 1000
    watched.delete("a/2")
    assert watched.look(now).due == []
    watched.delete("a/1")
    assert watched.look(now + 50).due == []
    assert watched.look(now + 100).due == []
    assert len(watched.look(now + 111).due) == 1


def test_a_date_in_the_future_does_not_make_a_partition_wait_for_ever(watch: Watch) -> None:
    watched = watch(quiet_seconds=60)
    uri = watched.put("a/1")
    now = time.time()
    os.utime(uri.removeprefix("file://"), (now + 400 * DAY, now + 400 * DAY))
    assert watched.look(now + 1).due == []
    assert len(watched.look(now + 62).due) == 1


def test_a_clock_that_was_ahead_makes_nothing_wait(watch: Watch) -> None:
    watched = watch(quiet_seconds=60, reconcile_hours=24)
    watched.put("a/1")
    now = time.time() + 100
    watched.look_and_run(now)
    watched.put("a/2")
    assert watched.look(now + 2 * 3600).due == []
    assert watched.look(now).due == []
    assert len(watched.look(now + 61).due) == 1


def test_a_partition_that_comes_while_everything_is_compared_waits_too(watch: Watch) -> None:
    """Files that are copied with their old dates."""
    watched = watch(quiet_seconds=60, reconcile_hours=24)
    watched.put("a/1")
    start = time.time() + 100
    watched.look_and_run(start)
    late = watched.put("b/1").removeprefix("file://")
    os.utime(late, (start - 9999, start - 9999))
    found = watched.look(start + DAY)
    assert found.reconciled
    assert found.due == []
    assert [item.partition for item in watched.look(start + DAY + 61).due] == ["b"]


def test_a_partition_that_is_gone_waits_even_if_the_cursor_was_lost(watch: Watch) -> None:
    """Somebody may be replacing all that is in it."""
    watched = watch(quiet_seconds=60)
    watched.put("a/1")
    now = time.time() + 100
    assert watched.look_and_run(now) == ["a"]
    watched.delete("a/1")
    watched.cursor = None
    assert watched.look(now).due == []
    assert len(watched.look(now + 61).due) == 1


def test_a_declared_partition_without_objects_is_no_deleted_one(watch: Watch) -> None:
    watched = watch(partitions=["a", "b"])
    watched.put("a/1")
    found = watched.look_and_run()
    assert found == ["a"]
    watched.cursor = None
    again = watched.look()
    assert (again.due, again.deleted, again.partitions) == ([], 0, ["a"])


def test_equal_dates_hide_nothing(watch: Watch) -> None:
    watched = watch()
    stamp = time.time() - 1000

    def put(name: str, data: bytes, nanoseconds: int = 0) -> None:
        uri = watched.put(name, data)
        moment = int(stamp) * 10**9 + nanoseconds
        os.utime(uri.removeprefix("file://"), ns=(moment, moment))

    put("a/1", b"1")
    assert due(watched) == ["a"]
    put("a/0", b"2")
    put("b/0", b"2")
    assert due(watched) == ["a", "b"]
    put("a/1", b"3", nanoseconds=1)  # the same size and second
    assert due(watched) == ["a"]
    assert watched.committed() == watched.there()


def test_a_partition_waits_for_its_marker_which_is_no_sample(watch: Watch) -> None:
    watched = watch(source={"marker": "_SUCCESS"})
    watched.put("a/1.jpg")
    watched.put("b/_SUCCESS")
    found = watched.look()
    assert (found.due, found.pending) == ([], 1)
    watched.put("a/_SUCCESS")
    assert watched.look_and_run() == ["a"]
    [item] = read_manifest(watched.dataset.stored("raw_images", "a"))  # type: ignore[arg-type]
    assert item.uri.endswith("a/1.jpg")
    watched.put("a/_SUCCESS", b"again")
    assert watched.look().due == []
    watched.put("a/2.jpg")
    watched.delete("a/_SUCCESS")
    assert watched.look().due == []
    watched.put("a/_SUCCESS")
    assert watched.look_and_run() == ["a"]


def test_a_marker_that_was_written_last_spares_the_wait(watch: Watch) -> None:
    watched = watch(source={"marker": "_SUCCESS"}, quiet_seconds=60)
    now = time.time()

    def put(name: str, age: float) -> None:
        os.utime(watched.put(name).removeprefix("file://"), (now - age, now - age))

    put("a/1.jpg", 5)
    put("a/_SUCCESS", 4)
    assert watched.look_and_run(now) == ["a"]
    put("a/2.jpg", 2)
    assert watched.look(now + 1).due == []  # something is being added to what was complete
    put("a/_SUCCESS", 1)
    assert watched.look_and_run(now + 2) == ["a"]
    put("a/3.jpg", 0)
    assert watched.look(now + 3).due == []
    assert watched.look_and_run(now + 64) == ["a"]


def test_a_partition_that_was_deleted_with_its_marker_waits_for_none(watch: Watch) -> None:
    watched = watch(source={"marker": "_SUCCESS"})
    for name in ("a/1.jpg", "a/_SUCCESS"):
        watched.put(name)
    assert watched.look_and_run() == ["a"]
    for name in ("a/1.jpg", "a/_SUCCESS"):
        watched.delete(name)
    assert watched.look_and_run() == ["a"]
    assert watched.committed() == {}


# The cursor.

BAD_CURSORS = [
    "x",
    "null",
    "[]",
    "7",
    "{}",
    '{"format":0,"state":"x","reconciled":0}',
    '{"format":3,"state":"","reconciled":0}',
    '{"format":3,"state":"../batches","reconciled":0}',
    '{"format":3,"state":"00000001-deadbeef.json.gz","reconciled":0}',
    '{"format":3,"state":7,"reconciled":0}',
    '{"format":3,"state":"00000001-deadbeef.json.gz","reconciled":NaN}',
    '{"format":3,"state":"00000001-deadbeef.json.gz","reconciled":1e999}',
    '{"format":3,"state":"00000001-deadbeef.json.gz"}',
    "\0",
    "a/1.jpg,a/2.jpg",
]


@pytest.mark.parametrize("cursor", BAD_CURSORS)
def test_a_bad_cursor_has_everything_compared_and_nothing_run_that_is_right(watch: Watch, cursor: str) -> None:
    watched = watch()
    for name in ("a/1", "b/1", "c/1"):
        watched.put(name)
    watched.look_and_run()
    watched.put("b/2")
    watched.delete("c/1")
    watched.cursor = cursor
    found = watched.look()
    assert found.reconciled
    assert "comparing everything with what is committed" in str(found)
    assert sorted(item.partition for item in found.due) == ["b", "c"]
    watched.run("b", "c")
    assert watched.look().due == []


@given(st.text() | st.dictionaries(st.sampled_from(["format", "state", "reconciled"]), st.just(1)).map(str))
@settings(max_examples=50)
def test_no_cursor_is_an_error(text: str) -> None:
    with pytest.raises(CorruptionError):
        Cursor.parse(text)


@pytest.mark.parametrize("reconciled", ["NaN", "Infinity", "1e400", "1" + "0" * 400, '"x"', "null", "[]", "9e99"])
def test_a_cursor_with_a_wrong_time_does_not_put_reconciliation_off(watch: Watch, reconciled: str) -> None:
    watched = watch()
    watched.put("a/1")
    watched.look_and_run()
    assert watched.cursor
    watched.cursor = watched.cursor[: watched.cursor.index('"reconciled"')] + f'"reconciled": {reconciled}}}'
    found = watched.look(now=time.time())
    assert found.reconciled
    assert found.due == []


@pytest.mark.parametrize("is_part", [False, True])
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "flipped", "text", "other version"])
def test_a_state_that_is_gone_or_damaged_has_everything_compared(watch: Watch, damage: str, is_part: bool) -> None:
    watched = watch()
    for number in range(20):
        watched.put(f"p{number}/1")
    watched.look_and_run()
    [file] = [file for file in state_files(watched) if file.name.endswith(".part.json.gz") == is_part]
    data = file.read_bytes()
    changed = {
        "empty": b"",
        "half": data[: len(data) // 2],
        "flipped": data[:100] + bytes([data[100] ^ 255]) + data[101:],
        "text": b"state",
        "other version": gzip.compress(b'{"format":0}'),
    }
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(changed[damage])
    watched.put("p3/2")
    found = watched.look()
    assert [item.partition for item in found.due] == ["p3"]
    assert found.reconciled
    assert found.reconciled != "as every so often"
    assert "the sensor's state" in found.reconciled


def test_the_cursor_stays_short_and_one_state_is_kept_beside_the_last(watch: Watch) -> None:
    watched = watch()
    for number in range(300):
        watched.put(f"{'long name ' * 5}{number}/1")
    sizes = [len(watched.look(objects=50).cursor) for _ in range(8)]
    assert max(sizes) < 200
    assert len(state_files(watched)) <= 2 * 2, "two states, and a part each"


def test_a_look_at_what_did_not_change_writes_nothing(watch: Watch) -> None:
    watched = watch()
    watched.put("a/1")
    watched.look_and_run()
    watched.look()
    before = [(file.name, file.stat().st_mtime_ns) for file in state_files(watched)], watched.cursor
    watched.look()
    assert before == ([(file.name, file.stat().st_mtime_ns) for file in state_files(watched)], watched.cursor)


def test_what_was_asked_for_and_not_made_is_asked_for_once_more_by_each_reconciliation(watch: Watch) -> None:
    """A run that was cancelled, say: Dagster never runs what is asked for in the same words."""
    watched = watch(reconcile_hours=24)
    watched.put("a/1")
    start = time.time()
    reasons = [item.reason for item in watched.look(start + 10).due]
    for day in (1, 2):
        assert watched.look(start + day * 86400 - 3600).due == []
        found = watched.look(start + day * 86400 + 3600)
        assert found.reconciled == "as every so often"
        reasons += [item.reason for item in found.due]
    assert len(set(reasons)) == 3
    watched.run("a")
    assert watched.look(start + 3 * 86400 + 3600).due == []


def test_reconciliation_finds_a_commit_that_was_removed(watch: Watch) -> None:
    watched = watch(reconcile_hours=24)
    start = time.time()
    for name in ("a/1", "b/1"):
        watched.put(name)
    watched.look_and_run(now=start + 10)
    commit_file(watched, "a").unlink()
    assert watched.look(start + 3600).due == []
    assert [item.partition for item in watched.look(start + 25 * 3600).due] == ["a"]


def test_a_damaged_commit_stops_no_other_partition(watch: Watch) -> None:
    watched = watch()
    for name in ("a/1", "b/1"):
        watched.put(name)
    watched.look_and_run()
    commit_file(watched, "a").write_text("{}")
    for name in ("a/2", "b/2"):
        watched.put(name)
    found = watched.look()
    assert sorted(item.partition for item in found.due) == ["a", "b"]
    assert watched.look().due == []


def test_a_dataset_that_is_declared_anew_is_compared_anew(watch: Watch) -> None:
    """Partitions of the old declaration are no business of the new one."""
    watched = watch()
    for name in ("2024-01-01/1", "cats/1"):
        watched.put(name)
    watched.look_and_run()
    again = watch(
        at=watched.source, partitions={"by": "time", "start": "2024-01-01", "every": "day"}, template="%Y-%m-%d"
    )
    again.cursor = watched.cursor
    watched.put("2024-01-02/1")
    found = again.look()
    assert [item.partition for item in found.due] == ["2024-01-02"]
    assert found.reconciled
    assert "declared" in found.reconciled
    again.run("2024-01-02")
    assert again.look().due == []


def test_a_source_that_moved_is_listed_from_its_beginning(watch: Watch) -> None:
    watched = watch(template="z/{partition}")
    for number in range(4):
        watched.put(f"z/p{number}/1")
    watched.look(objects=2)
    again = watch(at=watched.source, template="a/{partition}")
    watched.put("a/p0/1")
    again.cursor = watched.cursor
    assert "p0" in [item.partition for item in again.look().due]
    again.run("p0")
    assert again.committed().items() >= again.there().items()


def test_partitions_of_a_source_that_moved_are_left_alone_and_not_run_in_vain(watch: Watch) -> None:
    watched = watch(template="z/{partition}", reconcile_hours=24)
    for number in range(3):
        watched.put(f"z/p{number}/1")
    start = time.time() + 10
    watched.look_and_run(start)
    before = watched.committed()
    again = watch(at=watched.source, template="a/{partition}", reconcile_hours=24)
    again.put("a/other/1")
    for day in range(3):
        found = again.look(start + day * (DAY + 1))
        assert [item.partition for item in found.due] == (["other"] if day == 0 else [])
        again.run(*(item.partition for item in found.due))
        assert len(found.kept) == 3
        assert "3 partitions of which nothing is found are left alone" in str(found)
        assert "made of objects elsewhere" in str(found)
    assert {key: content for key, content in again.committed().items() if key != "other"} == before


def test_what_is_left_in_a_partition_keeps_no_deletion_back(watch: Watch) -> None:
    watched = watch(source={"components": {"jpg": "{key}.jpg"}, "marker": "_SUCCESS"})
    for name in ("a/1.jpg", "a/readme.txt", "a/_SUCCESS"):
        watched.put(name)
    assert watched.look_and_run() == ["a"]
    watched.delete("a/1.jpg")
    watched.cursor = None
    assert watched.look_and_run() == ["a"]
    assert watched.committed() == {}


# Whatever happens.


class Trouble:
    """A source under random change, a sensor that loses cursors, and runs that are lost or late."""

    def __init__(self, watched: Watched, seed: int) -> None:
        self.watched = watched
        self.random = random.Random(seed)
        self.root = Path(watched.source.uri.removeprefix("file://"))
        self.given: set[str] = set()
        self.lost: set[str] = set()
        self.cursors: list[str | None] = []

    def change(self) -> None:
        draw = self.random
        partition = draw.choice(["a", "a-b", "a.b", "b", "c c", "é"])
        name = f"{partition}/{draw.choice(['', 's/'])}{draw.randrange(4)}.jpg"
        files = list(self.root.rglob("*.jpg"))
        match draw.randrange(6):
            case 0 | 1:
                self.watched.put(name, draw.randbytes(draw.randrange(1, 3)))
            case 2 if files:
                draw.choice(files).unlink()
            case 3:
                for file in (self.root / partition).rglob("*.jpg"):
                    file.unlink()
            case 4 if files:
                target = self.root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                draw.choice(files).rename(target)
            case 5:
                old = int(draw.uniform(1e9, 1.1e9) * 1e9)
                os.utime(self.watched.put(name, b"old").removeprefix("file://"), ns=(old, old))

    def lose_cursor(self) -> None:
        match self.random.randrange(3):
            case 0:
                self.watched.cursor = None
            case 1:
                self.watched.cursor = "{broken"
            case 2:
                self.watched.cursor = self.random.choice(self.cursors) if self.cursors else None

    def look(self, **options: int) -> None:
        draw = self.random
        keep = draw.random() > 0.1
        most = options.get("most", draw.randrange(1, 4))
        found = self.watched.look(objects=options.get("objects", draw.randrange(1, 12)), most=most, keep=keep)
        self.cursors.append(found.cursor)
        assert len(found.due) <= most
        assert len(found.cursor) < 200
        if not keep:
            return
        for item in found.due:
            if item.reason in self.given:  # Dagster would not run it
                assert item.reason in self.lost
                continue
            self.given.add(item.reason)
            if not options and draw.random() < 0.2:
                self.lost.add(item.reason)
            else:
                with suppress(ConfigurationError):  # nothing is there any more, and nothing ever was made of it
                    self.watched.run(item.partition)

    def settle(self) -> None:
        """Nothing changes any more. Runs that were lost come by a backfill: here, by a cursor that is lost."""
        self.watched.cursor = None
        for _ in range(12):
            self.look(most=10, objects=20)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_what_is_committed_becomes_what_is_there(watch: Watch, seed: int) -> None:
    watched = watch()
    trouble = Trouble(watched, seed)
    for _ in range(40):
        for _ in range(trouble.random.randrange(4)):
            trouble.change()
        trouble.look()
        if trouble.random.random() < 0.08:
            trouble.lose_cursor()
    trouble.settle()
    assert watched.committed() == watched.there()
    assert watched.look().due == []


@pytest.mark.parametrize("seed", range(4))
def test_without_a_lost_run_or_cursor_nothing_is_asked_for_twice_and_nothing_is_lost(watch: Watch, seed: int) -> None:
    watched = watch()
    trouble = Trouble(watched, seed)
    for _ in range(40):
        for _ in range(trouble.random.randrange(3)):
            trouble.change()
        watched.look_and_run(objects=trouble.random.randrange(1, 12))
    for _ in range(12):
        watched.look_and_run(objects=10)
    assert watched.committed() == watched.there()
    reasons = [item.reason for item in watched.asked]
    assert len(reasons) == len(set(reasons))
    assert watched.look(objects=1000).due == []


@pytest.mark.parametrize("kind", BUCKETS)
def test_random_changes_in_a_bucket_are_all_committed(watch: Watch, kind: Kind) -> None:
    watched = watch(kind)
    draw = random.Random(1)
    for _ in range(12):
        for _ in range(draw.randrange(1, 4)):
            name = f"{draw.choice(['a', 'a-b', 'a.b', 'c c', 'é'])}/{draw.randrange(3)}.jpg"
            if draw.random() < 0.7:
                watched.put(name, draw.randbytes(draw.randrange(1, 3)))
            else:
                watched.delete(name)
        with suppress(ConfigurationError):
            watched.look_and_run(objects=draw.randrange(2, 9))
    for _ in range(6):
        watched.look_and_run(objects=9)
    assert watched.committed() == watched.there()
    reasons = [item.reason for item in watched.asked]
    assert len(reasons) == len(set(reasons))


@pytest.mark.parametrize("leaves", ["an empty folder", "nothing"])
def test_a_local_source_that_is_not_mounted_is_an_error_and_no_deletion(watch: Watch, leaves: str) -> None:
    watched = watch()
    watched.put("a/0.jpg")
    assert watched.look_and_run() == ["a"]
    folder = Path(watched.source.uri.removeprefix("file://"))
    away = folder.rename(folder.with_name("unmounted"))
    if leaves == "an empty folder":
        folder.mkdir()
    with pytest.raises(StorageError, match=r"is it mounted\?"):
        watched.look()
    if leaves == "an empty folder":
        folder.rmdir()
    away.rename(folder)
    assert watched.look_and_run() == []


@pytest.mark.parametrize(("marked", "due"), [(99.0, []), (100.0, ["a"]), (101.0, ["a"])])
def test_a_marker_that_is_as_young_as_the_youngest_object_was_written_last(
    watch: Watch, marked: float, due: list[str]
) -> None:
    """Clocks of file systems are coarse. Then nothing has to be quiet."""
    watched = watch(source={"marker": "_SUCCESS"}, quiet_seconds=3600)
    for name, moment in (("a/0.jpg", 100.0), ("a/_SUCCESS", marked)):
        os.utime(watched.put(name).removeprefix("file://"), (moment, moment))
    assert [item.partition for item in watched.look(now=200.0).due] == due


def test_a_source_that_goes_before_anything_was_made_of_it_is_no_error(watch: Watch) -> None:
    watched = watch()
    uri = watched.put("a/0.jpg")
    assert [item.partition for item in watched.look().due] == ["a"]
    shutil.rmtree(Path(uri.removeprefix("file://")).parent)
    assert watched.look().partitions == []


def test_a_dataset_that_was_removed_with_its_source_is_no_error(watch: Watch) -> None:
    watched = watch()
    uri = watched.put("a/0.jpg")
    assert watched.look_and_run() == ["a"]
    shutil.rmtree(Path(uri.removeprefix("file://")).parent)
    shutil.rmtree(watched.dataset.home.removeprefix("file://"))
    assert watched.look_and_run() == []
    assert watched.committed() == {}


def test_a_look_says_what_a_partition_waits_for(watch: Watch) -> None:
    watched = watch(source={"marker": "_SUCCESS"}, quiet_seconds=60)
    for name in ("a/0.jpg", "b/_SUCCESS", "b/0.jpg", "c/_SUCCESS", "c/0.jpg"):
        watched.put(name)
        time.sleep(0.02)  # the markers are older
    said = str(watched.look(time.time()))
    assert "pending: a for _SUCCESS, b to be quiet, c to be quiet" in said
    said = str(watched.look(time.time() + 100, running={"b"}))
    assert "due: c" in said
    assert "pending: a for _SUCCESS, b for a run over it that is under way" in said


def test_a_late_look_removes_no_later_state(watch: Watch) -> None:
    """A look that took too long, or somebody who tries the sensor out from an older cursor."""
    watched = watch()
    watched.put("a/0.jpg")
    first = watched.look().cursor
    watched.put("b/0.jpg")
    second = watched.look().cursor
    watched.put("c/0.jpg")
    for older in (None, first):
        look(watched.dataset, older, most=100, now=lambda: 4e9)
    assert look(watched.dataset, second, most=100, now=lambda: 4e9).reconciled is None
