"""Runs of one partition at once: one whole partition is left, whoever comes when, and nobody fails for nothing.

The orders that matter are forced, on a bucket in memory and on a local folder that pretends to have no locks; then left
to chance on real stores, with runs that make other bytes of the same, and that are killed between any two requests.
"""

import io
import random
import threading
import time
import uuid
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from shardmill.engines import LocalEngine
from shardmill.errors import ConflictError, EngineError, ShardmillError, StorageError
from shardmill.shards.commit import ShardEntry, read_commit
from shardmill.shards.layout import Layout
from shardmill.shards.reader import ShardSet, open_shards
from shardmill.shards.verify import read_with_webdataset, verify
from shardmill.storage import Storage
from tests.servers.places import KINDS, Kind, NewPlace
from tests.spelling import NAME, Hooked, Killed, Mortal, letters_of, spell, write

PLAIN = Hooked()


def root_of(tmp_path: Path, locks: bool) -> str:
    """Of a store with locks, a local disk; else of a bucket in memory."""
    return f"file://{tmp_path}" if locks else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """On a local disk where the test is one of locks."""
    of_locks = "locks" in getattr(getattr(request.node, "callspec", None), "params", {})
    return f"{root_of(tmp_path, of_locks)}/{NAME}"


def assert_whole(storage: Storage, folder: str, *possible: str, orphans: bool = False) -> ShardSet:
    """One of the possible partitions stands, whole, with the table of rejects that is its own.

    `orphans`: a run was killed, so that data files of nobody may stand beside it, and the table may be the one before.
    """
    committed = open_shards(folder, storage)
    left = ("is named by no commit", "a run was killed before it wrote that") if orphans else ()
    assert [problem for problem in verify(committed) if not any(text in problem for text in left)] == []
    keys = letters_of(committed)
    assert keys in ["".join(sorted(letters)) for letters in possible]
    assert read_with_webdataset(committed)[0] == len(keys)
    if orphans:
        return committed
    table = pq.read_table(io.BytesIO(storage.read(committed.layout.rejects)))
    assert set(table["key"].to_pylist()) == {f"{key}2" for key in keys if key.isupper()}
    return committed


class Careless(Hooked):
    """Removes nothing: what a run leaves that dies between its commit and its clean-up."""

    def delete(self, uri: str) -> None:
        pass


def remove(shards: ShardSet) -> None:
    """What a clean-up does to the files of a commit."""
    for entry in shards.commit.shards:
        PLAIN.delete(shards.layout.beside(entry.index))
        PLAIN.delete(shards.layout.data(str(entry.data)))


def test_a_clean_up_spares_what_a_later_run_has_committed_again(folder: str) -> None:
    write(PLAIN, folder, spell("aBc"))
    hooks = {"replaced": ("index.json", lambda: write(PLAIN, folder, spell("aBc")))}
    write(Hooked(hooks=hooks), folder, spell("xY"))
    assert_whole(PLAIN, folder, "aBc")


def test_what_a_clean_up_takes_at_the_last_moment_is_made_again(folder: str) -> None:
    """After the look before the commit: so there is a look after it."""
    old = write(PLAIN, folder, spell("ab"))
    write(Careless(), folder, spell("xy"))
    again = write(Hooked(hooks={"replaced": ("index.json", lambda: remove(old))}), folder, spell("ab"))
    assert again.made == 4
    assert_whole(PLAIN, folder, "ab")


def test_what_is_doomed_is_not_taken_for_standing(folder: str) -> None:
    """The commit that superseded it may be removing it at this moment."""
    write(PLAIN, folder, spell("ab"))
    write(Careless(), folder, spell("xy"))
    assert write(PLAIN, folder, spell("ab")).made == 2
    assert_whole(PLAIN, folder, "ab")


def test_a_delete_that_a_store_carries_out_late_is_mended_by_the_next_run(folder: str) -> None:
    """A request that was under way when the other run committed: the gap that is left without locks."""
    write(PLAIN, folder, spell("ab"))
    hooks = {"delete": (".tar", lambda: write(PLAIN, folder, spell("ab")))}
    write(Hooked(hooks=hooks), folder, spell("xy"))
    write(PLAIN, folder, spell("ab"))
    assert_whole(PLAIN, folder, "ab")


