"""From a source as the dataset declares it to the manifest of one partition."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from shardmill.errors import StorageError
from shardmill.progress import ProgressSink, silent
from shardmill.sources.manifest import Manifest, RawObject
from shardmill.sources.names import ComponentPatterns, encode_component, encode_key, split_name
from shardmill.sources.spec import SourceSpec
from shardmill.sources.table import table_objects
from shardmill.storage import ObjectInfo, Storage, relative_to


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
    return manifest_of(source, location, storage.list(location))


def manifest_of(source: SourceSpec, prefix: str, objects: Iterable[ObjectInfo]) -> Manifest:
    """The manifest of listed objects, which are named by what stands below `prefix`."""
    return Manifest.from_objects(_raw_objects(SampleNames(source), prefix, objects))


class SampleNames:
    """Which objects of a partition belong to samples, and to which."""

    def __init__(self, source: SourceSpec) -> None:
        self._patterns = ComponentPatterns(source.components) if source.components else None
        self._marker = source.marker

    def takes(self, name: str) -> bool:
        """Whether the object with this name below the partition's prefix belongs to a sample."""
        return name != self._marker and (self._patterns is None or self._patterns.split(name) is not None)

    def split(self, name: str) -> tuple[str, str] | None:
        """(key, component) of the object with this name below the partition's prefix; None if it belongs to none."""
        if not self.takes(name):
            return None
        return self._patterns.split(name) if self._patterns else split_name(name)


def _raw_objects(names: SampleNames, prefix: str, objects: Iterable[ObjectInfo]) -> Iterator[RawObject]:
    for uri, size, version, modified in objects:
        split = names.split(relative_to(prefix, uri))
        if split is not None:
            key, component = split
            yield RawObject(encode_key(key), encode_component(component), _utf8(uri), size, version, modified)


def _utf8(uri: str) -> str:
    """The URI, if a manifest can hold it.

    Raises:
        StorageError: The name is not UTF-8.
    """
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise StorageError(f"the name {uri!r} is not UTF-8: rename the object") from None
    return uri
