"""Which shards below a root hold what one computation made of a sample, whatever their dataset and partition.

Small sorted files, of digest → place, that are written once and merged as they become many:

    <root>/_shardmill/samples/<computation16>/<rows>-<digest12>.places

They only say where to look. What is found there counts by its own fingerprint and digest, so that a file that is lost,
damaged or behind costs time and nothing else. For that they are plain arrays: a part of them is read without the rest,
which no digest vouches for then, and a bit that is flipped gives a wrong place and no more. (Arrow's reader of Parquet
ends the process on some of them.)

A file is `rows` records of 12 bytes, little-endian, in ascending order: the first 64 bits of a sample's fingerprint
(uint64) and the number of its place (uint32). After them comes JSON: `places`, and `firsts`, the bits of every
`_BLOCK`th record.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import ShardmillError
from shardmill.shards.layout import SIDE, Layout
from shardmill.storage import ObjectInfo, Storage, join_uri, relative_to

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

_SAMPLED = 128
"""Digests that are looked up first, those that stand together at the beginning: if none is found, none of all is."""
_BLOCK = 16_384
"""Records that are read together."""
_MERGED = 8
"""Files of about one size that are merged into one; the next size is so many times larger."""
_SMALLEST, _LARGEST = 1 << 12, 1 << 18
"""Rows: files with fewer are of one size, those with more are merged no further."""
_MOST = 1 << 24
"""Rows of a computation; beyond, the file that was written longest ago goes."""
_UNUSED_SECONDS = 90 * 86_400.0


class ShardPlace(NamedTuple):
    """A shard below the root, as far as it stays the same from commit to commit."""

    partition: str
    """`<dataset>/<asset>/<partition>`."""
    shard: str
    """Six hexadecimal digits."""


@dataclass(frozen=True)
class Catalog:
    """The places of one computation's samples. Picklable."""

    root: str
    computation: str
    files: tuple[str, ...] = ()
    """URIs of its files when it was opened, the youngest first."""

    @classmethod
    def beside(cls, layout: Layout, computation: str) -> Catalog:
        """That of the root below which a partition is, not opened."""
        return cls(layout.home.rpartition("/")[0], computation)

    def opened(self, storage: Storage) -> Catalog:
        """With the files that there are now."""
        try:
            return replace(self, files=tuple(info.uri for info in self._listed(storage)))
        except ShardmillError as error:
            logger.warning("cannot look for samples in %s: %s", self.folder, error)
            return self

    @property
    def folder(self) -> str:
        """URI of the folder of its files."""
        return join_uri(catalogs_below(self.root), self.computation[:16])

    def find(self, storage: Storage, fingerprints: Collection[str]) -> set[ShardPlace]:
        """Where samples with these fingerprints may be. Reads little where hardly any is anywhere."""
        import numpy as np

        if not self.files:
            return set()
        wanted = np.unique(sample_numbers(fingerprints))
        try:
            places = _look_up(storage, self.files, wanted[:_SAMPLED])
            return places | _look_up(storage, self.files, wanted[_SAMPLED:]) if places else places
        except ShardmillError as error:
            logger.warning("cannot look for samples in %s: %s", self.folder, error)
            return set()

    def add(self, storage: Storage, found: Mapping[ShardPlace, np.ndarray[Any, Any]]) -> None:
        """Remember where samples are, by their numbers. A store that refuses is only warned of."""
        if not any(map(len, found.values())):
            return
        try:
            self._write(storage, *_encoded(*_sorted(found)))
            while _merge_some(self, storage):
                pass
        except ShardmillError as error:
            logger.warning("cannot remember in %s where samples are: %s", self.folder, error)

    def _listed(self, storage: Storage) -> list[ObjectInfo]:
        """The youngest first."""
        files = [info for info in storage.list(self.folder) if _NAME.fullmatch(info.uri.rpartition("/")[2])]
        return sorted(files, key=lambda info: (info.modified, info.uri), reverse=True)

    def _write(self, storage: Storage, rows: int, data: bytes) -> str:
        with storage.scratch(self.folder) as scratch:
            file = scratch / "data"
            file.write_bytes(data)
            uri = join_uri(self.folder, f"{rows}-{_digest(data)}.places")
            storage.publish(file, uri)
        return uri


def catalogs_below(root: str) -> str:
    """URI of the folder of all catalogs below a root."""
    return join_uri(root, f"{SIDE}/samples")


def unused_catalogs(storage: Storage, root: str, now: float) -> Iterator[ObjectInfo]:
    """The files of computations of which nothing was made for a long time: retired models, transforms of the past."""
    folder = catalogs_below(root)
    files: dict[str, list[ObjectInfo]] = {}
    for info in storage.list(folder):
        files.setdefault(relative_to(folder, info.uri).partition("/")[0], []).append(info)
    for some in files.values():
        if now - max(info.modified for info in some) > _UNUSED_SECONDS:
            yield from some


