"""The chain of assets: what each is made of. The same functions serve a script, the command line and Dagster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from shardmill.dataset import ASSETS, AssetName, Dataset, DatasetSpec, suffix_of
from shardmill.progress import ProgressSink, silent
from shardmill.shards.commit import Commit, read_commit
from shardmill.sources import Manifest, list_source
from shardmill.stages.embed import EmbedStage
from shardmill.stages.embedding_map import map_of
from shardmill.stages.engine import Engine
from shardmill.stages.list_objects import ListedObjects, ListStage
from shardmill.stages.pack import PackStage
from shardmill.stages.shard_set import LazyShardSet, ShardSet, pack
from shardmill.stages.transform import TransformStage

State = Literal["missing", "stale", "up to date"]


def raw_images(dataset: Dataset, partition: str) -> LazyShardSet:
    """The partition's objects, listed now."""
    manifest = list_source(dataset.spec.source, partition, dataset.storage)
    return LazyShardSet(ListStage(), [ListedObjects(manifest)])


def webdataset_shards(dataset: Dataset, raw: ShardSet) -> LazyShardSet:
    """The objects of the manifest, packed."""
    return pack(read_manifest(raw), dataset.spec.shards, pack_stage(dataset.spec))


def transformed_shards(dataset: Dataset, shards: ShardSet) -> LazyShardSet:
    """The shards after the dataset's transform."""
    return LazyShardSet(transform_stage(dataset.spec), shards.shards)


def embeddings(dataset: Dataset, shards: ShardSet) -> LazyShardSet:
    """The embeddings of the transformed shards."""
    return LazyShardSet(embed_stage(dataset.spec), shards.shards)


def embedding_map(dataset: Dataset, table: ShardSet) -> LazyShardSet:
    """The embeddings in two dimensions, on the dataset's common basis."""
    spec = dataset.spec
    others = [stored(dataset, "embeddings", partition) for partition in spec.partitions]
    return map_of(table, [other for other in others if other], spec.projection, dataset.home, spec.class_names)


def pack_stage(spec: DatasetSpec) -> PackStage:
    """How the dataset packs: every component that its source has a pattern for is required."""
    return PackStage(tuple(spec.source.components or ()), spec.max_pixels)


def transform_stage(spec: DatasetSpec) -> TransformStage:
    """How the dataset transforms."""
    return TransformStage(spec.transform, spec.max_pixels)


def embed_stage(spec: DatasetSpec) -> EmbedStage:
    """How the dataset embeds: on a CUDA device and nowhere else if it says `gpu: true`."""
    embedder = spec.embedder.model_copy(update={"runtime": "cuda"}) if spec.gpu else spec.embedder
    return EmbedStage(embedder, tuple(spec.transform.masks), spec.max_pixels)


def read_manifest(raw: ShardSet) -> Manifest:
    """The manifest that a committed `raw_images` partition holds."""
    import pyarrow.parquet as pq

    stream, _ = raw.storage.open(raw.urls[0])
    with stream:
        return Manifest(pq.read_table(stream))


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
    folder = dataset.folder(asset, partition)
    commit, _ = read_commit(dataset.storage, folder, suffix_of(asset))
    return ShardSet(dataset.storage, folder, commit) if commit else None


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
    return lazy.write(dataset.storage, folder, name, engine, dataset.spec.max_reject_ratio, progress)


def run(
    dataset: Dataset, partition: str, engine: Engine, progress: ProgressSink = silent
) -> Iterator[tuple[AssetName, ShardSet]]:
    """Bring a partition up to date, asset by asset, without Dagster."""
    upstream: ShardSet | None = None
    for asset in ASSETS:
        lazy = plan(dataset, asset, partition, upstream)
        upstream = write(dataset, asset, partition, lazy, engine, progress)
        yield asset, upstream


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
        current = present is not None and all(earlier.state == "up to date" for earlier in found)
        if current and present is not None:
            lazy = plan(dataset, asset, partition, upstream)
            current = set(lazy.fingerprints) == {entry.fingerprint for entry in present.commit.shards}
        state: State = "missing" if present is None else "up to date" if current else "stale"
        found.append(AssetState(asset, state, present.commit if present else None))
        upstream = present
    return found
