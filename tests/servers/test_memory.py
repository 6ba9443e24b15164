"""The bucket in memory keeps the promises of `Storage`."""

from pathlib import Path

import pytest

from shardmill.errors import ConflictError
from shardmill.storage.check import check_storage
from tests.servers.memory import MemoryStorage

BUCKET = "memory://promises"
STORAGE = MemoryStorage()


def test_every_verb_that_storage_needs_works() -> None:
    assert {each.verb: each.problem for each in check_storage(STORAGE, BUCKET)} == dict.fromkeys(
        ("list", "write", "read", "replace", "delete")
    )
    assert list(STORAGE.list(BUCKET)) == []


def test_of_two_writers_the_first_wins() -> None:
    uri = f"{BUCKET}/a"
    first = STORAGE.replace(uri, b"one", None)
    for stale in (None, "0"):
        with pytest.raises(ConflictError):
            STORAGE.replace(uri, b"two", stale)
    assert STORAGE.replace(uri, b"two", first) != first
    assert STORAGE.read(uri) == b"two"
    STORAGE.delete(uri)


def test_what_is_published_is_listed_copied_and_moved(tmp_path: Path) -> None:
    for name in ("b/1", "b/2", "bc"):
        (tmp_path / "file").write_bytes(name.encode())
        STORAGE.publish(tmp_path / "file", f"{BUCKET}/{name}")
    assert not (tmp_path / "file").exists()
    assert [info.uri for info in STORAGE.list(f"{BUCKET}/b")] == [f"{BUCKET}/b/1", f"{BUCKET}/b/2"]
    assert [info.uri for info in STORAGE.list(BUCKET, after=f"{BUCKET}/b/1")] == [f"{BUCKET}/b/2", f"{BUCKET}/bc"]
    STORAGE.copy(f"{BUCKET}/b/1", f"{BUCKET}/copied")
    STORAGE.move(f"{BUCKET}/b/2", f"{BUCKET}/moved")
    assert STORAGE.read_range(f"{BUCKET}/moved", 2, 9) == b"2"
    assert STORAGE.stat(f"{BUCKET}/b/2") is None
    with pytest.raises(FileNotFoundError):
        STORAGE.read(f"{BUCKET}/b/2")
