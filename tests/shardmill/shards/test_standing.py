"""What is taken for standing: shards of which every file is there, whole."""

from pathlib import Path

import pytest

from shardmill.shards.reader import ShardSet
from shardmill.shards.standing import standing
from shardmill.storage import Storage
from tests.spelling import NAME, spell, write


@pytest.fixture
def shards(storage: Storage, folder: str) -> ShardSet:
    """Two of them."""
    return write(storage, f"{folder}/{NAME}", spell("ab"))


def found(shards: ShardSet) -> set[str]:
    """The fingerprints of those of the commit that stand."""
    planned = [(entry.id, entry.fingerprint) for entry in shards.commit.shards]
    return set(standing(shards.storage, shards.layout, planned, shards.commit))


@pytest.mark.parametrize("place", ["data", "staged", "superseded"])
def test_a_shard_whose_data_have_another_size_does_not_stand_wherever_they_are(shards: ShardSet, place: str) -> None:
    first, second = shards.commit.shards
    name = str(first.data)
    uri = getattr(shards.layout, place)(name)
    if place != "data":
        shards.storage.move(shards.layout.data(name), uri)
    assert found(shards) == {first.fingerprint, second.fingerprint}
    file = Path(uri.removeprefix("file://"))
    file.write_bytes(file.read_bytes()[:-1])
    assert found(shards) == {second.fingerprint}


def test_a_shard_whose_index_has_another_size_does_not_stand(shards: ShardSet) -> None:
    first, second = shards.commit.shards
    file = Path(shards.layout.beside(first.index).removeprefix("file://"))
    file.write_bytes(file.read_bytes() + b"\0")
    assert found(shards) == {second.fingerprint}
