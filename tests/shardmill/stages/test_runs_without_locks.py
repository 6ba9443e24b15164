"""Runs of one partition at once on stores without locks: one whole partition is left, whoever comes when.

The orders that matter are forced, on a local folder that pretends to have no locks; then left to chance on real stores.
"""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest

from shardmill.engines import LocalEngine
from shardmill.errors import ConflictError
from shardmill.shards.commit import ShardEntry, file_names
from shardmill.shards.index import IndexWriter, Source
from shardmill.shards.layout import Layout
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.ustar import TarWriter
from shardmill.stages.shard_set import LazyShardSet, ShardSet
from shardmill.stages.stage import OutputFiles, Work
from shardmill.storage import Storage, join_uri
from shardmill.verify import read_with_webdataset, verify
from tests.servers.places import KINDS, Kind, NewPlace

LAYOUT = Layout("tar")
NAME = "d/webdataset_shards/p"


@dataclass(frozen=True)
class Letter:
    """An input shard; a capital letter is rejected."""

    id: str
    letter: str
    samples = 2

    def identity(self) -> Any:
        return self.letter


@dataclass(frozen=True)
class Spell:
    """A stage; `version_of_software` changes the bytes and not the fingerprint."""

    version_of_software: str = ""
    name = "pack"
    version = 1
    suffix: Literal["tar"] = "tar"
    exclusive = True
    gpu = None

    def parameters(self) -> dict[str, Any]:
        return {}

    def __call__(self, shard: Letter, work: Work) -> tuple[OutputFiles, ShardReport]:
        file, index = work.scratch / "data.tar", IndexWriter()
        data = f"{shard.letter} {self.version_of_software}".encode()
        with file.open("wb") as stream:
            tar = TarWriter(stream)
            digest = hashlib.sha256(data).hexdigest()
            offset = tar.write(shard.letter, "txt", data)
            index.add(shard.letter, "txt", offset, len(data), digest, Source("mem://x", "1", digest))
            sha256 = tar.close()
        rejects = [Reject(key=f"{shard.letter}2", reason="capital")] if shard.letter.isupper() else []
        filtered = 1 - len(rejects)
        report = ShardReport(
            samples_in=2, kept=1, filtered=filtered, samples=1, bytes=tar.size, sha256=sha256, rejects=rejects
        )
        return OutputFiles(file, index), report


def spell(letters: str, software: str = "") -> LazyShardSet:
    return LazyShardSet(Spell(software), [Letter(f"{ord(letter):06x}", letter) for letter in letters])


def write(storage: Storage, folder: str, lazy: LazyShardSet) -> ShardSet:
    return lazy.write(storage, folder, NAME, LocalEngine(1))


def assert_whole(storage: Storage, folder: str, *possible: str, tidy: bool = True) -> ShardSet:
    """One of the possible partitions stands, whole, with the table of rejects that is its own.

    `tidy`: nothing else stands beside it, as far as `verify` looks.
    """
    committed = ShardSet.open(storage, folder, "tar")
    assert [problem for problem in verify(committed) if tidy or "is named by no index" not in problem] == []
    keys = {sample.key for shard in committed.shards for sample, _ in shard.read(storage)}
    assert keys in [set(letters) for letters in possible]
    assert read_with_webdataset(committed)[0] == len(keys)
    table = pq.read_table(io.BytesIO(storage.read(join_uri(folder, LAYOUT.rejects))))
    assert set(table["key"].to_pylist()) == {f"{key}2" for key in keys if key.isupper()}
    return committed


@dataclass(frozen=True)
class Hooked(Storage):
    """A local folder without locks; `hooks[verb]` is called once, before (or after) the verb on a matching URI."""

    hooks: dict[str, tuple[str, Callable[[], object]]] = field(default_factory=dict, compare=False)

    def excludes(self, _: str) -> bool:
        return False

    def exclusive(self, _: str) -> AbstractContextManager[None]:
        return nullcontext()

    def publish(self, file: Path, uri: str) -> None:
        self._call("publish", uri)
        super().publish(file, uri)

    def replace(self, uri: str, data: bytes, expected: str | None) -> str:
        self._call("replace", uri)
        version = super().replace(uri, data, expected)
        self._call("replaced", uri)
        return version

    def delete(self, uri: str) -> None:
        self._call("delete", uri)
        super().delete(uri)

    def _call(self, verb: str, uri: str) -> None:
        if verb in self.hooks and self.hooks[verb][0] in uri:
            self.hooks.pop(verb)[1]()


PLAIN = Hooked()


class Careless(Hooked):
    """Removes nothing: what a run leaves that dies between its commit and its clean-up."""

    def delete(self, uri: str) -> None:
        pass


def shard_files(shards: ShardSet) -> list[str]:
    return [join_uri(shards.folder, name) for entry in shards.commit.shards for name in file_names(entry, LAYOUT)]


def test_a_clean_up_spares_what_a_later_run_has_committed_again(folder: str) -> None:
    write(PLAIN, folder, spell("aBc"))
    hooks = {"replaced": ("index.json", lambda: write(PLAIN, folder, spell("aBc")))}
    write(Hooked(hooks=hooks), folder, spell("xY"))
    assert_whole(PLAIN, folder, "aBc")


