"""What is taken for standing: shards of which every file is there, whole."""

from pathlib import Path

import pytest

from shardmill.shards.layout import picture_name
from shardmill.shards.reader import ShardSet
from shardmill.shards.standing import Listing, list_files, standing
from shardmill.storage import Storage
from tests.spelling import NAME, Hooked, spell, write


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


@pytest.mark.parametrize("file", ["data", "index"])
def test_what_another_run_may_be_removing_stands_only_where_a_lock_keeps_it_out(shards: ShardSet, file: str) -> None:
    """The commit that stands has superseded both shards."""
    first, second = shards.commit.shards
    now = write(shards.storage, shards.folder, spell("xy"), keep_seconds=60).commit
    for entry in (first, second):
        shards.storage.move(shards.layout.superseded(str(entry.data)), shards.layout.data(str(entry.data)))
    removing = now.model_copy(update={"superseded": [getattr(first, file)]})
    planned = [(entry.id, entry.fingerprint) for entry in (first, second)]
    assert len(standing(shards.storage, shards.layout, planned, removing)) == 2
    assert set(standing(Hooked(), shards.layout, planned, removing)) == {second.fingerprint}


@pytest.mark.parametrize("gone", [True, False])
def test_a_shard_without_its_picture_does_not_stand(shards: ShardSet, gone: bool) -> None:
    """Whether that is gone, or may be going at this moment."""
    listing = list_files(shards.storage, shards.layout)
    name = picture_name("000000", "0" * 64, "0" * 64)
    drawn = shards.commit.shards[0].model_copy(update={"picture": name})
    whole = Listing(listing.data, {**listing.side, name: listing.side["index.json"]})
    assert whole.has(drawn)
    assert not (Listing(listing.data, listing.side).has(drawn) if gone else whole.has(drawn, frozenset([name])))
