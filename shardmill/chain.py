"""The chain of assets: what each is made of. The same functions serve a script, the command line and Dagster."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from shardmill.dataset import ASSETS, AssetName, Dataset, DatasetSpec
from shardmill.devices import GPUSpec, fitting_devices
from shardmill.embedders import choose_runtime
from shardmill.embedders.registry import weights_identity
from shardmill.errors import ConfigurationError, ConflictError
from shardmill.partitions import BatchPartitions, NothingThereError, TimePartitioning, TimePartitions
from shardmill.progress import ProgressSink, silent
from shardmill.shards.commit import Commit, read_commit
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.layout import SIDE, Layout
from shardmill.shards.reader import ShardSet
from shardmill.sources import Manifest
from shardmill.stages.embed import EmbedStage
from shardmill.stages.embedding_map import has_basis, map_of
from shardmill.stages.engine import Engine
from shardmill.stages.lazy_shard_set import LazyShardSet
from shardmill.stages.list_objects import ListedObjects, ListStage
from shardmill.stages.pack import PackStage, pack
from shardmill.stages.transform import TransformStage
from shardmill.storage import join_uri, relative_to
from shardmill.transforms import build_transform

State = Literal["missing", "stale", "up to date"]

_TRIES = 5
"""Plans of one asset, where other runs commit something else meanwhile."""
_LONGEST_WAIT_SECONDS = 1.0


def raw_images(dataset: Dataset, partition: str) -> LazyShardSet:
    """The partition's objects, listed now.

    Raises ConfigurationError if there are none, unless they were there before and have been deleted since.
    """
    base = read_commit(dataset.storage, Layout.at(dataset.folder("raw_images", partition)))  # before it is listed
    manifest = dataset.manifest(partition)
    if not manifest.objects:
        check_that_all_was_deleted(dataset, partition)
    return LazyShardSet(ListStage(), [ListedObjects(manifest)], base=base)


def check_that_all_was_deleted(dataset: Dataset, partition: str) -> None:
    """Of a partition that the source has nothing of: raises ConfigurationError unless its objects were all deleted.

    They were not where it was never made, and where it is the dataset file that does not find them any more. A window
    of time may have had none.
    """
    source = dataset.spec.source
    before = stored(dataset, "raw_images", partition)
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
    nothing = f"no object below {folder}/{patterns}: check the source's uri"
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
    objects = dataset.storage.list(partitioning.base)
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


def webdataset_shards(dataset: Dataset, raw: ShardSet) -> LazyShardSet:
    """The objects of the manifest, packed."""
    return pack(read_manifest(raw), dataset.spec.shards, pack_stage(dataset.spec), _packed_from(dataset, raw), raw)


def _packed_from(dataset: Dataset, raw: ShardSet) -> str:
    return fingerprint(manifest=raw.commit.digest, shards=dataset.spec.shards.model_dump(mode="json"))


def transformed_shards(dataset: Dataset, shards: ShardSet) -> LazyShardSet:
    """The shards after the dataset's transform."""
    stage = TransformStage(dataset.spec.transform, dataset.spec.max_pixels)
    return LazyShardSet.of(stage, shards)


def embeddings(dataset: Dataset, shards: ShardSet) -> LazyShardSet:
    """The embeddings of the transformed shards."""
    spec = dataset.spec
    weights = weights_identity(spec.resolved_embedder, dataset.storage)
    masks, devices = tuple(spec.transform.masks), spec.gpu or GPUSpec()
    stage = EmbedStage(spec.resolved_embedder, weights, masks, spec.max_pixels, devices)
    return LazyShardSet.of(stage, shards)


def embedding_map(dataset: Dataset, table: ShardSet) -> LazyShardSet:
    """The embeddings in two dimensions, on the dataset's common basis."""
    spec = dataset.spec

    def others() -> Iterator[ShardSet]:
        for partition in stored_partitions(dataset, "embeddings"):
            other = stored(dataset, "embeddings", partition)
            if other is not None:
                yield other

    return map_of(table, others, spec.projection, dataset.home, spec.class_names)


