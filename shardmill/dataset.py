"""A dataset: one YAML file, and the five assets that it declares for each partition."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from shardmill.devices import GPUField
from shardmill.embedders.registry import EMBEDDERS
from shardmill.embedders.spec import EmbedderSpec
from shardmill.embedders.unknown import unknown_model
from shardmill.errors import ConfigurationError
from shardmill.images import MAX_PIXELS
from shardmill.partitions import (
    Batch,
    BatchPartitions,
    NothingThereError,
    Partitioning,
    PartitionsSpec,
    is_batch_key,
    partitioning_of,
    read_batch,
    sealed_batches,
)
from shardmill.shards.layout import SIDE
from shardmill.shards.spec import ShardSpec
from shardmill.sources import Manifest, list_source, manifest_of
from shardmill.sources.spec import SourceSpec
from shardmill.storage import Storage, absolute_uri, join_uri
from shardmill.transforms.spec import TransformSpec
from shardmill.upkeep import DURATION, BackfillSpec, SensorSpec, seconds_of

AssetName = Literal["raw_images", "webdataset_shards", "transformed_shards", "embeddings", "embedding_map"]
ASSETS: tuple[AssetName, ...] = (
    "raw_images",
    "webdataset_shards",
    "transformed_shards",
    "embeddings",
    "embedding_map",
)
"""In the order in which they are made."""


class DatasetSpec(BaseModel):
    """What a dataset file declares."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
    """Letters, digits and underscores: the first part of the assets' keys."""
    description: str = ""
    owners: list[str] = []
    """E-mail addresses, or `team:<name>`."""
    root: str
    """URI below which everything is stored, as `<root>/<name>/<asset>/<partition>/`."""
    source: SourceSpec
    partitions: PartitionsSpec
    """Their keys, or what they follow from: time, prefixes, or batches of new objects."""
    partitions_per_run: Annotated[int, Field(gt=0)] = 1
    """How many a run of the sensor, of the schedule or of a backfill takes at most."""
    sensor: SensorSpec | None = None
    """If given, new, changed and deleted objects have their partitions run."""
    backfill: BackfillSpec | None = None
    """If given, missing, failed and stale partitions are run on a schedule."""
    automation: bool = False
    """Whether an asset follows the one before it whenever that was materialized, by whomever."""
    fresh_hours: Annotated[float, Field(gt=0)] | None = None
    """If given, Dagster warns when the last materialization is older."""
    keep_superseded: Annotated[float, BeforeValidator(seconds_of), WithJsonSchema(DURATION)] = 0.0
    """For how long superseded data are kept for those who read them, in seconds, or as `12h`, `7d`."""
    shards: ShardSpec = ShardSpec()
    transform: TransformSpec = TransformSpec(operations=[])
    embedder: EmbedderSpec = EmbedderSpec()
    projection: Literal["pca", "umap"] = "pca"
    max_reject_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    """A run fails if more than this share of a partition's samples is rejected."""
    max_pixels: Annotated[int, Field(gt=0)] = MAX_PIXELS
    """Images with more are taken for decompression bombs, and rejected."""
    class_names: list[str] = []
    """Names of the classes that `cls` numbers from 0, for the map's legend."""
    min_same_class_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    """If given, checked: the share of samples whose nearest neighbour has the same `cls`."""
    gpu: GPUField = None
    """The CUDA devices that the embeddings need: they run where there are such, and nowhere else."""

    @property
    def resolved_embedder(self) -> EmbedderSpec:
        """The embedder, on a CUDA device and nowhere else if the dataset says `gpu`."""
        return self.embedder.model_copy(update={"runtime": "cuda"}) if self.gpu else self.embedder

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSpec:
        template = self.source.uri or self.source.table or ""
        if "{{" not in template:  # it is filled in already
            partitioning = partitioning_of(self.partitions, template)
            base = join_uri(partitioning.base, "")
            home = join_uri(absolute_uri(self.root), self.name)
            ours = [f"{home}/raw_images/partition/data.parquet", f"{home}/{SIDE}/raw_images/partition/index.json"]
            if any(uri.startswith(base) and partitioning.match(uri.removeprefix(base)) for uri in ours):
                raise ValueError(f"the root {self.root!r} lies within the source: what is made would be listed as raw")
        if self.source.table is not None and (self.sensor or not isinstance(self.partitions, list)):
            raise ValueError("a source that is a table has declared partitions and no sensor")
        queue = self.sensor and self.sensor.notifications
        scheme = queue and ("s3://" if queue.sqs_queue else "gs://")
        if scheme and "{{" not in template and not absolute_uri(template).startswith(scheme):
            raise ValueError(f"the sensor's notifications are of buckets under {scheme}, and the source is {template}")
        if isinstance(self.partitions, BatchPartitions) and self.source.marker:
            raise ValueError("a marker says that a partition is complete; a batch is when it is sealed")
        if isinstance(self.partitions, BatchPartitions) and len(self.source.components or ()) > 1:
            raise ValueError(
                "`components` from several folders would be torn apart by batches; use `by: prefix` or `by: time`"
            )
        family = self.embedder.model.partition("/")[0]
        if family not in EMBEDDERS and "{{" not in family:
            raise ValueError(str(unknown_model(self.embedder.model, list(EMBEDDERS))))
        if self.gpu and self.embedder.runtime not in ("auto", "cuda"):
            raise ValueError(f"gpu asks for a CUDA device, runtime: {self.embedder.runtime} for none")
        return self


