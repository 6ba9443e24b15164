"""`Storage`: the verbs over URIs, each sent to the store that its URI leads to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from shardmill.storage.credentials import Credentials
from shardmill.storage.objects import FolderOf, ObjectInfo, PassedOver
from shardmill.storage.store import Store
from shardmill.storage.stores import store_of


@dataclass(frozen=True)
class Storage:
    """The verbs over URIs. Picklable; opens nothing until it is used, in the process that uses it.

    What can be tried again has been, up to a deadline, before a verb raises.

    Raises:
        StorageError: In every verb: a store cannot do it.
        AccessDeniedError: In every verb: a store refuses.
        ConfigurationError: In every verb: the credentials are none.
    """

    credentials: tuple[Credentials, ...] = ()
    """For the URIs with their prefixes; elsewhere the defaults of the clouds' own tools count."""

    def store(self, uri: str) -> Store:
        """The store that a URI leads to, with the credentials for it."""
        return store_of(uri, self.credentials)

    def list(
        self,
        folder: str,
        after: str | None = None,
        first_of: FolderOf | None = None,
        passed_over: PassedOver | None = None,
    ) -> Iterator[ObjectInfo]:
        """Every object below `folder`, in no promised order; nothing if it does not exist.

        Args:
            folder: The URI of the folder.
            after: A URI: only objects whose names come after it; an object store looks at no others.
            first_of: Of each folder that it names, the first object alone; the listing leaps over the others.
            passed_over: Told of pipes, sockets, devices and loops of links, which are no objects. Buckets have none.
        """
        return self.store(folder).list(folder, after, first_of, passed_over)

    def stat(self, uri: str) -> ObjectInfo | None:
        """The object's size and version, None if there is none."""
        return self.store(uri).stat(uri)

    def open(self, uri: str) -> tuple[BinaryIO, ObjectInfo]:
        """A seekable stream over the object, and the version that it reads.

        Raises:
            FileNotFoundError: There is none.
        """
        return self.store(uri).open(uri)

    def read(self, uri: str) -> bytes:
        """The object's bytes.

        Raises:
            FileNotFoundError: There is none.
        """
        return self.read_version(uri)[0]

    def read_version(self, uri: str) -> tuple[bytes, ObjectInfo]:
        """The object's bytes and the version that they are.

        Raises:
            FileNotFoundError: There is none.
        """
        return self.store(uri).read_version(uri)

    def read_range(self, uri: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer only where the object ends.

        Raises:
            FileNotFoundError: There is none.
        """
        return self.store(uri).read_range(uri, offset, length)

    def publish(self, file: Path, uri: str) -> None:
        """Move a finished local file to `uri`, whole or not at all, over whatever stood there."""
        self.store(uri).publish(file, uri)

    def replace(self, uri: str, data: bytes, expected: str | None) -> str:
        """Replace a small object whole, if its version is still `expected` (None: it does not exist yet).

        Returns the new version.

        Raises:
            ConflictError: Another writer was first; nothing is changed.
        """
        return self.store(uri).replace(uri, data, expected)

    def copy(self, source: str, target: str) -> None:
        """Copy an object within its store, whole or not at all, over whatever stood at `target`.

        The server of an object store copies.

        Raises:
            FileNotFoundError: There is no such object.
        """
        self.store(source).copy(source, target)

    def move(self, source: str, target: str) -> None:
        """Move an object within its store, whole or not at all, over whatever stood at `target`.

        Its time is then that of the move. A move that breaks off may leave the object in both places.

        Raises:
            FileNotFoundError: It is not there.
        """
        self.store(source).move(source, target)

    def delete(self, uri: str) -> None:
        """Remove the object if it is there."""
        self.store(uri).delete(uri)

    def check_writable(self, folder: str) -> None:
        """Raise, before any work is done for nothing, what writing and deleting below `folder` would raise."""
        self.store(folder).check_writable(folder)

    def check_movable(self, source: str, target: str) -> None:
        """Raise, before any work is done for nothing, what moving from one folder to the other would raise."""
        self.store(target).check_movable(source, target)

    def scratch(self, folder: str) -> AbstractContextManager[Path]:
        """A private local directory for files on their way to `folder`, removed afterwards.

        What a killed process left in one is removed the next time somebody asks for scratch space there, or, for an
        object store, by whoever cleans the system's temporary files.
        """
        return self.store(folder).scratch(folder)

    def sweep(self, folder: str) -> None:
        """Remove the scratch space of killed processes that is left anywhere below `folder`."""
        self.store(folder).sweep(folder)

    def exclusive(self, folder: str) -> AbstractContextManager[None]:
        """Keep other writers' exclusive sections over the same folder out, where the store can do that."""
        return self.store(folder).exclusive(folder)

    def excludes(self, folder: str) -> bool:
        """Whether `exclusive` keeps others out of the folder: a local disk does, an object store has no locks."""
        return self.store(folder).excludes

    def filesystem(self, uri: str) -> Any:
        """The fsspec file system for a URI, with its credentials: for pandas, pyarrow, and code of one's own."""
        return self.store(uri).filesystem()