def pack_stage(spec: DatasetSpec) -> PackStage:
    """How the dataset packs: every component that its source has a pattern for is required."""
    return PackStage(tuple(spec.source.components or ()), spec.max_pixels)


def check_transform_and_model(dataset: Dataset) -> None:
    """Raises ConfigurationError for operations, arguments, a model or weights that cannot work, before any is used."""
    build_transform(dataset.spec.transform)
    weights_identity(dataset.spec.resolved_embedder, dataset.storage)


def read_manifest(raw: ShardSet) -> Manifest:
    """The manifest that a committed `raw_images` partition holds. Raises CorruptionError."""
    if not raw.commit.shardlist:
        return Manifest.from_objects([])
    return Manifest(raw.pinned_here().table())


def plan(dataset: Dataset, asset: AssetName, partition: str, upstream: ShardSet | None) -> LazyShardSet:
    """What an asset's partition should be, given the committed asset before it (None for `raw_images`)."""
    if asset == "raw_images":
        return raw_images(dataset, partition)
    if upstream is None:
        raise ValueError(f"{asset} needs the asset before it")
    makers = {
        "webdataset_shards": webdataset_shards,
        "transformed_shards": transformed_shards,
        "embeddings": embeddings,
        "embedding_map": embedding_map,
    }
    return makers[asset](dataset, upstream)


def stored(dataset: Dataset, asset: AssetName, partition: str) -> ShardSet | None:
    """The committed partition of an asset, None if there is none."""
    layout = Layout.at(dataset.folder(asset, partition))
    commit, _ = read_commit(dataset.storage, layout)
    return ShardSet(dataset.storage, layout, commit) if commit else None


def stored_partitions(dataset: Dataset, asset: AssetName) -> list[str]:
    """The partitions of an asset that may be committed, in order: the declared ones, or those whose commit stands."""
    if isinstance(dataset.spec.partitions, list):
        return dataset.spec.partitions
    folder = join_uri(dataset.home, f"{SIDE}/{asset}")
    names = (relative_to(folder, info.uri).partition("/") for info in dataset.storage.list(folder))
    return sorted(partition for partition, _, name in names if name == "index.json" and dataset.may_have(partition))


def write(
    dataset: Dataset,
    asset: AssetName,
    partition: str,
    lazy: LazyShardSet,
    engine: Engine,
    progress: ProgressSink = silent,
) -> ShardSet:
    """Make and commit an asset's partition. See `LazyShardSet.write`."""
    folder, name = dataset.folder(asset, partition), dataset.name(asset, partition)
    spec = dataset.spec
    return lazy.write(dataset.storage, folder, name, engine, spec.max_reject_ratio, progress, spec.keep_superseded)


def run(
    dataset: Dataset, partition: str, engine: Engine, progress: ProgressSink = silent
) -> Iterator[tuple[AssetName, ShardSet]]:
    """Bring a partition up to date, asset by asset, without Dagster. Mistakes in the file show first."""
    dataset.folder("raw_images", partition)  # there is such a partition
    check_transform_and_model(dataset)
    if choose_runtime(dataset.spec.resolved_embedder) == "cuda":
        fitting_devices(dataset.spec.gpu or GPUSpec(), dataset.name("embeddings", partition))
    upstream: ShardSet | None = None
    for asset in ASSETS:
        upstream = _make(dataset, asset, partition, upstream, engine, progress)
        yield asset, upstream


def _make(
    dataset: Dataset,
    asset: AssetName,
    partition: str,
    upstream: ShardSet | None,
    engine: Engine,
    progress: ProgressSink,
) -> ShardSet:
    """Plan and write an asset's partition, again where another run was first with something else.

    Raises ConflictError where others are first time and again.
    """
    for left in reversed(range(_TRIES)):
        try:
            lazy = plan(dataset, asset, partition, upstream)
            return write(dataset, asset, partition, lazy, engine, progress)
        except ConflictError:
            if not left:
                raise
            time.sleep(random.uniform(0, _LONGEST_WAIT_SECONDS))
            upstream = upstream and upstream.newest()
    raise AssertionError