@pytest.mark.parametrize("when", ["replaced index.json", "replace rejects.parquet", "replaced rejects.parquet"])
@pytest.mark.parametrize(("before", "first", "second"), [("ab", "AB", "xy"), ("ab", "AB", "XY"), ("AB", "ab", "XY")])
def test_the_table_of_rejects_is_that_of_the_last_commit(
    folder: str, when: str, before: str, first: str, second: str
) -> None:
    write(PLAIN, folder, spell(before))
    verb, _, name = when.partition(" ")
    write(Hooked(hooks={verb: (name, lambda: write(PLAIN, folder, spell(second)))}), folder, spell(first))
    assert_whole(PLAIN, folder, second)


@pytest.mark.parametrize("when", ["publish .tar", "published .tar", "replace .index.parquet", "move .tar"])
@pytest.mark.parametrize("software", ["", "2"])
def test_the_later_of_two_equal_runs_succeeds_with_the_bytes_of_the_first(
    folder: str, when: str, software: str
) -> None:
    """Whenever the first commits, and whatever bytes the later made."""
    verb, _, name = when.partition(" ")
    first: list[ShardSet] = []
    hooks = {verb: (name, lambda: first.append(write(PLAIN, folder, spell("aB"))))}
    later = write(Hooked(hooks=hooks), folder, spell("aB", software))
    committed = assert_whole(PLAIN, folder, "aB")
    assert committed.commit.digest == later.commit.digest == first[0].commit.digest


@pytest.mark.parametrize("when", ["published .tar", "replace .index.parquet", "replaced .index.parquet"])
@pytest.mark.parametrize("locks", [True, False])
def test_of_a_run_that_dies_with_other_bytes_nothing_is_taken_for_another_shard(
    folder: str, when: str, locks: bool
) -> None:
    """Between its data and its index, of equal size."""

    def die() -> None:
        raise Killed

    verb, _, name = when.partition(" ")
    with pytest.raises(Killed):
        write(Hooked(hooks={verb: (name, die)}), folder, spell("a", "1"))
    committed = write(Storage() if locks else PLAIN, folder, spell("a", "2"))
    assert_whole(PLAIN, folder, "a")
    expected = b"a 1" if when == "replaced .index.parquet" else b"a 2"
    assert [sample.components["txt"] for sample in committed.samples()] == [expected]


def test_a_shard_that_others_removed_and_made_anew_is_committed_as_it_is_now(folder: str) -> None:
    """Between its making and the commit; the others had other software and were killed before their own commit."""
    layout = Layout.at(folder)

    def remake() -> None:
        for info in [*PLAIN.list(layout.folder), *PLAIN.list(layout.side)]:
            PLAIN.delete(info.uri)
        write(PLAIN, folder, spell("a", "2"))
        PLAIN.delete(layout.commit)

    meanwhile = [remake]

    class Engine(LocalEngine):
        def run(self, *arguments: Any) -> Generator[ShardEntry]:
            yield from super().run(*arguments)
            if meanwhile:
                meanwhile.pop()()

    spell("a", "1").write(PLAIN, folder, NAME, Engine(1))
    committed = assert_whole(PLAIN, folder, "a")
    assert b"a 2" in PLAIN.read(committed.urls[0])


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_runs_that_meet_at_the_commit_one_has_to_plan_again(place: NewPlace, kind: Kind) -> None:
    home = place(kind)
    folder = f"{home.uri}/{NAME}"
    hooks = {"replace": ("index.json", lambda: write(home.storage, folder, spell("xyZ")))}
    with pytest.raises(ConflictError, match=r"another run committed|replaced by another writer") as caught:
        write(Hooked(home.credentials, hooks=hooks), folder, spell("ab"))
    assert not caught.value.final
    assert_whole(home.storage, folder, "xyZ")  # what the loser moved in, it moved out


