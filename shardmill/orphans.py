"""Shard files that no index names: what runs that failed or were killed left on a store without locks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from shardmill.dataset import ASSETS, Dataset, suffix_of
from shardmill.errors import CorruptionError
from shardmill.shards.commit import file_names, read_commit
from shardmill.shards.layout import Layout
from shardmill.storage import ObjectInfo, Storage, join_uri, relative_to


@dataclass(frozen=True)
class StoredPartition:
    """The files of a partition, declared or not."""

    storage: Storage
    folder: str
    layout: Layout
    files: tuple[ObjectInfo, ...]

    def remove_orphans(self, grace_seconds: float, dry_run: bool = False) -> Iterator[ObjectInfo]:
        """Delete the shard files that no index names and that are older than the grace time; yields each.

        A run that is at work publishes shards before it commits them, and one that resumes renews the indexes of those
        that it finds: the grace time has to be longer than any run. `index.json` is read after the listing, and again
        whenever it changed meanwhile, so that what it names is never among them. Raises CorruptionError for an index
        that cannot be read: any of its files may be named by it.
        """
        uri = join_uri(self.folder, self.layout.commit)
        with nullcontext() if dry_run else self.storage.exclusive(self.folder):
            named: set[str] | None = None
            version: str | None = None
            for info in self.files:
                name = relative_to(self.folder, info.uri)
                if not self.layout.is_shard_file(name) or self._is_young(info, name, grace_seconds):
                    continue
                present = self.storage.stat(uri)
                if named is None or (present.version if present else None) != version:
                    named, version = self._named()
                if name not in named:
                    if not dry_run:
                        self.storage.delete(info.uri)
                    yield info

    def _is_young(self, info: ObjectInfo, name: str, grace_seconds: float) -> bool:
        """Whether the file, or the index of its shard as it is now, is within the grace time."""
        if time.time() - info.modified <= grace_seconds:
            return True
        index = self.storage.stat(join_uri(self.folder, self.layout.index_beside(name)))
        return index is not None and time.time() - index.modified <= grace_seconds

    def _named(self) -> tuple[set[str], str | None]:
        commit, version = read_commit(self.storage, self.folder, self.layout.suffix)
        names = {name for entry in commit.shards for name in file_names(entry, self.layout)} if commit else set()
        return names, version


def stored_partitions(dataset: Dataset) -> Iterator[StoredPartition]:
    """Every folder of a partition below the dataset's home, asset by asset."""
    for asset in ASSETS:
        home = join_uri(dataset.home, asset)
        by_partition: dict[str, list[ObjectInfo]] = {}
        for info in dataset.storage.list(home):
            partition, _, rest = relative_to(home, info.uri).partition("/")
            if rest:
                by_partition.setdefault(partition, []).append(info)
        for partition, files in sorted(by_partition.items()):
            yield StoredPartition(dataset.storage, join_uri(home, partition), Layout(suffix_of(asset)), tuple(files))


def remove_orphans(
    dataset: Dataset, grace_seconds: float, dry_run: bool = False
) -> Iterator[ObjectInfo | CorruptionError]:
    """The orphans of all partitions, and an error for each partition that was left alone. See `StoredPartition`."""
    for partition in stored_partitions(dataset):
        try:
            yield from partition.remove_orphans(grace_seconds, dry_run)
        except CorruptionError as error:
            yield error
