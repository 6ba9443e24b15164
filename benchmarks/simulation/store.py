"""A bucket of names that formulas give. It keeps the small objects that are written, and of large ones the size.

Listings go through the code of the real object stores, page by page; what a request is, is counted here. `seconds` is
what answering took: whoever measures takes it off.
"""

from __future__ import annotations

import bisect
import heapq
import io
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from typing_extensions import override

from shardmill.errors import ConflictError
from shardmill.storage import GCSCredentials, ObjectInfo, Storage
from shardmill.storage.object_store import ObjectStore
from shardmill.storage.store import Store

BUCKET = "gs://simulated"
PAGE = 1000
MODIFIED = 1_767_225_600.0
"""Of every object that a formula gives, in seconds since the epoch."""
T = TypeVar("T")


class Names(ABC):
    """Objects by number, in the order of their names."""

    prefix: str
    """Begins each name."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, number: int) -> str:
        """Below the bucket."""

    def size(self, number: int) -> int:  # noqa: ARG002
        """Bytes."""
        return 110_000

    def read(self, name: str) -> bytes | None:  # noqa: ARG002
        """The content; None for a name that none of them has."""
        return None

    def after(self, prefix: str, name: str) -> Iterator[tuple[str, int]]:
        """Names with this prefix after `name`, each with its size."""
        numbers = range(len(self))
        start = max(
            bisect.bisect_left(numbers, prefix, key=self.name), bisect.bisect_right(numbers, name, key=self.name)
        )
        yield from takewhile(lambda found: found[0].startswith(prefix), self._from(start))

    def _from(self, number: int) -> Iterator[tuple[str, int]]:
        """Names from this number on, each with its size."""
        return ((self.name(each), self.size(each)) for each in range(number, len(self)))

    def find(self, name: str) -> int | None:
        """The size of the object, None if there is none."""
        if not name.startswith(self.prefix):
            return None
        number = bisect.bisect_left(range(len(self)), name, key=self.name)
        return self.size(number) if number < len(self) and self.name(number) == name else None


class Photographs(Names):
    """So many objects in each folder of the source."""

    prefix = "raw/"

    def __init__(self, folders: Sequence[str], each: int) -> None:
        self.folders, self.each = sorted(folders), each

    @override
    def __len__(self) -> int:
        return len(self.folders) * self.each

    @override
    def name(self, number: int) -> str:
        folder, image = divmod(number, self.each)
        return f"raw/{self.folders[folder]}/IMG_{image:07}.jpg"

    @override
    def _from(self, number: int) -> Iterator[tuple[str, int]]:
        folder, first = divmod(number, self.each)
        for place in range(folder, len(self.folders)):
            beginning = f"raw/{self.folders[place]}/IMG_"
            for image in range(first, self.each):
                yield f"{beginning}{image:07}.jpg", 110_000
            first = 0


class SimulatedStore(ObjectStore):
    """The bucket."""

    permissions = dict.fromkeys(("list", "read", "write", "copy", "delete"), "")
    identity = "nobody"

    def __init__(self) -> None:
        super().__init__(GCSCredentials(anonymous=True), "gs")
        self.formulas: list[Names] = []
        self.requests: Counter[str] = Counter()
        self.seconds = 0.0
        self._written: dict[str, tuple[bytes | None, int, str, float]] = {}
        self._order: list[str] = []
        self._versions = count(2)
        self._mutex = threading.RLock()

    @override
    def connect(self, bucket: str, options: dict[str, Any]) -> Any:
        raise NotImplementedError

    @override
    def authenticate(self) -> None: ...

    @override
    def forget(self) -> None: ...

    @override
    def are_short_lived(self) -> bool:
        return False

    @override
    def version_of(self, meta: Any) -> str:
        raise NotImplementedError

    @override
    def update_mode(self, version: str) -> Any:
        raise NotImplementedError

    @override
    def read_odd(self, bucket: str, name: str) -> tuple[bytes, ObjectInfo]:
        raise NotImplementedError

    @override
    def filesystem(self) -> Any:
        raise NotImplementedError

    @override
    def honours_preconditions(self, folder: str) -> bool:
        return True

    @override
    def _carry_out(self, doing: str, uri: str, call: Callable[[], T], deadline_seconds: float | None = None) -> T:
        with self._answering(doing):
            return call()

    @override
    def page(self, bucket: str, prefix: str, after: str) -> tuple[list[ObjectInfo], bool]:
        start = max(bisect.bisect_left(self._order, prefix), bisect.bisect_right(self._order, after))
        mine = [(name, -1) for name in self._order[start : start + PAGE + 1] if name.startswith(prefix)]
        below = [each for each in self.formulas if each.prefix.startswith(prefix) or prefix.startswith(each.prefix)]
        streams = [*(each.after(prefix, after) for each in below), *([iter(mine)] if mine else [])]
        every = streams[0] if len(streams) == 1 else heapq.merge(*streams)
        found = list(islice(every, PAGE + 1))
        return [self._described(name, size) for name, size in found[:PAGE]], len(found) <= PAGE

    @override
    def stat(self, uri: str) -> ObjectInfo | None:
        with self._answering("stat"):
            name = _name(uri)
            if name in self._written:
                return self._described(name, -1)
            sizes = (names.find(name) for names in self.formulas)
            return next((self._described(name, size) for size in sizes if size is not None), None)

    @override
    def read_version(self, uri: str) -> tuple[bytes, ObjectInfo]:
        with self._answering("read"):
            name = _name(uri)
            data = self._written[name][0] if name in self._written else None
            if data is None:
                data = next((found for each in self.formulas if (found := each.read(name)) is not None), None)
            if data is None:
                raise FileNotFoundError(uri)
            return data, self._described(name, len(data))

    @override
    def open(self, uri: str) -> tuple[BinaryIO, ObjectInfo]:
        data, info = self.read_version(uri)
        return io.BytesIO(data), info

    @override
    def read_range(self, uri: str, offset: int, length: int) -> bytes:
        return self.read_version(uri)[0][offset : offset + length]

    @override
    def publish(self, file: Path, uri: str) -> None:
        with self._answering("write"):
            status = file.stat()
            self._put(
                _name(uri), file.read_bytes() if status.st_blocks else None, status.st_size
            )  # one hole is no data
        file.unlink()

    @override
    def replace(self, uri: str, data: bytes, expected: str | None) -> str:
        with self._answering("write"):
            name = _name(uri)
            present = self._written[name][2] if name in self._written else None
            if present != expected:
                raise ConflictError(f"{uri} was replaced by another writer")
            return self._put(name, data, len(data))

    @override
    def copy(self, source: str, target: str) -> None:
        with self._answering("copy"):
            data, size, _, _ = self._written[_name(source)]
            self._put(_name(target), data, size)

    @override
    def delete(self, uri: str) -> None:
        with self._answering("delete"):
            name = _name(uri)
            if self._written.pop(name, None) is not None:
                del self._order[bisect.bisect_left(self._order, name)]

    def _put(self, name: str, data: bytes | None, size: int) -> str:
        if name not in self._written:
            bisect.insort(self._order, name)
        version = str(next(self._versions))
        self._written[name] = (data, size, version, time.time())
        return version

    def _described(self, name: str, size: int) -> ObjectInfo:
        """`size` of an object that a formula gives."""
        if name in self._written:
            _, size, version, modified = self._written[name]
            return ObjectInfo(f"{BUCKET}/{name}", size, version, modified)
        return ObjectInfo(f"{BUCKET}/{name}", size, "1", MODIFIED)

    @contextmanager
    def _answering(self, what: str) -> Iterator[None]:
        with self._mutex:
            self.requests[what] += 1
            started = time.thread_time()
            try:
                yield
            finally:
                self.seconds += time.thread_time() - started


def _name(uri: str) -> str:
    return uri.removeprefix(f"{BUCKET}/")


@dataclass(frozen=True)
class SimulatedStorage(Storage):
    """Storage over one such bucket."""

    simulated: SimulatedStore = field(default_factory=SimulatedStore)

    @override
    def store(self, uri: str) -> Store:
        return self.simulated if uri.startswith(BUCKET) else super().store(uri)
