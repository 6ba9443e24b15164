"""Which shards below a root hold what one computation made of a sample, whatever their dataset and partition.

Small sorted Parquet files, of digest → place, that are written once and merged as they become many:

    <root>/_shardmill/samples/<computation16>/<rows>-<digest12>.parquet

They only say where to look. What is found there counts by its own fingerprint and digest, so that a file that is lost,
damaged or behind costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import ShardmillError
from shardmill.shards.layout import SIDE, Layout
from shardmill.storage import ObjectInfo, Storage, join_uri, relative_to
from shardmill.tables import read_parquet, read_row_groups

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

logger = logging.getLogger(__name__)

_SAMPLED = 128
"""Digests that are looked up first, those that stand together at the beginning: if none is found, none of all is."""
_ROW_GROUP = 16_384
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
            self._write(storage, _table(found))
            while _merge_some(self, storage):
                pass
        except ShardmillError as error:
            logger.warning("cannot remember in %s where samples are: %s", self.folder, error)

    def _listed(self, storage: Storage) -> list[ObjectInfo]:
        """The youngest first."""
        files = [info for info in storage.list(self.folder) if _NAME.fullmatch(info.uri.rpartition("/")[2])]
        return sorted(files, key=lambda info: (info.modified, info.uri), reverse=True)

    def _write(self, storage: Storage, table: pa.Table) -> str:
        import pyarrow.parquet as pq

        with storage.scratch(self.folder) as scratch:
            file = scratch / "samples.parquet"
            pq.write_table(table, file, row_group_size=_ROW_GROUP, compression="zstd")
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            uri = join_uri(self.folder, f"{table.num_rows}-{digest[:12]}.parquet")
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


_NAME = re.compile(r"(\d+)-[0-9a-f]{12}\.parquet")


def _rows(info: ObjectInfo) -> int:
    match = _NAME.fullmatch(info.uri.rpartition("/")[2])
    assert match is not None
    return int(match[1])


def sample_numbers(fingerprints: Iterable[str]) -> np.ndarray[Any, Any]:
    """uint64 [n]: the first 64 bits of each, enough to look in the right place."""
    import numpy as np

    return np.fromiter((int(each[:16], 16) for each in fingerprints), np.uint64)


def _table(found: Mapping[ShardPlace, np.ndarray[Any, Any]]) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    numbers = np.concatenate(list(found.values()))
    order = np.argsort(numbers, kind="stable")
    codes = np.repeat(np.arange(len(found), dtype=np.int32), list(map(len, found.values())))[order]
    columns = {"sample": pa.array(numbers[order])}
    for name in ShardPlace._fields:
        values, inverse = np.unique([getattr(place, name) for place in found], return_inverse=True)
        columns[name] = pa.DictionaryArray.from_arrays(inverse.astype(np.int32)[codes], values.tolist())
    return pa.table(columns)


def _look_up(storage: Storage, files: Sequence[str], wanted: np.ndarray[Any, Any]) -> set[ShardPlace]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pa.array(wanted)

    def look_up(uri: str) -> set[ShardPlace]:
        found: set[ShardPlace] = set()
        with suppress(FileNotFoundError, ValueError, OSError):  # gone or damaged
            stream, _ = storage.open(uri)
            with stream:
                for table in read_row_groups(stream, "sample", wanted):
                    some = table.filter(pc.is_in(table["sample"], values))
                    columns = (some[name].to_pylist() for name in ShardPlace._fields)
                    found.update(map(ShardPlace._make, zip(*columns, strict=True)))
        return found

    return set().union(*bounded_map(look_up, files if len(wanted) else (), REQUESTS_AT_ONCE))


def _merge_some(catalog: Catalog, storage: Storage) -> bool:
    """Merge files of one size into one if there are many. Two runs that merge the same write the same file."""
    import pyarrow as pa

    files = catalog._listed(storage)
    while sum(map(_rows, files)) > _MOST and len(files) > 1:
        storage.delete(files.pop().uri)
    sizes: dict[int, list[ObjectInfo]] = {}
    for info in files:
        if _rows(info) < _LARGEST:
            sizes.setdefault(int(math.log(max(_rows(info), _SMALLEST), _MERGED)), []).append(info)
    many = next((some for _, some in sorted(sizes.items()) if len(some) >= _MERGED), None)
    if many is None:
        return False
    tables = []
    for info in many:
        with suppress(FileNotFoundError, ValueError, OSError):
            tables.append(read_parquet(io.BytesIO(storage.read(info.uri))))
    merged = _youngest(pa.concat_tables(tables)) if tables else None
    written = catalog._write(storage, merged) if merged is not None else ""
    for info in many:
        if info.uri != written:
            storage.delete(info.uri)
    return True


def _youngest(table: pa.Table) -> pa.Table:
    """Sorted, each number once: the first of those that are equal."""
    import numpy as np

    _, first = np.unique(table["sample"].to_numpy(), return_index=True)
    return table.take(first).unify_dictionaries()
