"""What a kind of store implements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from shardmill.storage.objects import FolderOf, ObjectInfo, PassedOver


class Store(Protocol):
    """What a kind of store implements; the guarantees are those of `Storage`."""

    @property
    def excludes(self) -> bool:
        """Whether `exclusive` keeps others out."""

    def list(  # noqa: D102
        self,
        folder: str,
        after: str | None = None,
        first_of: FolderOf | None = None,
        passed_over: PassedOver | None = None,
    ) -> Iterator[ObjectInfo]: ...
    def stat(self, uri: str) -> ObjectInfo | None: ...  # noqa: D102
    def open(self, uri: str) -> tuple[BinaryIO, ObjectInfo]: ...  # noqa: D102
    def read_version(self, uri: str) -> tuple[bytes, ObjectInfo]: ...  # noqa: D102
    def read_range(self, uri: str, offset: int, length: int) -> bytes: ...  # noqa: D102
    def publish(self, file: Path, uri: str) -> None: ...  # noqa: D102
    def replace(self, uri: str, data: bytes, expected: str | None) -> str: ...  # noqa: D102
    def copy(self, source: str, target: str) -> None: ...  # noqa: D102
    def move(self, source: str, target: str) -> None: ...  # noqa: D102
    def delete(self, uri: str) -> None: ...  # noqa: D102
    def check_writable(self, folder: str) -> None: ...  # noqa: D102
    def check_movable(self, source: str, target: str) -> None: ...  # noqa: D102
    def honours_preconditions(self, folder: str) -> bool: ...  # noqa: D102
    def scratch(self, folder: str) -> AbstractContextManager[Path]: ...  # noqa: D102
    def sweep(self, folder: str) -> None: ...  # noqa: D102
    def exclusive(self, folder: str) -> AbstractContextManager[None]: ...  # noqa: D102
    def filesystem(self) -> Any: ...  # noqa: D102

    @property
    def identity(self) -> str:
        """Who we are to the store; never a secret."""
