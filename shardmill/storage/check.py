"""What a URI's credentials allow, found out by doing it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from shardmill.errors import ConflictError, ShardmillError, StorageError
from shardmill.storage.credentials import GCSCredentials, S3Credentials
from shardmill.storage.object_names import PROBE
from shardmill.storage.object_store import UPLOAD_PART_BYTES
from shardmill.storage.storage import Storage
from shardmill.storage.uris import join_uri

SOURCE_VERBS = ("list", "read")
"""What a dataset's source needs; its root needs all."""


_DEADLINE_SECONDS = 15.0


@dataclass(frozen=True)
class Finding:
    """Whether a verb works."""

    verb: str
    problem: str | None = None
    """None if it works."""


def check_storage(storage: Storage, folder: str, source_only: bool = False) -> Iterator[Finding]:
    """List, read, write, replace and delete below `folder`, with a probe object that is gone afterwards."""
    uri = join_uri(folder, f"{PROBE}-{uuid.uuid4().hex}")
    listed: list[str] = []

    def list_first() -> None:
        listed.extend(info.uri for _, info in zip(range(1), storage.list(folder), strict=False))

    def read_listed() -> None:
        first = listed[0] if listed else uri  # who may not read is refused an object that does not exist, too
        with suppress(FileNotFoundError):
            storage.read_range(first, 0, 1)

    yield _tried("list", list_first)
    if source_only:
        yield _tried("read", read_listed)
        return
    written = _tried("write", lambda: _write(storage, folder, uri))
    if written.problem:
        yield _tried("read", read_listed)
        yield written
        return
    yield _tried("read", lambda: _read_back(storage, uri))
    yield written
    yield _tried("replace", lambda: _replace(storage, uri))
    yield _tried("delete", lambda: storage.delete(uri))


def impatient(storage: Storage) -> Storage:
    """The same credentials, for somebody who waits for an answer: nothing is tried again for minutes."""
    return replace(
        storage,
        credentials=tuple(
            item.model_copy(update={"deadline_seconds": min(item.deadline_seconds, _DEADLINE_SECONDS)})
            for item in (*storage.credentials, GCSCredentials(), S3Credentials())
        ),
    )


def _tried(verb: str, act: Callable[[], object]) -> Finding:
    try:
        act()
    except (ShardmillError, FileNotFoundError) as error:
        return Finding(verb, str(error))
    return Finding(verb)


def _write(storage: Storage, folder: str, uri: str) -> None:
    with storage.scratch(folder) as scratch:
        file = scratch / "probe"
        file.write_bytes(_content(uri))
        storage.publish(file, uri)


def _read_back(storage: Storage, uri: str) -> None:
    if storage.read(uri) != _content(uri):
        raise StorageError(f"{uri} is not what was written")


def _content(uri: str) -> bytes:
    """So much that it goes up in parts, which needs a permission of its own on Google Cloud Storage."""
    return uri.encode().ljust(UPLOAD_PART_BYTES + 1)


def _replace(storage: Storage, uri: str) -> None:
    version = storage.read_version(uri)[1].version
    newer = storage.replace(uri, b"second", version)
    for stale in (None, version):
        try:
            storage.replace(uri, b"third", stale)
        except ConflictError:
            continue
        raise StorageError(
            "the store ignores write preconditions: of two runs that commit one partition at the same moment, "
            "the later would silently replace the earlier's index. Run one at a time"
        )
    storage.replace(uri, b"fourth", newer)
