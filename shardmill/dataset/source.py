"""What the source held when a partition was last made, and what it means that nothing of it is there any more."""

from __future__ import annotations

from shardmill.dataset.dataset import RAW, Dataset
from shardmill.errors import ConfigurationError
from shardmill.left_out import LeftOut, described
from shardmill.partitions import BatchPartitions, NothingThereError, TimePartitioning
from shardmill.shards.reader import ShardSet
from shardmill.sources import Manifest, SampleNames
from shardmill.storage import join_uri, relative_to


def read_manifest(raw: ShardSet) -> Manifest:
    """The manifest that a committed `raw_images` partition holds.

    Raises:
        CorruptionError: Its bytes are not those that were committed.
    """
    return Manifest.from_batches(raw.pinned_here().batches())


def check_that_all_was_deleted(dataset: Dataset, partition: str, left_out: LeftOut | None = None) -> None:
    """Check, of a partition that the source has nothing of, that its objects were all deleted.

    A window of time may have had none. `left_out` is what there is beside them.

    Raises:
        ConfigurationError: They were not: the partition was never made, its table has no rows, the dataset file does
            not find them any more, or the source is not mounted.
    """
    source = dataset.spec.source
    before = dataset.stored(RAW, partition)
    if isinstance(dataset.spec.partitions, BatchPartitions):
        if before is None:
            raise ConfigurationError(f"none of the objects of {partition} is there any more: nothing was made of it")
        dataset.batch(partition)
        _check_that_it_is_mounted(dataset, before)
        return
    try:
        folder = dataset.partitioning.folder(partition, dataset.storage)
    except NothingThereError:
        _check_that_it_is_mounted(dataset, before)
        return
    if source.table is not None:
        raise ConfigurationError(f"the table {folder} has no rows")
    patterns = " that fits the patterns of `components`" if source.components else ""
    beside = f", {described(left_out.by_rule)}" if left_out and left_out.objects else ""
    nothing = f"no object below {folder}/{patterns}{beside}: check the source's uri"
    if before is None and _is_window_among_others(dataset):
        return
    if before is None:
        raise ConfigurationError(f"{nothing} and that partition {partition!r} exists")
    made_of = [item.uri for item in read_manifest(before)]
    if made_of and not made_of[0].startswith(join_uri(folder, "")):
        raise ConfigurationError(
            f"{nothing}. The partition was made of objects elsewhere, such as {made_of[0]}; it stays as it is"
        )
    known = frozenset(made_of)
    misfit = next((info.uri for info in dataset.storage.list(folder) if info.uri in known), None)
    if misfit:
        raise ConfigurationError(
            f"{nothing} and patterns. The partition was made of {misfit}, which is there; it stays as it is"
        )
    _check_that_it_is_mounted(dataset, before)


def _is_window_among_others(dataset: Dataset) -> bool:
    """Whether the dataset is partitioned by time, and the source has objects in some window."""
    partitioning = dataset.partitioning
    if not isinstance(partitioning, TimePartitioning):
        return False
    names = SampleNames(dataset.spec.source)
    objects = dataset.storage.list(partitioning.base, passed_over=names.passed_over(partitioning.base))
    return any(partitioning.match(relative_to(partitioning.base, info.uri)) for info in objects)


def _check_that_it_is_mounted(dataset: Dataset, before: ShardSet | None) -> None:
    if before is not None and before.commit.total_samples and dataset.partitioning.seems_unmounted:
        raise ConfigurationError(unmounted(dataset))


def unmounted(dataset: Dataset) -> str:
    """What to say where a local source that was full is gone or empty."""
    return (
        f"{dataset.partitioning.base} is empty or gone, and partitions were made of it: is it mounted? Nothing is "
        f"taken for deleted. If everything was deleted on purpose, remove {dataset.home} as well"
    )
