"""One shard of a commit: found wherever its data are, and handed over only as it was committed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardmill.errors import CorruptionError, SupersededError
from shardmill.shards.reader import ShardSet, open_shards
from shardmill.shards.retention import kept_commit_name
from shardmill.shards.stored import StoredShard
from shardmill.shards.ustar import TarWriter
from shardmill.storage import Storage
from tests.spelling import NAME, letters_of, spell, write


@pytest.fixture
def shards(storage: Storage, folder: str) -> ShardSet:
    return write(storage, f"{folder}/{NAME}", spell("a"))


@pytest.fixture
def shard(shards: ShardSet) -> StoredShard:
    """Its only one: a sample `a` with the component `txt`."""
    (only,) = shards.shards
    return only


def rewrite(shard: StoredShard, *members: tuple[str, str, bytes]) -> None:
    """Put another whole tar in the place of a shard's."""
    with Path(shard.layout.data(shard.file_name).removeprefix("file://")).open("wb") as stream:
        tar = TarWriter(stream)
        for member in members:
            tar.write(*member)
        tar.close()


@pytest.mark.parametrize("place", ["data", "staged", "superseded"])
def test_data_are_read_wherever_they_are(shards: ShardSet, shard: StoredShard, place: str) -> None:
    if place != "data":
        uri = getattr(shard.layout, place)(shard.file_name)
        shards.storage.move(shard.layout.data(shard.file_name), uri)
    assert letters_of(shards) == "a"
    assert shards.sample("a").components["txt"] == b"a "


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a", "txt", b"b ")], r"a\.txt in .* is not what the index says"),
        ([("a", "cls", b"a ")], "disagree at a"),
        ([("a", "cls", b"1"), ("a", "txt", b"a ")], "disagree at a"),
        ([("b", "txt", b"a ")], "disagree at b"),
        ([("a", "txt", b"a "), ("b", "txt", b"a ")], "disagree at b"),
        ([], "lacks samples that its index names"),
    ],
)
def test_another_tar_is_not_handed_over_as_the_shard(
    storage: Storage, shard: StoredShard, members: list[tuple[str, str, bytes]], said: str
) -> None:
    rewrite(shard, *members)
    with pytest.raises(CorruptionError, match=said):
        list(shard.read(storage))


def test_a_sample_that_is_read_by_itself_is_compared_too(shards: ShardSet, shard: StoredShard) -> None:
    rewrite(shard, ("a", "txt", b"b "))
    with pytest.raises(CorruptionError, match=r"a\.txt in .* is not what the index says"):
        shards.sample("a")


@pytest.mark.parametrize("field", ["id", "fingerprint", "url"])
def test_an_index_is_that_of_its_own_shard_alone(storage: Storage, shard: StoredShard, field: str) -> None:
    """The bytes are those that the entry names, and they say that they are another's."""
    update = {"id": "ffffff", "fingerprint": "f" * 64, "url": "../../../webdataset_shards/p/other.tar"}
    other = StoredShard(shard.layout, shard.entry.model_copy(update={field: update[field]}))
    with pytest.raises(CorruptionError, match=f"is the index of shard {shard.id}, not of"):
        other.index_data(storage)


@pytest.mark.parametrize("committed", [True, False])
def test_an_index_of_other_bytes_is_damage_where_it_is_committed_and_else_the_affair_of_another_run(
    shards: ShardSet, shard: StoredShard, committed: bool
) -> None:
    if not committed:
        write(shards.storage, shards.folder, spell("b"))
    uri = shard.layout.beside(shard.entry.index)
    Path(uri.removeprefix("file://")).write_bytes(b"other")
    with pytest.raises(CorruptionError if committed else SupersededError):
        shard.index_data(shards.storage)


def test_of_kept_states_the_last_that_was_superseded_comes_first(shards: ShardSet) -> None:
    def states() -> Iterator[str]:
        for letters in "bcd":
            yield write(shards.storage, shards.folder, spell(letters), keep_seconds=1000).digest[:16]

    first, second, third = states()
    for seconds, digest in ((3, second), (2, first), (1, shards.digest)):
        file = Path(shards.layout.superseded(kept_commit_name(digest)).removeprefix("file://"))
        os.utime(file, (seconds, seconds))
    now = open_shards(shards.folder, shards.storage)
    assert now.digest.startswith(third)
    assert now.kept() == [second, first, shards.digest[:16]]