def test_what_a_clean_up_takes_at_the_last_moment_is_made_again(folder: str) -> None:
    """After the look before the commit: so there is a look after it."""
    old = write(PLAIN, folder, spell("ab"))
    write(Careless(), folder, spell("xy"))

    def clean_up() -> None:
        for uri in shard_files(old):
            PLAIN.delete(uri)

    again = write(Hooked(hooks={"replaced": ("index.json", clean_up)}), folder, spell("ab"))
    assert again.made == 2
    assert_whole(PLAIN, folder, "ab")


def test_what_a_clean_up_takes_even_later_is_made_again_by_the_next_run(folder: str) -> None:
    """A request to delete that was under way when the other run committed."""
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


def test_of_two_runs_that_make_one_shard_the_second_takes_the_first_ones(folder: str) -> None:
    """The first commits while the second still uploads the same bytes."""
    hooks = {"publish": (".tar", lambda: write(PLAIN, folder, spell("aB")))}
    with pytest.raises(ConflictError, match="another run committed d/webdataset_shards/p"):
        write(Hooked(hooks=hooks), folder, spell("aB"))
    assert_whole(PLAIN, folder, "aB")


def test_of_two_runs_that_make_other_bytes_of_one_shard_neither_commits_a_mixture(folder: str) -> None:
    """The slow one's data lands on the quick one's: before the quick one commits, and it makes the shard again."""
    uploading, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        uploading.set()
        assert go_on.wait(120)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(write, Hooked(hooks={"publish": (".tar", wait)}), folder, spell("a", "2"))
        assert uploading.wait(120)

        def overtake() -> None:
            go_on.set()
            with pytest.raises(ConflictError, match=r"other bytes of it.*same versions of software"):
                slow.result(120)

        write(Hooked(hooks={"replace": ("index.json", overtake)}), folder, spell("a", "1"))
    assert_whole(PLAIN, folder, "a")


def test_data_that_lands_on_a_committed_shard_is_no_shard_and_the_next_run_makes_it_again(folder: str) -> None:
    hooks = {"publish": (".tar", lambda: write(PLAIN, folder, spell("a", "1")))}
    with pytest.raises(ConflictError, match="other bytes of it"):
        write(Hooked(hooks=hooks), folder, spell("a", "2"))
    assert write(PLAIN, folder, spell("a", "2")).made == 1
    assert_whole(PLAIN, folder, "a")


def test_a_shard_that_others_removed_and_made_anew_is_committed_as_it_is_now(folder: str) -> None:
    """Between its making and the commit; the others had other software and were killed before their own commit."""

    def remake() -> None:
        for info in list(PLAIN.list(folder)):
            PLAIN.delete(info.uri)
        write(PLAIN, folder, spell("a", "2"))
        PLAIN.delete(join_uri(folder, LAYOUT.commit))

    meanwhile = [remake]

    class Engine(LocalEngine):
        def run(self, *arguments: Any) -> Iterator[ShardEntry]:
            yield from super().run(*arguments)
            if meanwhile:
                meanwhile.pop()()

    spell("a", "1").write(PLAIN, folder, NAME, Engine(1))
    committed = assert_whole(PLAIN, folder, "a")
    assert b"a 2" in PLAIN.read(committed.urls[0])


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_runs_that_meet_at_the_commit_one_loses(place: NewPlace, kind: Kind) -> None:
    home = place(kind)
    folder = f"{home.uri}/met"
    hooks = {"replace": ("index.json", lambda: write(home.storage, folder, spell("xyZ")))}
    with pytest.raises(ConflictError, match="another run committed d/webdataset_shards/p"):
        write(Hooked(home.credentials, hooks=hooks), folder, spell("ab"))
    assert_whole(home.storage, folder, "xyZ", tidy=False)


# Left to chance.

BEFORE = ("", "ab", "aBcd", "xyZ")
PAIRS = (("aBcd", "aBcd"), ("ab", "xyZ"), ("aBcd", "aByZ"), ("ab", "AB"))


def both(storage: Storage, folder: str, pair: tuple[str, str]) -> list[ShardSet | ConflictError]:
    barrier = threading.Barrier(2)

    def run(letters: str) -> ShardSet | ConflictError:
        barrier.wait()
        try:
            return write(storage, folder, spell(letters))
        except ConflictError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, pair))


@pytest.mark.parametrize(
    ("kind", "rounds"),
    [(kind, 16) for kind in KINDS] + [pytest.param(kind, 200, marks=pytest.mark.slow) for kind in KINDS],
)
def test_two_runs_at_once_leave_the_whole_of_one(place: NewPlace, kind: Kind, rounds: int) -> None:
    home = place(kind)
    storage = home.storage
    for number in range(rounds):
        folder = f"{home.uri}/{number}"
        before, pair = BEFORE[number % 4], PAIRS[number // 4 % 4]
        if before:
            write(storage, folder, spell(before))
        results = both(storage, folder, pair)
        losers = [result for result in results if isinstance(result, ConflictError)]
        assert len(losers) < 2, losers
        for loser in losers:
            assert "another run committed d/webdataset_shards/p" in str(loser)
        assert_whole(storage, folder, *pair, tidy=False)
        write(storage, folder, spell(pair[1]))
        assert_whole(storage, folder, pair[1])
