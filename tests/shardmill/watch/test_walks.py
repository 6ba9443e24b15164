"""What a listing counts, and for which partition."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardmill.sources import content_of
from shardmill.watch.state import Tally, Walk
from shardmill.watch.walks import Budget, Lister

Watch = Callable[..., Any]


@pytest.fixture
def watched(watch: Watch) -> Any:
    """Two partitions with their markers, and between them what belongs to none. The newest is not the last."""
    watched = watch(source={"marker": "_SUCCESS"})
    for number, name in enumerate(("b/1.jpg", "a/_SUCCESS", "a/1.jpg", "ab", "b/_SUCCESS", "a/2.jpg"), 1):
        file = Path(watched.put(name, b"x" * number).removeprefix("file://"))
        os.utime(file, (100 - number, 100 - number))
    return watched


def expected(watched: Any, key: str, marked: float, **modified: float) -> Tally:
    infos = {name: watched.source.storage.stat(f"{watched.source.uri}/{key}/{name}.jpg") for name in modified}
    assert {name: info.modified for name, info in infos.items()} == modified
    content = sum(content_of(info.uri, info.version) for info in infos.values())
    return Tally(key, content, len(infos), sum(info.size for info in infos.values()), max(modified.values()), marked)


@pytest.mark.parametrize("objects", [1, 2, 100])
def test_each_partition_is_counted_by_itself_in_whatever_steps(watched: Any, objects: int) -> None:
    """In a listing of everything, and in one of its own."""
    tallies = [expected(watched, "a", 98.0, **{"1": 97.0, "2": 94.0}), expected(watched, "b", 95.0, **{"1": 99.0})]
    lister, walk, found = Lister(watched.dataset), Walk(), []
    while not walk.ended:
        found += lister.everything(walk, Budget(60.0, objects))
    assert found == tallies
    assert (lister.outside.objects, lister.outside.names) == (1, ["ab"])
    for tally in tallies:
        walk, counted = Walk(), None
        while counted is None:
            counted = lister.partition(tally.key, walk, Budget(60.0, objects))
        assert counted == tally


def test_what_stands_for_a_folder_in_a_bucket_is_no_object_outside(watched: Any) -> None:
    outside = Lister(watched.dataset).outside
    for name in ("a/", "x", "b/c/", "y", "z", "4"):
        outside.take(name)
    assert (outside.objects, outside.names) == (4, ["x", "y", "z"])


def test_litter_that_is_taken_as_data_is_an_object_outside(watch: Watch) -> None:
    for defaults in (True, False):
        outside = Lister(watch(source={"exclude_defaults": defaults}).dataset).outside
        outside.take(".DS_Store")
        assert outside.objects == (0 if defaults else 1)


def test_what_is_left_out_is_not_counted(watch: Watch) -> None:
    """Nor does it make a partition due, or another one."""
    watched = watch(source={"exclude": ["*.txt"]})
    for name in ("a/1.jpg", "a/._1.jpg", "a/2.txt", "b/.DS_Store", "@eaDir/1.jpg"):
        watched.put(name, b"x")
    lister, walk = Lister(watched.dataset), Walk()
    tallies = {tally.key: tally.objects for tally in lister.everything(walk, Budget(60.0, 100))}
    assert tallies == {"a": 1, "b": 0}
    assert lister.outside.objects == 0
    assert watched.dataset.partitions() == ["a"]
    watched.run("a")
    found = watched.look()
    assert (found.due, found.partitions) == ([], ["a"])
    watched.put("a/._3.jpg", b"x")
    assert watched.look().due == []


def test_a_share_is_one_of_what_is_left_of_time_and_objects() -> None:
    budget = Budget(3600.0, 100)
    assert sum(budget.take() for _ in range(40)) == 40
    share = budget.share(0.5)
    assert share.seconds <= 1800.0
    assert sum(share.take() for _ in range(100)) == 29  # the thirtieth is the last
    assert share.spent
    assert share.scanned >= 70
    assert not budget.spent
    assert Budget(0.0, 100).share(0.5).spent
