"""`Storage` sends each URI to the store that its scheme names."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from shardmill.errors import ConfigurationError, StorageError


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object, as a listing gives it."""

    uri: str
    size: int
    """Bytes."""
    version: str
    """Changes whenever the object's bytes are replaced: a generation, an ETag, or for a local file mtime and size."""
    modified: float
    """Seconds since the epoch."""


class Store(Protocol):
    """What a kind of store implements; the guarantees are those of `Storage`."""

    def list(self, folder: str) -> Iterator[ObjectInfo]: ...  # noqa: D102
    def stat(self, uri: str) -> ObjectInfo | None: ...  # noqa: D102
    def open(self, uri: str) -> tuple[BinaryIO, ObjectInfo]: ...  # noqa: D102
    def publish(self, file: Path, uri: str) -> None: ...  # noqa: D102
    def replace(self, uri: str, data: bytes, expected: str | None) -> str: ...  # noqa: D102
    def delete(self, uri: str) -> None: ...  # noqa: D102
    def scratch(self, folder: str) -> AbstractContextManager[Path]: ...  # noqa: D102
    def exclusive(self, folder: str) -> AbstractContextManager[None]: ...  # noqa: D102


def _local() -> Store:
    from shardmill.storage.local import LocalStore

    return LocalStore()


_STORES: dict[str, Callable[[], Store]] = {"file": _local}


@dataclass(frozen=True)
class Storage:
    """The verbs over URIs. Picklable; opens nothing until it is used, in the process that uses it."""

    def _store(self, uri: str) -> Store:
        scheme = uri.partition("://")[0]
        try:
            return _STORES[scheme]()
        except KeyError:
            known = ", ".join(f"{name}://" for name in _STORES)
            raise ConfigurationError(f"cannot store at {uri}: only {known} is supported") from None

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """Every object below `folder`, in no promised order; nothing if it does not exist. Raises StorageError."""
        return self._store(folder).list(folder)

    def stat(self, uri: str) -> ObjectInfo | None:
        """The object's size and version, None if there is none. Raises StorageError."""
        return self._store(uri).stat(uri)

    def open(self, uri: str) -> tuple[BinaryIO, ObjectInfo]:
        """A stream over the object and the version that it reads. Raises FileNotFoundError, StorageError."""
        return self._store(uri).open(uri)

    def read(self, uri: str) -> bytes:
        """The object's bytes. Raises FileNotFoundError, StorageError."""
        return self.read_version(uri)[0]

    def read_version(self, uri: str) -> tuple[bytes, ObjectInfo]:
        """The object's bytes and the version that they are. Raises FileNotFoundError, StorageError."""
        stream, info = self.open(uri)
        try:
            with stream:
                data = stream.read()
        except OSError as error:
            raise StorageError(f"cannot read {uri}: {error}") from error
        if len(data) != info.size:
            raise StorageError(f"{uri} was written to while it was read: {info.size} bytes were {len(data)} at the end")
        return data, info

    def publish(self, file: Path, uri: str) -> None:
        """Move a finished local file to `uri`, whole or not at all, over whatever stood there. Raises StorageError."""
        self._store(uri).publish(file, uri)

    def replace(self, uri: str, data: bytes, expected: str | None) -> str:
        """Replace a small object whole, if its version is still `expected` (None: it does not exist yet).

        Returns the new version. Raises ConflictError if another writer was first; nothing is changed then.
        """
        return self._store(uri).replace(uri, data, expected)

    def delete(self, uri: str) -> None:
        """Remove the object if it is there. Raises StorageError."""
        self._store(uri).delete(uri)

    def scratch(self, folder: str) -> AbstractContextManager[Path]:
        """A private local directory for files on their way to `folder`, removed afterwards.

        What a killed process left in one is removed the next time somebody asks for scratch space there.
        """
        return self._store(folder).scratch(folder)

    def exclusive(self, folder: str) -> AbstractContextManager[None]:
        """Keeps other writers' exclusive sections over the same folder out, where the store can do that."""
        return self._store(folder).exclusive(folder)
