"""A dataset: what its file declares, the storage that it lives on, its partitions, and where everything of it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from shardmill.dataset.spec import DatasetSpec
from shardmill.embedders import EmbedderSpec, embed_text, weights_identity
from shardmill.errors import ConfigurationError
from shardmill.partitions import (
    PLACEHOLDER,
    Batch,
    BatchPartitions,
    NothingThereError,
    Partitioning,
    TimePartitions,
    is_batch_key,
    partitioning_of,
    read_batch,
    sealed_batches,
)
from shardmill.progress import ProgressSink, silent
from shardmill.shards.commit import read_commit
from shardmill.shards.layout import SIDE, Layout
from shardmill.shards.reader import ShardSet
from shardmill.sources import Excludes, Manifest, joined, list_source, manifest_of
from shardmill.storage import ObjectInfo, Storage, absolute_uri, join_uri, relative_to
from shardmill.transforms import SampleTransform, build_transform

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RAW = "raw_images"
"""The asset that every other is made of: what the source holds."""
WHOLE = "all"
"""Stands for the partition of an asset that the dataset has once."""


_T = TypeVar("_T")


@dataclass(frozen=True)
class Dataset:
    """A declared dataset and the storage that it lives on."""

    spec: DatasetSpec
    storage: Storage = field(default_factory=Storage)

    @cached_property
    def partitioning(self) -> Partitioning:
        """How the source is partitioned."""
        source = self.spec.source
        excludes = Excludes(source.exclude, source.exclude_defaults)
        return partitioning_of(self.spec.partitions, source.uri or source.table or "", excludes)

    def partitions(self) -> list[str]:
        """The partitions, in order: those declared, or those that the source holds objects of now, or the batches."""
        if isinstance(self.spec.partitions, BatchPartitions):
            return sealed_batches(self.storage, self.home)
        return self.partitioning.keys(self.storage)

    def manifest(self, partition: str, progress: ProgressSink = silent) -> Manifest:
        """What the source holds of a partition now, and what it says of the declared columns.

        Raises:
            ConfigurationError: There can be no such partition, or a table of it is not there or cannot be read.
        """
        manifest, metadata = self._manifest(partition, progress), self.spec.source.metadata
        if metadata is None or not manifest.objects:
            return manifest
        uri = absolute_uri(metadata.table.replace(PLACEHOLDER, partition))
        return joined(manifest, self.spec.source, metadata, uri, self.storage, self.spec.columns)

    def _manifest(self, partition: str, progress: ProgressSink) -> Manifest:
        if isinstance(self.spec.partitions, BatchPartitions):
            objects = self.batch(partition).objects(self.storage)
            return manifest_of(self.spec.source, self.partitioning.base, objects)
        try:
            location = self.partitioning.folder(partition, self.storage)
        except NothingThereError:
            return Manifest.from_objects([])
        return list_source(self.spec.source, location, self.storage, self.spec.columns, progress)

    def batch(self, partition: str) -> Batch:
        """A sealed batch.

        Raises:
            ConfigurationError: There is none, or its objects lie outside the source.
        """
        batch, base = read_batch(self.storage, self.home, partition), self.partitioning.base
        outside = next((uri for uri in batch.uris if not uri.startswith(join_uri(base, ""))), None)
        if outside:
            raise ConfigurationError(
                f"{partition} was made of objects elsewhere, such as {outside}, not below {base}; it stays as it is"
            )
        return batch

    def known_partitions(self) -> list[str]:
        """The partitions that the source has now, and those that were made and may have lost all their objects since.

        Raises:
            ConfigurationError: There are none.
        """
        partitions = self.partitions()
        if not isinstance(self.spec.partitions, list):
            partitions = sorted({*partitions, *self.stored_partitions(RAW)})
        if partitions:
            return partitions
        if isinstance(self.spec.partitions, BatchPartitions):
            raise ConfigurationError(f"{self.spec.name} has no batches yet: its sensor seals them, in Dagster's daemon")
        base, spec = self.partitioning.base, self.spec.partitions
        windows = f" in a window from {spec.start} up to now" if isinstance(spec, TimePartitions) else ""
        raise ConfigurationError(
            f"{self.spec.name} has no partitions: no object below {base} fits the source's uri{windows}"
        )

    def check(self, partition: str) -> None:
        """Refuse a key that no partition can have.

        Raises:
            ConfigurationError: No partition can have this key.
        """
        if not isinstance(self.spec.partitions, BatchPartitions):
            self.partitioning.check(partition)
        elif not is_batch_key(partition):
            raise ConfigurationError(f"there is no batch {partition!r}: they are called batch-000001 and so on")

    def may_have(self, partition: str) -> bool:
        """Whether the dataset, as it is declared, could have a partition with this key."""
        try:
            self.check(partition)
        except ConfigurationError:
            return False
        return True

    def transform(self, name: str | None = None) -> SampleTransform:
        """The transform, or that of this name, as the stage applies it: for samples where they are read.

        Raises:
            ConfigurationError: There is none, or none of this name; an operation of it is wrong.
        """
        declared = self._declared("transform", self.spec.all_transforms, name)
        return build_transform(declared.spec, max_pixels=self.spec.max_pixels, names=self.spec.names_in(declared))

    def embed_text(self, texts: Sequence[str], embedder: str | None = None) -> NDArray[np.float32 | np.float16]:
        """Vectors of texts, [len(texts), d], as the table of the embedder, or of that of this name, has its images'.

        Raises:
            ConfigurationError: There is none, or none of this name; its model embeds no text, or cannot be loaded; the
                vectors of the table's first partition are of another model or of other weights.
            CorruptionError, StorageError: That partition cannot be read.
        """
        declared = self._declared("embedder", self.spec.all_embedders, embedder)
        spec = declared.spec(cuda=False)
        self._check_that_the_table_is_of(spec, f"embeddings_{embedder}" if embedder else "embeddings")
        return embed_text(spec, texts, self.storage)

    def _check_that_the_table_is_of(self, spec: EmbedderSpec, asset: str) -> None:
        """By its first partition, and once for the same weights: who searches asks again and again.

        Raises:
            ConfigurationError: It is of another model, or of other weights.
        """
        wanted = {"model": spec.model, "weights": weights_identity(spec, self.storage)}
        if wanted in self._compared.setdefault(asset, []):
            return
        stored = (self.stored(asset, partition) for partition in self._committed(asset))
        shards = next((each for each in stored if each is not None and each.commit.total_samples), None)
        if shards is None:
            return
        for name, value in wanted.items():
            its = shards.commit.parameters.get(name)
            if its != value:
                raise ConfigurationError(
                    f"{shards.commit.name} is of {name} {its}, and texts would be embedded with {value}: vectors of "
                    "two models are not to be compared. Give the embedder what made the table, or run the dataset"
                )
        self._compared[asset].append(wanted)

    @cached_property
    def _compared(self) -> dict[str, list[dict[str, str]]]:
        return {}

    def _committed(self, asset: str) -> Iterator[str]:
        """Partitions that may be committed, as far as they are asked for."""
        if isinstance(self.spec.partitions, list):
            return iter(self.spec.partitions)
        return (name for name, _ in self.listed_commits(asset))

    def _declared(self, kind: str, declared: Mapping[str, _T], name: str | None) -> _T:
        """The one of this name; without a name, the one that has none."""
        found = declared.get("" if name is None else f"_{name}")
        if found is None:
            names = ", ".join(suffix[1:] for suffix in declared if suffix)
            has = f"its {kind}s are {names}" if names else "it has one, without a name" if declared else "it has none"
            give = "; give the name of one" if names else ""
            raise ConfigurationError(
                f"{self.spec.name} has no {kind} {repr(name) if name else 'without a name'}: {has}{give}"
            )
        return found

    # What is stored.

    def stored(self, asset: str, partition: str) -> ShardSet | None:
        """The committed partition of an asset, None if there is none."""
        layout = self.layout(asset, partition)
        commit, _ = read_commit(self.storage, layout)
        return ShardSet(self.storage, layout, commit) if commit else None

    def stored_partitions(self, asset: str) -> list[str]:
        """The partitions of an asset that may be committed, in order: those declared, or those whose commit stands."""
        if isinstance(self.spec.partitions, list):
            return self.spec.partitions
        return sorted(name for name, _ in self.listed_commits(asset))

    def commits(self, asset: str) -> dict[str, ObjectInfo]:
        """The commits that stand of an asset, by partition, as a listing gives them.

        That of what the dataset has once stands under `WHOLE`.
        """
        return dict(self._listed_commits(asset))

    def listed_commits(self, asset: str) -> Iterator[tuple[str, ObjectInfo]]:
        """The commits of partitions that the dataset may have, as far as the listing is asked for."""
        return ((name, info) for name, info in self._listed_commits(asset) if self.may_have(name))

    def _listed_commits(self, asset: str) -> Iterator[tuple[str, ObjectInfo]]:
        folder = join_uri(self.home, f"{SIDE}/{asset}")
        for info in self.storage.list(folder):
            partition, _, name = relative_to(folder, info.uri).partition("/")
            if name == "index.json":
                yield partition, info

    def layout(self, asset: str, partition: str) -> Layout:
        """The places of an asset's partition.

        Raises:
            ConfigurationError: No partition can have this key.
        """
        return Layout.at(self.folder(asset, partition))

    def folder(self, asset: str, partition: str) -> str:
        """URI of the data of an asset's partition.

        Raises:
            ConfigurationError: No partition can have this key.
        """
        if partition != WHOLE:
            self.check(partition)
        return join_uri(absolute_uri(self.spec.root), self.name(asset, partition))

    @property
    def home(self) -> str:
        """URI of the folder that holds everything of the dataset."""
        return join_uri(absolute_uri(self.spec.root), self.spec.name)

    def name(self, asset: str, partition: str) -> str:
        """`<dataset>/<asset>/<partition>`."""
        return f"{self.spec.name}/{asset}/{partition}"