# Killed.


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize(("before", "then"), [("", "aB"), ("ab", "aXy"), ("aBc", "xy")])
def test_killed_between_any_two_requests_the_state_is_the_one_before_or_the_new_one(
    tmp_path: Path, locks: bool, after: bool, before: str, then: str
) -> None:
    for number in range(1, 100):
        folder = f"{root_of(tmp_path, locks)}/{number}/{NAME}"
        storage = Mortal(left=[number], locks=locks, after=after)
        plain = Mortal(locks=locks)
        if before:
            write(plain, folder, spell(before))
        try:
            write(storage, folder, spell(then))
        except Killed:
            commit, _ = read_commit(plain, Layout.at(folder))
            assert commit is not None or not before
            if commit is not None:
                assert letters_of(open_shards(folder, plain)) in ["".join(sorted(text)) for text in (before, then)]
        else:
            assert number > 3
            return
        written = write(plain, folder, spell(then, "other bytes"))
        assert written.made <= len(then)
        assert_whole(plain, folder, then, orphans=not locks)
    raise AssertionError("it never ended")


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize(("before", "then"), [("", "aB"), ("aBc", "xy")])
def test_a_run_that_fails_at_any_request_changes_nothing_among_the_data(
    tmp_path: Path, locks: bool, before: str, then: str
) -> None:
    """A full disk, a store that is away: the run fails, and globs see what they saw, or the whole of the new."""
    for number in range(1, 100):
        folder = f"{root_of(tmp_path, locks)}/{number}/{NAME}"
        storage, plain = Mortal(left=[number], locks=locks, fails=1), Mortal(locks=locks)
        old = {info.uri for info in plain.list(write(plain, folder, spell(before)).folder)} if before else set()
        failures: list[ShardmillError] = []
        try:
            write(storage, folder, spell(then))
        except (EngineError, StorageError) as error:
            failures.append(error)
        if failures:
            assert not failures[0].final
            commit, _ = read_commit(plain, Layout.at(folder))
            found = {info.uri for info in plain.list(folder)}
            new = set(open_shards(folder, plain).urls) if commit else set()
            # Once the commit stands, what failed of its clean-up is one removal: the next run does it.
            assert found == old or (commit is not None and commit.total_samples == len(then) and len(found - new) <= 1)
        else:
            assert number > 3
            return
        write(plain, folder, spell(then))
        assert_whole(plain, folder, then, orphans=not locks)
    raise AssertionError("it never ended")


def test_a_loser_takes_nothing_back_that_a_third_run_has_committed_meanwhile(folder: str) -> None:
    """It put `b` among the data, lost to `xy`, and while it takes back its own, others commit `b`."""

    def overtake() -> None:
        write(PLAIN, folder, spell("xy"))
        loser.hooks["delete"] = ("webdataset_shards/p/", lambda: write(PLAIN, folder, spell("bz")))

    loser = Hooked(hooks={"replace": ("index.json", overtake)})
    with pytest.raises(ConflictError):
        write(loser, folder, spell("abc"))
    committed = assert_whole(PLAIN, folder, "bz", orphans=True)
    assert set(committed.urls) <= {info.uri for info in PLAIN.list(folder)}


def test_the_table_of_a_winner_that_is_damaged_is_not_the_loser_s_failure(folder: str) -> None:
    def win_and_lose_an_index() -> None:
        won = write(PLAIN, folder, spell("aB"))
        PLAIN.delete(won.layout.beside(won.commit.shards[0].index))
        PLAIN.delete(won.layout.rejects)

    hooks = {"replace": ("index.json", win_and_lose_an_index)}
    with pytest.raises(ConflictError) as caught:
        write(Hooked(hooks=hooks), folder, spell("xy"))
    assert not caught.value.final
    assert write(PLAIN, folder, spell("aB")).made == 1
    assert_whole(PLAIN, folder, "aB")