def load_dataset(file: Path, storage: Storage | None = None) -> Dataset:
    """The dataset that a YAML file declares: a Dagster component's `defs.yaml`, or its `attributes` alone.

    `{{ env.NAME }}`, `{{ env('NAME', 'default') }}` and `{{ context.project_root }}` (the nearest folder above the file
    with a `pyproject.toml`, else the file's own) are filled in as Dagster does. Raises ConfigurationError.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read the dataset file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not a text in UTF-8: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{file} declares no dataset: it has no fields")
    try:
        return Dataset(
            DatasetSpec.model_validate(_rendered(content.get("attributes", content), file)), storage or Storage()
        )
    except ValidationError as error:
        problems = "\n".join(f"  {_field(e['loc'])}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"{file} declares no valid dataset:\n{problems}") from error


@dataclass(frozen=True)
class Dataset:
    """A declared dataset and the storage that it lives on."""

    spec: DatasetSpec
    storage: Storage = field(default_factory=Storage)

    @cached_property
    def partitioning(self) -> Partitioning:
        """How the source is partitioned."""
        return partitioning_of(self.spec.partitions, self.spec.source.uri or self.spec.source.table or "")

    def partitions(self) -> list[str]:
        """The partitions, in order: those declared, or those that the source holds objects of now, or the batches."""
        if isinstance(self.spec.partitions, BatchPartitions):
            return sealed_batches(self.storage, self.home)
        return self.partitioning.keys(self.storage)

    def manifest(self, partition: str) -> Manifest:
        """What the source holds of a partition now. Raises ConfigurationError for a partition that cannot be."""
        if isinstance(self.spec.partitions, BatchPartitions):
            objects = self.batch(partition).objects(self.storage)
            return manifest_of(self.spec.source, self.partitioning.base, objects)
        try:
            location = self.partitioning.folder(partition, self.storage)
        except NothingThereError:
            return Manifest.from_objects([])
        return list_source(self.spec.source, location, self.storage)

    def batch(self, partition: str) -> Batch:
        """A sealed batch. Raises ConfigurationError if there is none, or if its objects lie outside the source."""
        batch, base = read_batch(self.storage, self.home, partition), self.partitioning.base
        outside = next((uri for uri in batch.uris if not uri.startswith(join_uri(base, ""))), None)
        if outside:
            raise ConfigurationError(
                f"{partition} was made of objects elsewhere, such as {outside}, not below {base}; it stays as it is"
            )
        return batch

    def folder(self, asset: AssetName, partition: str) -> str:
        """URI of an asset's partition. Raises ConfigurationError for a key that no partition can have."""
        self._check(partition)
        return join_uri(absolute_uri(self.spec.root), self.name(asset, partition))

    def may_have(self, partition: str) -> bool:
        """Whether the dataset, as it is declared, could have a partition with this key."""
        try:
            self._check(partition)
        except ConfigurationError:
            return False
        return True

    def _check(self, partition: str) -> None:
        if not isinstance(self.spec.partitions, BatchPartitions):
            self.partitioning.check(partition)
        elif not is_batch_key(partition):
            raise ConfigurationError(f"there is no batch {partition!r}: they are called batch-000001 and so on")

    @property
    def home(self) -> str:
        """URI of the folder that holds everything of the dataset."""
        return join_uri(absolute_uri(self.spec.root), self.spec.name)

    def name(self, asset: AssetName, partition: str) -> str:
        """`<dataset>/<asset>/<partition>`."""
        return f"{self.spec.name}/{asset}/{partition}"


def _field(location: tuple[int | str, ...]) -> str:
    """As it stands in the file: pydantic adds which of the ways to declare partitions it took."""
    named = location[:1] + location[2:] if location[:1] == ("partitions",) else location
    return ".".join(map(str, named)) or "dataset"


class TemplateEnvironment:
    """`env` in templates: `env.NAME`, or `env('NAME', 'default')`. Raises ConfigurationError for what is not set."""

    unsafe_callable = alters_data = False  # jinja's sandbox asks

    def __call__(self, name: str, default: str | None = None) -> str:
        """The variable's value, or the default."""
        value = os.environ.get(name, default)
        if value is None:
            raise ConfigurationError(f"the dataset file needs the environment variable {name}, which is not set")
        return value

    def __getattr__(self, name: str) -> str:
        if name.startswith(("jinja", "__")):  # jinja looks for marks of its own on what it calls
            raise AttributeError(name)
        return self(name)


def _rendered(value: Any, file: Path) -> Any:
    """The value with the templates in its strings filled in."""
    if isinstance(value, dict):
        return {key: _rendered(item, file) for key, item in value.items()}
    if isinstance(value, list):
        return [_rendered(item, file) for item in value]
    if not isinstance(value, str) or "{{" not in value:
        return value
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    try:
        template = SandboxedEnvironment(undefined=StrictUndefined).from_string(value)
        return template.render(env=TemplateEnvironment(), context={"project_root": str(_project_root(file))})
    except (TemplateError, ArithmeticError, TypeError) as error:
        raise ConfigurationError(f"{file}: cannot fill in {value!r}: {error}") from error


def _project_root(file: Path) -> Path:
    folders: Iterator[Path] = iter(file.absolute().parents)
    return next((folder for folder in folders if (folder / "pyproject.toml").exists()), file.absolute().parent)
