"""From a source as the dataset declares it to the manifest of one partition."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import compress, islice
from typing import TYPE_CHECKING

import numpy as np

from shardmill.errors import StorageError
from shardmill.left_out import LeftOutWriter, is_utf8, printable
from shardmill.progress import ProgressSink, silent
from shardmill.sources.excludes import Excludes
from shardmill.sources.manifest import Manifest, RawObject, batch_of, manifest_schema, microseconds
from shardmill.sources.names import ComponentPatterns, encode_component, encode_key, split_name
from shardmill.sources.plain_names import PlainNames
from shardmill.sources.spec import SourceSpec
from shardmill.sources.table import table_objects
from shardmill.storage import ObjectInfo, PassedOver, Storage, join_uri, relative_to

if TYPE_CHECKING:
    import pyarrow as pa

NO_PATTERN = "no pattern"
"""The rule for objects that fit none of the patterns of `components`."""
_TOGETHER = 10_000
"""Objects that are handled together."""


def list_source(
    source: SourceSpec,
    location: str,
    storage: Storage,
    declared: Collection[str] = (),
    progress: ProgressSink = silent,
) -> Manifest:
    """Every object of the partition whose prefix or table is `location`; `declared` are the dataset's columns.

    Raises:
        ConfigurationError: The table is not there or cannot be read, or a row or column of it is missing.
    """
    if source.table is not None:
        return Manifest.from_objects(table_objects(source, location, storage, declared, progress))
    names, left_out = SampleNames(source), LeftOutWriter()
    objects = storage.list(location, passed_over=names.passed_over(location, left_out))
    return _manifest_of(names, location, objects, left_out)


def manifest_of(source: SourceSpec, prefix: str, objects: Iterable[ObjectInfo]) -> Manifest:
    """The manifest of listed objects, which are named by what stands below `prefix`."""
    return _manifest_of(SampleNames(source), prefix, objects, LeftOutWriter())


class SampleNames:
    """Which objects of a partition belong to samples, and to which."""

    def __init__(self, source: SourceSpec) -> None:
        self._patterns = ComponentPatterns(source.components) if source.components else None
        self._excludes = Excludes(source.exclude, source.exclude_defaults)
        self._marker = source.marker
        self._plain = PlainNames(self._patterns, self._excludes, source.marker)

    def place(self, name: str) -> tuple[str, str] | str:
        """(key, component) of the object with this name below the partition's prefix; else why it is left out."""
        if name == self._marker:
            return "marker"
        rule = self._excludes.rule(name)
        if rule is not None:
            return rule
        if self._patterns is None:
            return split_name(name)
        return self._patterns.split(name) or NO_PATTERN

    def batches(self, prefix: str, objects: Sequence[ObjectInfo], left_out: LeftOutWriter) -> Iterator[pa.RecordBatch]:
        """Some of the objects below `prefix`, in the columns of a manifest; but for those that are left out."""
        import pyarrow as pa

        left_out.listed += len(objects)
        uris, sizes, versions, modified = zip(*objects, strict=True)
        keys, components = self._plain.split(pa.array(_ascii_names(prefix, uris), pa.string()))
        is_plain = keys.is_valid().to_numpy(zero_copy_only=False)
        count = int(is_plain.sum())
        if count:
            columns = [
                keys.drop_null(),
                components.drop_null(),
                pa.array(compress(uris, is_plain), pa.string()),
                pa.array(compress(sizes, is_plain), pa.int64()),
                pa.array(compress(versions, is_plain), pa.string()),
                microseconds(np.array(modified)[is_plain]),
                pa.nulls(count, pa.string()),
                pa.nulls(count, pa.string()),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=manifest_schema())
        if others := list(self._one_by_one(prefix, compress(objects, ~is_plain), left_out)):
            yield batch_of(others)

    def _one_by_one(self, prefix: str, objects: Iterable[ObjectInfo], left_out: LeftOutWriter) -> Iterator[RawObject]:
        for uri, size, version, modified in objects:
            place = self.place(relative_to(prefix, uri))
            if isinstance(place, str):
                left_out.add(uri, size, place)
            else:
                key, component = place
                yield RawObject(encode_key(key), encode_component(component), printable(uri), size, version, modified)

    def passed_over(self, prefix: str, left_out: LeftOutWriter | None = None) -> PassedOver:
        """What a listing below `prefix` tells of what is no object. A folder that nobody needs need not be listed."""

        def pass_over(uri: str, why: str | StorageError) -> None:
            name = relative_to(prefix, uri)
            if isinstance(why, StorageError) and self._excludes.needs(name):
                raise why
            if left_out is not None:
                left_out.listed += 1
                left_out.add(uri, 0, self._excludes.rule(name) or str(why))

        return pass_over

    def takes(self, name: str) -> bool:
        """Whether the object with this name below the partition's prefix belongs to a sample."""
        return not isinstance(self.place(name), str)

    def split(self, name: str) -> tuple[str, str] | None:
        """(key, component) of the object with this name below the partition's prefix; None if it belongs to none."""
        place = self.place(name)
        return None if isinstance(place, str) else place


def _manifest_of(names: SampleNames, prefix: str, objects: Iterable[ObjectInfo], left_out: LeftOutWriter) -> Manifest:
    """`left_out` may be given what a listing passes over, while it is read."""
    rest = iter(objects)
    pages = iter(lambda: list(islice(rest, _TOGETHER)), [])
    manifest = Manifest.from_batches(batch for page in pages for batch in names.batches(prefix, page, left_out))
    return manifest.leaving_out(left_out.done())


def _ascii_names(prefix: str, uris: Sequence[str]) -> list[str | None]:
    """The name below the prefix of each object; None for those that are not ASCII, or not below it."""
    start = join_uri(prefix, "")
    if not is_utf8(start):
        return [None] * len(uris)
    return [name if uri.startswith(start) and (name := uri[len(start) :]).isascii() else None for uri in uris]
