"""Files of a dataset that nothing names: what runs that failed or were killed left."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

from shardmill.dataset import Dataset
from shardmill.errors import CorruptionError
from shardmill.shards import retention
from shardmill.shards.catalog import catalogs_below, unused_catalogs
from shardmill.shards.layout import SIDE, Layout
from shardmill.storage import ObjectInfo, join_uri, relative_to


def stored_layouts(dataset: Dataset) -> list[Layout]:
    """Every partition of which there is a file below the dataset's home, also of assets that are not declared now."""
    names = (
        relative_to(dataset.home, info.uri).removeprefix(f"{SIDE}/") for info in dataset.storage.list(dataset.home)
    )
    found = {tuple(name.split("/")[:2]) for name in names if name.count("/") >= 2}
    return [Layout(join_uri(dataset.home, "/".join(parts))) for parts in sorted(found)]


def remove_orphans(
    dataset: Dataset, grace_seconds: float, dry_run: bool = False, partitions: Collection[str] | None = None
) -> Iterator[ObjectInfo | CorruptionError]:
    """The orphans of all partitions, or of these, and an error for each partition that was left alone.

    The scratch space of killed runs goes too, and so do catalogs to which no run has added for 90 days.
    `retention.remove_orphans` says what an orphan is.
    """
    root = dataset.home.rpartition("/")[0]
    if not dry_run:
        dataset.storage.sweep(join_uri(dataset.home, SIDE))
        dataset.storage.sweep(catalogs_below(root))
    for layout in stored_layouts(dataset):
        if partitions and layout.name.rpartition("/")[2] not in partitions:
            continue
        try:
            yield from retention.remove_orphans(
                dataset.storage, layout, grace_seconds, dataset.spec.keep_superseded, dry_run
            )
        except CorruptionError as error:
            yield error
    for info in unused_catalogs(dataset.storage, root, time.time()):
        if not dry_run:
            dataset.storage.delete(info.uri)
        yield info
