"""What gc removes, what it spares, and what it asks of the store for that."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from shardmill.errors import CorruptionError, NothingCommittedError, StorageError
from shardmill.shards.layout import Layout
from shardmill.shards.reader import open_shards
from shardmill.shards.retention import kept_commit_name, remove_orphans
from shardmill.storage import ObjectInfo, Storage, relative_to
from tests.spelling import NAME, Hooked, Killed, Mortal, letters_of, spell, write


@pytest.fixture
def layout(folder: str) -> Layout:
    return Layout.at(f"{folder}/{NAME}")


class Watched(Storage):
    """Counts what is asked for single files."""

    stats: list[str]

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "stats", [])

    def stat(self, uri: str) -> Any:
        self.stats.append(uri)
        return super().stat(uri)


def removed(storage: Storage, layout: Layout, **options: Any) -> set[str]:
    found = remove_orphans(storage, layout, **{"grace_seconds": -1, **options})
    return {relative_to(layout.home, info.uri) for info in found}


def test_where_nothing_is_an_orphan_no_file_is_asked_for(layout: Layout) -> None:
    storage = Watched()
    write(storage, layout.folder, spell("abcdefghijklmnopqrstuvwxyz"))
    storage.stats.clear()
    assert removed(storage, layout) == set()
    assert storage.stats == []


def test_what_a_killed_run_left_goes_when_it_is_old_and_not_before(storage: Storage, layout: Layout) -> None:
    write(storage, layout.folder, spell("ab"))

    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        write(Hooked(hooks={"replace": ("index.json", die)}), layout.folder, spell("acd"))
    waiting = {relative_to(layout.home, info.uri) for info in storage.list(layout.side)}
    assert removed(storage, layout, grace_seconds=60) == set()
    assert removed(storage, layout, dry_run=True) == removed(storage, layout)
    left = {relative_to(layout.home, info.uri) for info in storage.list(layout.side)}
    assert len(waiting - left) == 4  # the two indexes, and the originals of what had been put among the data
    committed = open_shards(layout.folder, storage)
    assert letters_of(committed) == "ab"
    assert {info.uri for info in storage.list(layout.folder)} == set(committed.urls)


def test_what_is_kept_is_spared_until_its_time_is_over(
    storage: Storage, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(storage, layout.folder, spell("ab"), keep_seconds=60)
    write(storage, layout.folder, spell("ac"), keep_seconds=60)
    assert removed(storage, layout, keep_seconds=60) == set()
    assert letters_of(open_shards(layout.folder, storage, first.commit.digest)) == "ab"
    later = time.time() + 61
    monkeypatch.setattr("shardmill.shards.retention.time.time", lambda: later)
    gone = removed(storage, layout, keep_seconds=60)
    assert {name.rpartition(".")[2] for name in gone} == {"tar", "json", "parquet"}
    assert letters_of(open_shards(layout.folder, storage)) == "ac"


def test_what_was_committed_since_the_listing_is_spared(layout: Layout) -> None:
    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        write(Hooked(hooks={"replace": ("index.json", die)}), layout.folder, spell("ab"))
    hooks = {"delete": ("", lambda: write(Hooked(), layout.folder, spell("ab")))}
    storage = Hooked(hooks=hooks)
    remove_all = list(remove_orphans(storage, layout, grace_seconds=-1))
    assert len(remove_all) == 1  # the one that was under way when the commit came
    write(storage, layout.folder, spell("ab"))
    assert letters_of(open_shards(layout.folder, storage)) == "ab"


def test_a_partition_whose_commit_cannot_be_read_is_left_alone(storage: Storage, layout: Layout) -> None:
    write(storage, layout.folder, spell("ab"))
    info = storage.stat(layout.commit)
    assert info is not None
    storage.replace(layout.commit, b"{", info.version)
    with pytest.raises(CorruptionError, match=r"index\.json is damaged"):
        removed(storage, layout)


def test_a_state_that_comes_back_and_goes_again_is_kept_from_then_on(
    storage: Storage, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from the first time that it went."""
    day = 86400.0
    week = 7 * day
    first = write(storage, layout.folder, spell("ab"), keep_seconds=week)
    write(storage, layout.folder, spell("cd"), keep_seconds=week)
    for file in Path(layout.home.removeprefix("file://")).rglob("*"):  # six days pass
        if file.is_file():
            os.utime(file, (file.stat().st_mtime - 6 * day,) * 2)
    write(storage, layout.folder, spell("ab"), keep_seconds=week)
    write(storage, layout.folder, spell("ef"), keep_seconds=week)
    later = time.time() + 2 * day
    monkeypatch.setattr("shardmill.shards.retention.time.time", lambda: later)
    write(storage, layout.folder, spell("gh"), keep_seconds=week)
    assert letters_of(open_shards(layout.folder, storage, first.commit.digest)) == "ab"