_GONE_OR_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading a file may raise that other runs have merged, or whose bytes are any."""
_RECORD = [("sample", "<u8"), ("place", "<u4")]
_RECORD_BYTES = 12
_NAME = re.compile(r"(\d+)-[0-9a-f]{12}\.places")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _rows(uri: str) -> int:
    match = _NAME.fullmatch(uri.rpartition("/")[2])
    assert match is not None
    return int(match[1])


def sample_numbers(fingerprints: Iterable[str]) -> np.ndarray[Any, Any]:
    """uint64 [n]: the first 64 bits of each, enough to look in the right place."""
    import numpy as np

    return np.fromiter((int(each[:16], 16) for each in fingerprints), np.uint64)


def _sorted(found: Mapping[ShardPlace, np.ndarray[Any, Any]]) -> tuple[np.ndarray[Any, Any], list[ShardPlace]]:
    """Records, and the places that they number."""
    import numpy as np

    records = np.empty(sum(map(len, found.values())), _RECORD)
    records["sample"] = np.concatenate(list(found.values()))
    records["place"] = np.repeat(np.arange(len(found)), list(map(len, found.values())))
    return records[np.argsort(records["sample"], kind="stable")], list(found)


def _encoded(records: np.ndarray[Any, Any], places: Sequence[ShardPlace]) -> tuple[int, bytes]:
    """The number of rows, and the bytes of a file."""
    tail = {"places": places, "firsts": records["sample"][::_BLOCK].tolist()}
    return len(records), records.tobytes() + json.dumps(tail).encode()


def _decoded(data: bytes, rows: int) -> tuple[np.ndarray[Any, Any], list[ShardPlace]]:
    import numpy as np

    end = rows * _RECORD_BYTES
    return np.frombuffer(data[:end], _RECORD), [ShardPlace(*place) for place in json.loads(data[end:])["places"]]


def _look_up(storage: Storage, files: Sequence[str], wanted: np.ndarray[Any, Any]) -> set[ShardPlace]:
    def look_up(uri: str) -> set[ShardPlace]:
        with suppress(*_GONE_OR_DAMAGED):
            stream, _ = storage.open(uri)
            with stream:
                return _found_in(stream, _rows(uri), wanted)
        return set()

    return set().union(*bounded_map(look_up, files if len(wanted) else (), REQUESTS_AT_ONCE))


def _found_in(stream: BinaryIO, rows: int, wanted: np.ndarray[Any, Any]) -> set[ShardPlace]:
    """The places of the sorted numbers `wanted`, as far as a file knows them."""
    import numpy as np

    stream.seek(rows * _RECORD_BYTES)
    tail = json.loads(stream.read())
    firsts = np.array(tail["firsts"], np.uint64)
    numbers: set[int] = set()
    for block in np.unique(np.searchsorted(firsts, wanted, "right")):
        if block:  # what is smaller than all is nowhere
            stream.seek((int(block) - 1) * _BLOCK * _RECORD_BYTES)
            count = min(_BLOCK, rows - (int(block) - 1) * _BLOCK)
            records = np.frombuffer(stream.read(count * _RECORD_BYTES), _RECORD)
            numbers.update(records["place"][np.isin(records["sample"], wanted)].tolist())
    return {ShardPlace(*map(str, tail["places"][number])) for number in numbers}


def _merge_some(catalog: Catalog, storage: Storage) -> bool:
    """Merge files of one size into one if there are many. Two runs that merge the same write the same file."""
    files = [info.uri for info in catalog._listed(storage)]
    while sum(map(_rows, files)) > _MOST and len(files) > 1:
        storage.delete(files.pop())
    sizes: dict[int, list[str]] = {}
    for uri in files:
        if _rows(uri) < _LARGEST:
            sizes.setdefault(int(math.log(max(_rows(uri), _SMALLEST), _MERGED)), []).append(uri)
    many = next((some for _, some in sorted(sizes.items()) if len(some) >= _MERGED), None)
    if many is None:
        return False
    sound = []
    for uri in many:
        with suppress(FileNotFoundError):
            data = storage.read(uri)
            if uri.endswith(f"-{_digest(data)}.places"):  # else it is damaged, and goes
                sound.append(_decoded(data, _rows(uri)))
    written = catalog._write(storage, *_encoded(*_merged(sound))) if sound else ""
    for uri in many:
        if uri != written:
            storage.delete(uri)
    return True


def _merged(
    several: Sequence[tuple[np.ndarray[Any, Any], list[ShardPlace]]],
) -> tuple[np.ndarray[Any, Any], list[ShardPlace]]:
    """Each sample once: of those that are equal the first, and only the places that are named then."""
    import numpy as np

    places: list[ShardPlace] = []
    parts = []
    for records, of in several:
        moved = records.copy()
        moved["place"] += len(places)
        places += of
        parts.append(moved)
    every = np.concatenate(parts)
    merged = every[np.unique(every["sample"], return_index=True)[1]]
    used, merged["place"] = np.unique(merged["place"], return_inverse=True)
    return merged, [places[number] for number in used]
