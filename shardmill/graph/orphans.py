"""Files of a dataset that nothing names: what runs that failed or were killed left."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.dataset import Dataset
from shardmill.errors import CorruptionError, ShardmillError
from shardmill.shards import retention
from shardmill.shards.catalog import catalogs_below, unused_catalogs
from shardmill.shards.commit import read_commit
from shardmill.shards.layout import SIDE, Layout
from shardmill.shards.retention import may_be_removed
from shardmill.storage import ObjectInfo, Storage, join_uri, relative_to


@dataclass
class _Stored:
    """A partition as one listing of the dataset's home shows it: no more is kept than tells whether it is in order."""

    layout: Layout
    files: int = 0
    """Sum over the names of its files, but for those that are never removed."""

    def is_in_order(self, storage: Storage) -> bool:
        """Whether its files are those that its commit names, each in its place."""
        try:
            commit, _ = read_commit(storage, self.layout)
        except ShardmillError:  # whoever looks closer says so
            return False
        return commit is not None and self.files == sum(
            hash((name != entry.data, name)) for entry in commit.shards for name in entry.files
        )


def _stored(dataset: Dataset) -> list[_Stored]:
    """Every partition of which there is a file below the dataset's home, also of assets that are not declared now."""
    found: dict[tuple[str, str], _Stored] = {}
    for info in dataset.storage.list(dataset.home):
        name = relative_to(dataset.home, info.uri)
        is_beside = name.startswith(f"{SIDE}/")
        asset, _, rest = name.removeprefix(f"{SIDE}/").partition("/")
        partition, _, file = rest.partition("/")
        if file:
            key = asset, partition
            if key not in found:
                found[key] = _Stored(Layout(join_uri(dataset.home, f"{asset}/{partition}")))
            if may_be_removed(file):
                found[key].files += hash((is_beside, file))
    return [found[key] for key in sorted(found)]


def remove_orphans(
    dataset: Dataset, grace_seconds: float, dry_run: bool = False, partitions: Collection[str] | None = None
) -> Iterator[ObjectInfo | CorruptionError]:
    """The orphans of all partitions, or of these, and an error for each partition that was left alone.

    The scratch space of killed runs goes too, and so do catalogs to which no run has added for 90 days.
    `retention.remove_orphans` says what an orphan is. It looks at those partitions alone that one listing of all, and
    the commit of each, do not show to be in order.
    """
    root = dataset.home.rpartition("/")[0]
    if not dry_run:
        dataset.storage.sweep(join_uri(dataset.home, SIDE))
        dataset.storage.sweep(catalogs_below(root))
    stored = [each for each in _stored(dataset) if not partitions or each.layout.name.rpartition("/")[2] in partitions]
    in_order = bounded_map(lambda each: each.is_in_order(dataset.storage), stored, REQUESTS_AT_ONCE)
    for each in (each for each, is_in_order in zip(stored, in_order, strict=True) if not is_in_order):
        try:
            yield from retention.remove_orphans(
                dataset.storage, each.layout, grace_seconds, dataset.spec.keep_superseded, dry_run
            )
        except CorruptionError as error:
            yield error
    for info in unused_catalogs(dataset.storage, root, time.time()):
        if not dry_run:
            dataset.storage.delete(info.uri)
        yield info
