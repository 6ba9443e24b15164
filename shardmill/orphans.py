"""Files of a dataset that nothing names: what runs that failed or were killed left."""

from __future__ import annotations

from collections.abc import Iterator

from shardmill.dataset import ASSETS, Dataset
from shardmill.errors import CorruptionError
from shardmill.shards import retention
from shardmill.shards.layout import SIDE, Layout
from shardmill.storage import ObjectInfo, join_uri, relative_to


def stored_partitions(dataset: Dataset) -> Iterator[Layout]:
    """Every partition of which there is a file below the dataset's home, declared or not, asset by asset."""
    for asset in ASSETS:
        folders = (join_uri(dataset.home, asset), join_uri(dataset.home, f"{SIDE}/{asset}"))
        files = (relative_to(at, info.uri).partition("/") for at in folders for info in dataset.storage.list(at))
        partitions = {partition for partition, _, name in files if name}
        yield from (Layout(join_uri(dataset.home, f"{asset}/{partition}")) for partition in sorted(partitions))


def remove_orphans(
    dataset: Dataset, grace_seconds: float, dry_run: bool = False
) -> Iterator[ObjectInfo | CorruptionError]:
    """The orphans of all partitions, and an error for each partition that was left alone.

    The scratch space of killed runs goes too. See `retention.remove_orphans`.
    """
    if not dry_run:
        dataset.storage.sweep(join_uri(dataset.home, SIDE))
    for layout in stored_partitions(dataset):
        try:
            yield from retention.remove_orphans(
                dataset.storage, layout, grace_seconds, dataset.spec.keep_superseded, dry_run
            )
        except CorruptionError as error:
            yield error
