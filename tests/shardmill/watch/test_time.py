"""Partitions by time: a look lists the windows that were open lately, reconciliation all."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.servers.places import KINDS, Kind
from tests.shardmill.watch.conftest import Watch

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture(autouse=True)
def on_one_day() -> None:
    """What is today stays so for a test: none begins in the last minute of a day."""
    left = DAY - time.time() % DAY
    if left < 60:
        time.sleep(left)


def days(count: int) -> dict[str, Any]:
    start = (datetime.now(UTC) - timedelta(days=count)).date()
    return {"partitions": {"by": "time", "start": str(start), "every": "day"}, "template": "raw/%Y-%m-%d"}


def day(ago: int) -> str:
    return f"{datetime.now(UTC) - timedelta(days=ago):%Y-%m-%d}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_steady_look_lists_recent_windows_alone(watch: Watch, kind: Kind) -> None:
    watched = watch(kind, **days(30), late_hours=48, reconcile_hours=24)
    for ago in (0, 1, 2, 3, 10, 20):
        for number in range(3):
            watched.put(f"raw/{day(ago)}/{number}.jpg")
    watched.put("raw/notes.txt")
    now = time.time()
    first = watched.look(now)
    assert (len(first.due), first.outside.objects) == (6, 1)
    watched.run(*(item.partition for item in first.due))

    steady = watched.look(now + HOUR)
    assert (steady.scanned, steady.due, steady.reconciled) == (9, [], None)
    watched.put(f"raw/{day(1)}/late.jpg")
    assert watched.look_and_run(now + HOUR) == [day(1)]
    watched.delete(f"raw/{day(0)}/1.jpg")
    watched.delete(f"raw/{day(2)}/0.jpg")
    assert sorted(watched.look_and_run(now + HOUR)) == [day(2), day(0)]

    watched.put(f"raw/{day(10)}/late.jpg")
    watched.put(f"raw/{day(15)}/first.jpg")
    for name in ("0", "1", "2"):
        watched.delete(f"raw/{day(20)}/{name}.jpg")
    assert watched.look(now + 23 * HOUR).due == []
    found = watched.look(now + 25 * HOUR)
    assert sorted(item.partition for item in found.due) == [day(20), day(15), day(10)]
    assert found.reconciled == "as every so often"
    assert (found.new, found.changed, found.deleted) == (1, 1, 1)
    watched.run(*(item.partition for item in found.due))
    assert watched.committed() == watched.there()
    assert watched.look(now + 26 * HOUR).due == []


def test_recent_windows_larger_than_the_budget_do_not_keep_reconciliation_from_its_end(watch: Watch) -> None:
    watched = watch(**days(10), late_hours=24, reconcile_hours=24)
    now = time.time()
    for ago in (0, 1):
        for number in range(6):
            watched.put(f"raw/{day(ago)}/{number}.jpg")
    watched.put(f"raw/{day(7)}/x.jpg")
    for _ in range(20):
        watched.look_and_run(now, objects=4)
    assert watched.committed() == watched.there()
    watched.put(f"raw/{day(7)}/late.jpg")
    for _ in range(20):
        watched.look_and_run(now + 25 * HOUR, objects=4)
    assert watched.committed() == watched.there()


def test_a_window_that_appears_behind_the_listing_is_not_taken_for_gone(watch: Watch) -> None:
    watched = watch(**days(10), late_hours=80, reconcile_hours=24)
    now = time.time()
    for number in range(4):
        watched.put(f"raw/{day(2)}/{number}.jpg")
        watched.put(f"raw/{day(1)}/{number}.jpg")
    while watched.look_and_run(now, objects=20):
        pass
    assert watched.look(now + 25 * HOUR, objects=13).listing  # it lists what is recent, and some of everything
    watched.put(f"raw/{day(3)}/late.jpg")
    found = [watched.look(now + 25 * HOUR, objects=13) for _ in range(4)]
    assert [item.partition for each in found for item in each.due] == [day(3)]
    assert sum(each.deleted for each in found) == 0


def test_objects_in_windows_to_come_wait_until_these_begin(watch: Watch) -> None:
    watched = watch(**days(5), reconcile_hours=0)
    watched.put(f"raw/{day(-2)}/x.jpg")
    watched.put("raw/2026-1-5/y.jpg")
    found = watched.look()
    assert found.due == []
    assert f"2 objects in no partition: 2026-1-5/y.jpg, {day(-2)}/x.jpg;" in str(found)


def test_a_deleted_recent_window_waits_for_no_marker(watch: Watch) -> None:
    watched = watch(**days(5), source={"marker": "_SUCCESS"}, reconcile_hours=1000)
    now = time.time()
    for name in ("x.jpg", "_SUCCESS"):
        watched.put(f"raw/{day(1)}/{name}")
    assert watched.look_and_run(now) == [day(1)]
    for name in ("x.jpg", "_SUCCESS"):
        watched.delete(f"raw/{day(1)}/{name}")
    assert watched.look_and_run(now + 10) == [day(1)]
    assert watched.committed() == {}