def test_a_kept_state_keeps_the_indexes_of_shards_without_data(storage: Storage, layout: Layout) -> None:
    """They hold rejects."""
    from dataclasses import replace

    from shardmill.engines import LocalEngine

    def nothing_but_rejects(letters: str) -> None:
        lazy = spell(letters)
        stage = replace(lazy.stage, empty=True)
        replace(lazy, stage=stage).write(storage, layout.folder, NAME, LocalEngine(1), keep_seconds=60)

    nothing_but_rejects("AB")
    first = open_shards(layout.folder, storage)
    assert first.urls == []
    nothing_but_rejects("C")
    assert removed(storage, layout, keep_seconds=60) == set()
    kept = open_shards(layout.folder, storage, first.commit.digest)
    assert {reject.key for reject in kept.rejects()} == {"A1", "A2", "B1", "B2"}


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("locks", [True, False])
def test_a_roll_back_to_a_kept_state_that_does_not_come_about_loses_nothing_of_it(
    layout: Layout, locks: bool, fails: bool
) -> None:
    """Killed, or failed, when its data had been put in their place; and gc comes next."""
    plain = Mortal(locks=locks)
    first = write(plain, layout.folder, spell("ab"), keep_seconds=3600)
    write(plain, layout.folder, spell("cd"), keep_seconds=3600)
    for left in range(1, 9):
        storage = Mortal(locks=locks, left=[left], fails=int(fails))
        with suppress(Killed, StorageError):
            write(storage, layout.folder, spell("ab"), keep_seconds=3600)
        list(remove_orphans(plain, layout, grace_seconds=-1, keep_seconds=3600))
        assert letters_of(open_shards(layout.folder, plain, first.commit.digest)) == "ab"
        write(plain, layout.folder, spell("cd"), keep_seconds=3600)
        assert letters_of(open_shards(layout.folder, plain, first.commit.digest)) == "ab"


def test_where_somebody_deleted_the_commit_what_stands_whole_is_spared(storage: Storage, layout: Layout) -> None:
    """As the error for a damaged one advises: the next run finds it."""
    write(storage, layout.folder, spell("ab"))
    stray = layout.data(f"000000-{'0' * 12}-{'0' * 8}.tar")
    storage.replace(stray, b"rubbish", None)
    storage.delete(layout.commit)
    assert removed(storage, layout) == {relative_to(layout.home, stray)}
    again = write(storage, layout.folder, spell("ab"))
    assert (again.made, letters_of(again)) == (0, "ab")


def test_what_another_kept_state_names_outlives_the_one_whose_time_is_over(storage: Storage, layout: Layout) -> None:
    first = write(storage, layout.folder, spell("ab"), keep_seconds=60)
    second = write(storage, layout.folder, spell("bc"), keep_seconds=60)
    write(storage, layout.folder, spell("x"), keep_seconds=60)
    file = Path(layout.superseded(kept_commit_name(first.digest)).removeprefix("file://"))
    os.utime(file, (time.time() - 61,) * 2)
    write(storage, layout.folder, spell("y"), keep_seconds=60)
    assert letters_of(open_shards(layout.folder, storage, second.digest)) == "bc"
    with pytest.raises(NothingCommittedError):
        open_shards(layout.folder, storage, first.digest)


def test_a_copy_that_waits_beside_what_is_kept_goes(storage: Storage, layout: Layout) -> None:
    """A roll-back that was killed has made it once more."""
    first = write(storage, layout.folder, spell("a"), keep_seconds=60)
    write(storage, layout.folder, spell("b"), keep_seconds=60)
    name = first.shards[0].file_name
    storage.copy(layout.superseded(name), layout.staged(name))
    assert removed(storage, layout, keep_seconds=60) == {relative_to(layout.home, layout.staged(name))}
    assert letters_of(open_shards(layout.folder, storage, first.digest)) == "a"


def test_a_kept_state_that_another_run_lets_go_meanwhile_is_no_error(storage: Storage, layout: Layout) -> None:
    first = write(storage, layout.folder, spell("a"), keep_seconds=60)
    write(storage, layout.folder, spell("b"), keep_seconds=60)
    kept = layout.superseded(kept_commit_name(first.digest))

    class Late(Storage):
        def read(self, uri: str) -> bytes:
            if uri == kept:
                super().delete(uri)
            return super().read(uri)

    assert relative_to(layout.home, layout.superseded(first.shards[0].file_name)) in removed(
        Late(), layout, keep_seconds=60
    )


@pytest.mark.parametrize("dry_run", [True, False])
def test_whoever_removes_keeps_others_out_meanwhile_and_whoever_looks_does_not(layout: Layout, dry_run: bool) -> None:
    write(Storage(), layout.folder, spell("a"))
    held: list[str] = []

    class Locked(Storage):
        @contextmanager
        def exclusive(self, folder: str) -> Iterator[None]:
            held.append(folder)
            yield
            held.append("over")

        def list(self, folder: str, after: str | None = None) -> Iterator[ObjectInfo]:
            assert held == ([] if dry_run else [layout.side])
            return super().list(folder, after)

    removed(Locked(), layout, dry_run=dry_run)
    assert held == ([] if dry_run else [layout.side, "over"])