@pytest.mark.parametrize("verb", ["delete", "replaced"])
def test_what_expires_while_it_is_committed_again_stays(folder: str, verb: str, monkeypatch) -> None:
    """A roll-back to a state whose time is over at this moment."""
    now = [time.time()]
    monkeypatch.setattr("shardmill.shards.retention.time.time", lambda: now[0])
    write(PLAIN, folder, spell("ab"), keep_seconds=60)
    write(PLAIN, folder, spell("cd"), keep_seconds=60)
    now[0] += 61
    name = "superseded" if verb == "delete" else "index.json"
    hooks = {verb: (name, lambda: write(PLAIN, folder, spell("ab"), keep_seconds=60))}
    write(Hooked(hooks=hooks), folder, spell("ef"), keep_seconds=60)
    write(PLAIN, folder, spell("ab"), keep_seconds=60)
    assert_whole(PLAIN, folder, "ab", orphans=True)


# Left to chance.

BEFORE = ("", "ab", "aBcd", "xyZ")
THREE = (("aBcd", "aBcd", "aBcd"), ("ab", "xyZ", "ab"), ("aBcd", "aByZ", "ay"), ("ab", "AB", "aBx"))


def both(runs: list[tuple[Storage, str, str]], folder: str) -> list[ShardSet | ConflictError | Killed]:
    barrier = threading.Barrier(len(runs))

    def run(storage: Storage, letters: str, software: str) -> ShardSet | ConflictError | Killed:
        barrier.wait()
        try:
            return write(storage, folder, spell(letters, software))
        except (ConflictError, Killed) as error:
            return error

    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(run, *zip(*runs, strict=True)))


@pytest.mark.parametrize(
    ("kind", "rounds"),
    [("file", 16), ("gs", 8), ("s3", 8)] + [pytest.param(kind, 64, marks=pytest.mark.slow) for kind in KINDS],
)
def test_runs_at_once_leave_the_whole_of_one(place: NewPlace, kind: Kind, rounds: int) -> None:
    """Two or three. Of equal fingerprints they make different bytes; in every other round one is killed somewhere."""
    home, dice = place(kind), random.Random(7)
    storage = home.storage
    for number in range(rounds):
        folder = f"{home.uri}/{number}/{NAME}"
        before, pair = BEFORE[number % 4], THREE[number // 4 % 4][: 2 + number // 16 % 2]
        if before:
            write(storage, folder, spell(before, "0"))
        lives = [dice.randrange(1, 20) if number % 2 else 10**9, 10**9, 10**9][: len(pair)]
        storages = [Mortal(home.credentials, left=[left], after=dice.random() < 0.5) for left in lives]
        results = both([(each, pair[i], str(i)) for i, each in enumerate(storages)], folder)
        survivors = [result for result in results if not isinstance(result, Killed)]
        losers = [result for result in survivors if isinstance(result, ConflictError)]
        assert len(losers) < len(results), results
        assert not any(loser.final for loser in losers)
        assert len(set(pair)) > 1 or not losers  # of equal runs nobody fails
        killed = len(survivors) < len(results)
        if any(isinstance(result, ShardSet) for result in survivors):
            assert_whole(storage, folder, *pair, orphans=killed)
        elif before:
            assert_whole(storage, folder, before, *pair, orphans=True)
        write(storage, folder, spell(pair[1], "3"))
        assert_whole(storage, folder, pair[1], orphans=killed)


@pytest.mark.parametrize("locks", [True, False])
def test_a_table_of_rejects_that_is_behind_is_written_by_the_next_run(folder: str, locks: bool) -> None:
    """The run was killed right after it had replaced the commit."""

    def die() -> None:
        raise Killed

    write(PLAIN, folder, spell("aB"))
    with pytest.raises(Killed):
        write(Hooked(hooks={"replaced": ("index.json", die)}), folder, spell("aC"))
    behind = list(verify(open_shards(folder)))
    assert any("rejects.parquet is not the table of this commit" in problem for problem in behind)
    write(Storage() if locks else PLAIN, folder, spell("aC"))
    table = pq.read_table(open_shards(folder).layout.rejects.removeprefix("file://"))
    assert table["key"].to_pylist() == ["C2"]
