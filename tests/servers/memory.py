"""A bucket in this process's memory, for tests in which the wire is not what is tested: `memory://name/…`."""

import io
import itertools
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from shardmill.errors import ConflictError
from shardmill.storage import ObjectInfo, Storage
from shardmill.storage.objects import FolderOf, PassedOver
from shardmill.storage.store import Store

SCHEME = "memory://"


class MemoryStore(Store):
    """Objects by URI, as an object store has them: no locks, versions that are never the same twice."""

    excludes = False
    identity = "this process"

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, ObjectInfo]] = {}
        self._lock = threading.Lock()
        self._versions = itertools.count(1)

    def list(
        self,
        folder: str,
        after: str | None = None,
        first_of: FolderOf | None = None,
        passed_over: PassedOver | None = None,
    ) -> Iterator[ObjectInfo]:
        with self._lock:
            infos = [info for _, info in self._objects.values()]
        prefix, last = f"{folder.rstrip('/')}/", None
        for info in sorted(infos, key=lambda info: info.uri):
            if info.uri.startswith(prefix) and (after is None or info.uri > after):
                of = first_of(info.uri) if first_of else None
                if of is None or of != last:
                    yield info
                last = of

    def stat(self, uri: str) -> ObjectInfo | None:
        found = self._objects.get(uri)
        return found[1] if found else None

    def open(self, uri: str) -> tuple[BinaryIO, ObjectInfo]:
        data, info = self.read_version(uri)
        return io.BytesIO(data), info

    def read_version(self, uri: str) -> tuple[bytes, ObjectInfo]:
        found = self._objects.get(uri)
        if found is None:
            raise FileNotFoundError(uri)
        return found

    def read_range(self, uri: str, offset: int, length: int) -> bytes:
        return self.read_version(uri)[0][offset : offset + length]

    def publish(self, file: Path, uri: str) -> None:
        with self._lock:
            self._put(uri, file.read_bytes())
        file.unlink()

    def replace(self, uri: str, data: bytes, expected: str | None) -> str:
        with self._lock:
            present = self.stat(uri)
            if (present.version if present else None) != expected:
                raise ConflictError(f"{uri} was replaced by another writer")
            return self._put(uri, data)

    def copy(self, source: str, target: str) -> None:
        with self._lock:
            self._put(target, self.read_version(source)[0])

    def move(self, source: str, target: str) -> None:
        self.copy(source, target)
        self.delete(source)

    def delete(self, uri: str) -> None:
        with self._lock:
            self._objects.pop(uri, None)

    def check_writable(self, folder: str) -> None: ...

    def check_movable(self, source: str, target: str) -> None: ...

    def honours_preconditions(self, folder: str) -> bool:
        return True

    @contextmanager
    def scratch(self, folder: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)

    def sweep(self, folder: str) -> None: ...

    def exclusive(self, folder: str) -> AbstractContextManager[None]:
        return nullcontext()

    def filesystem(self) -> Any:
        raise NotImplementedError("nothing outside this process reads it")

    def _put(self, uri: str, data: bytes) -> str:
        version = str(next(self._versions))
        self._objects[uri] = (data, ObjectInfo(uri, len(data), version, time.time()))
        return version


_STORE = MemoryStore()


@dataclass(frozen=True)
class MemoryStorage(Storage):
    """Storage that knows `memory://` too. Every test takes a bucket's name of its own."""

    def store(self, uri: str) -> Store:
        return _STORE if uri.startswith(SCHEME) else super().store(uri)
