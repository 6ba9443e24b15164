"""Batches: which objects were sealed together is written once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shardmill.errors import ConfigurationError, ConflictError
from shardmill.partitions import batch_number, is_batch_key, read_batch, seal_batch, sealed_batches
from shardmill.sources.manifest import UNREADABLE
from shardmill.storage import ObjectInfo, Storage, join_uri
from tests.servers.places import KINDS, Kind, NewPlace

Write = Callable[..., str]


def infos(*uris: str) -> list[ObjectInfo]:
    return [ObjectInfo(uri, 1, "v", 1.5) for uri in uris]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_sealed_once_and_for_ever(place: NewPlace, kind: Kind) -> None:
    at = place(kind)
    storage, home = at.storage, join_uri(at.uri, "d")
    assert sealed_batches(storage, home) == []
    sealed = seal_batch(storage, home, 1, infos("s3://b/z", "s3://b/写 x"))
    assert (sealed.key, sealed.uris) == ("batch-000001", ["s3://b/z", "s3://b/写 x"])
    with pytest.raises(ConflictError):
        seal_batch(storage, home, 1, infos("s3://b/other"))
    assert read_batch(storage, home, "batch-000001") == sealed
    assert sealed_batches(storage, home) == ["batch-000001"]


def test_batches_are_in_the_order_of_their_numbers(storage: Storage, folder: str) -> None:
    for number in (999_999, 1_000_000, 2):
        seal_batch(storage, folder, number, infos("s3://b/x"))
    storage.replace(join_uri(folder, "batches/notes.txt"), b"a person's", None)
    assert sealed_batches(storage, folder) == ["batch-000002", "batch-999999", "batch-1000000"]
    assert batch_number("batch-1000000") == 1_000_000


def test_a_batch_holds_those_of_its_objects_that_are_there_now(storage: Storage, folder: str, write: Write) -> None:
    uris = [write(name) for name in ("a", "b", "c")]
    batch = seal_batch(storage, folder, 1, [info for uri in uris if (info := storage.stat(uri))])
    storage.delete(uris[1])
    write("c", b"other data")
    assert list(batch.objects(storage)) == [storage.stat(uris[0]), storage.stat(uris[2])]


def test_an_object_that_cannot_be_looked_at_stays_in_its_batch_and_stops_no_other(
    storage: Storage, folder: str, write: Write
) -> None:
    uris = [write("a"), write("b")]
    batch = seal_batch(storage, folder, 1, [info for uri in uris if (info := storage.stat(uri))])
    loop = Path(uris[0].removeprefix("file://"))
    loop.unlink()
    loop.symlink_to(loop.name)
    assert list(batch.objects(storage)) == [ObjectInfo(uris[0], 0, UNREADABLE, 0.0), storage.stat(uris[1])]


def test_a_batch_that_was_never_sealed_is_named_in_the_refusal(storage: Storage, folder: str) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no batch 'batch-000007': .*batch-000007\.parquet"):
        read_batch(storage, folder, "batch-000007")


@pytest.mark.parametrize(
    ("key", "is_one"),
    [("batch-000001", True), ("batch-1234567", True), ("batch-1", False), ("batch-00000x", False), ("x", False)],
)
def test_a_batch_has_a_number_of_six_digits_or_more(key: str, is_one: bool) -> None:
    assert is_batch_key(key) == is_one