def _is_current(
    dataset: Dataset, asset: AssetName, partition: str, present: ShardSet, upstream: ShardSet | None
) -> bool:
    """Whether what is committed is what would be made now, and stands whole."""
    if (
        asset == "embedding_map"
        and upstream is not None
        and not has_basis(upstream, dataset.spec.projection, dataset.home)
    ):
        return False
    lazy = plan(dataset, asset, partition, upstream)
    named = {entry.fingerprint for entry in present.commit.shards}
    standing = lazy.standing(dataset.storage, present.folder, present.commit)
    return set(lazy.fingerprints) == named == set(standing)


def known_partitions(dataset: Dataset) -> list[str]:
    """The partitions that the source has now, and those that were made and may have lost all their objects since.

    Raises ConfigurationError if there are none.
    """
    partitions = dataset.partitions()
    if not isinstance(dataset.spec.partitions, list):
        partitions = sorted({*partitions, *stored_partitions(dataset, "raw_images")})
    if partitions:
        return partitions
    if isinstance(dataset.spec.partitions, BatchPartitions):
        raise ConfigurationError(f"{dataset.spec.name} has no batches yet: its sensor seals them, in Dagster's daemon")
    base, spec = dataset.partitioning.base, dataset.spec.partitions
    windows = f" in a window from {spec.start} up to now" if isinstance(spec, TimePartitions) else ""
    raise ConfigurationError(
        f"{dataset.spec.name} has no partitions: no object below {base} fits the source's uri{windows}"
    )


def is_stale(dataset: Dataset, partition: str) -> bool:
    """Whether an asset of a partition is not there, or was made from another one before it or by other rules than now.

    Reads five small files, and asks for one shard of each asset, since a folder may have been removed. Neither lists
    the source nor looks whether every shard stands, as `states` does.
    """
    upstream: ShardSet | None = None
    for asset in ASSETS:
        present = stored(dataset, asset, partition)
        if present is None or _is_removed(present):
            return True
        if upstream is not None and _is_made_otherwise(dataset, asset, partition, present, upstream):
            return True
        upstream = present
    return False


def _is_removed(present: ShardSet) -> bool:
    """Whether the first of the data files is gone."""
    return any(present.storage.stat(uri) is None for uri in present.urls[:1])


def _is_made_otherwise(
    dataset: Dataset, asset: AssetName, partition: str, present: ShardSet, upstream: ShardSet
) -> bool:
    commit = present.commit
    if commit.may_pass:
        return True
    if asset == "webdataset_shards":
        stage = pack_stage(dataset.spec)
        made = (commit.made_from, commit.stage_version, commit.parameters)
        return made != (_packed_from(dataset, upstream), stage.version, stage.parameters())
    if asset == "embedding_map" and not has_basis(upstream, dataset.spec.projection, dataset.home):
        return True
    lazy = plan(dataset, asset, partition, upstream)
    return set(lazy.fingerprints) != {entry.fingerprint for entry in commit.shards}


@dataclass(frozen=True)
class AssetState:
    """Where an asset's partition stands."""

    asset: AssetName
    state: State
    commit: Commit | None


def states(dataset: Dataset, partition: str) -> list[AssetState]:
    """The state of each asset of a partition, against the source as it is now. Lists the source, makes nothing."""
    found: list[AssetState] = []
    upstream: ShardSet | None = None
    for asset in ASSETS:
        present = stored(dataset, asset, partition)
        fresh = present is not None and all(earlier.state == "up to date" for earlier in found)
        current = fresh and present is not None and _is_current(dataset, asset, partition, present, upstream)
        state: State = "missing" if present is None else "up to date" if current else "stale"
        found.append(AssetState(asset, state, present.commit if present else None))
        upstream = present
    return found
