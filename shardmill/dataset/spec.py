"""What a dataset file declares."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from shardmill.dataset.upkeep import BackfillSpec, SensorSpec
from shardmill.devices import GPUField
from shardmill.durations import DURATION, seconds_of
from shardmill.embedders import EmbedderSpec, check_model
from shardmill.errors import ConfigurationError
from shardmill.images import MAX_PIXELS
from shardmill.partitions import BatchPartitions, PartitionsSpec, partitioning_of
from shardmill.samples import image_format
from shardmill.shards.catalog import catalogs_below
from shardmill.shards.layout import SIDE
from shardmill.shards.spec import ShardSpec
from shardmill.sources.columns import OWN_COLUMNS, checked_type
from shardmill.sources.spec import SourceSpec
from shardmill.spec import Spec, refuse
from shardmill.storage import absolute_uri, checked_uri, join_uri
from shardmill.transforms.spec import TransformSpec

_LONGEST_NAME = 100


def _named(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", name):
        likely = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
        hint = f", such as {likely}" if likely else ""
        raise ValueError(f"{name!r} is no name: use letters, digits and underscores, no underscore first{hint}")
    if len(name) > _LONGEST_NAME:
        raise ValueError(
            f"{name[:20]!r}… has {len(name)} letters: folders are called so, give it {_LONGEST_NAME} at most"
        )
    return name


def _import_path(path: str) -> str:
    if not re.fullmatch(r"[\w.]+:\w+", path):
        module, _, name = path.rpartition(".")
        hint = f"; did you mean {module}:{name}?" if re.fullmatch(r"[\w.]+", module) and name else ""
        raise ValueError(f"{path!r} is no import path: write package.module:Class{hint}")
    return path


def _owner(owner: str) -> str:
    if "{{" not in owner and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+|team:\w+", owner):
        raise ValueError(f"{owner!r} is no owner: give an e-mail address, or team:<name>")
    return owner


Named = Annotated[str, AfterValidator(_named)]
"""Letters, digits and underscores, none of them first: a part of assets' keys."""


class DeclaredTransform(TransformSpec):
    """A transform, and the shards that it is applied to."""

    of: str | None = None
    """An asset that holds samples; by default `webdataset_shards`."""

    @property
    def spec(self) -> TransformSpec:
        """What it does, whatever it is applied to."""
        return TransformSpec(**self.model_dump(exclude={"of"}))


class DeclaredEmbedder(EmbedderSpec):
    """An embedder, and the shards that it embeds."""

    of: str | None = None
    """An asset that holds samples; by default the transformed shards, or `webdataset_shards` where there are none."""

    def spec(self, cuda: bool) -> EmbedderSpec:
        """What it does, whatever it is applied to; with `cuda` on a CUDA device and nowhere else."""
        spec = EmbedderSpec(**self.model_dump(exclude={"of"}))
        return spec.model_copy(update={"runtime": "cuda"}) if cuda else spec


class StageSpec(Spec):
    """A stage of the user's own, as an asset."""

    name: Named
    """Of the asset."""
    use: Annotated[str, AfterValidator(_import_path)]
    """`package.module:Class`, a `shardmill.Stage` over stored shards, importable where shards are made."""
    of: str | None = None
    """The asset that it is made of, shard by shard; by default `webdataset_shards`."""
    parameters: dict[str, Any] = {}
    """Arguments of the class: plain JSON."""

    @field_validator("parameters")
    @classmethod
    def _plain_json(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        for name, value in parameters.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                raise ValueError(f"{name}: {value!s} is not plain JSON: put it in quotes") from None
        return parameters


class DatasetSpec(Spec):
    """What a dataset file declares."""

    name: Named
    """The first part of the assets' keys."""
    description: str = ""
    owners: list[Annotated[str, AfterValidator(_owner)]] = []
    """E-mail addresses, or `team:<name>`."""
    root: Annotated[str, AfterValidator(checked_uri)]
    """URI below which everything is stored, as `<root>/<name>/<asset>/<partition>/`."""
    source: SourceSpec
    columns: dict[Annotated[str, Field(min_length=1)], Annotated[str, AfterValidator(checked_type)]] = {}
    """Column → type: metadata that go into the tables of embeddings, and not into the samples."""
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
    transform: DeclaredTransform | None = None
    """Gives `transformed_shards`."""
    transforms: dict[Named, DeclaredTransform] = {}
    """Several by name, in the place of `transform`: each gives `transformed_shards_<name>`."""
    embedder: DeclaredEmbedder | None = None
    """Gives `embeddings` and their map."""
    embedders: dict[Named, DeclaredEmbedder] = {}
    """Several by name, in the place of `embedder` or beside it: each gives `embeddings_<name>` and its map."""
    stages: list[StageSpec] = []
    """Assets of the user's own."""
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
    def all_transforms(self) -> Mapping[str, DeclaredTransform]:
        """By what their assets are called behind `transformed_shards`."""
        return _by_suffix(self.transform, self.transforms)

    @property
    def all_embedders(self) -> Mapping[str, DeclaredEmbedder]:
        """By what their assets are called behind `embeddings`."""
        return _by_suffix(self.embedder, self.embedders)

    def names_in(self, transform: TransformSpec) -> dict[str, tuple[str, ...]]:
        """What the components that a transform names can be called in a sample."""
        return {name: self.source.names_of(name) for name in transform.named}

    @property
    def masks(self) -> list[str]:
        """Components that some transform takes for label maps, by all names that they can have."""
        masks = (mask for transform in self.all_transforms.values() for mask in transform.masks)
        return list(dict.fromkeys(name for mask in masks for name in self.source.names_of(mask)))

    @property
    def reads_images(self) -> bool:
        """Whether something reads an image of every raw sample: an embedder, or an operation of torchvision's.

        What comes after a callable of the user's own does not: that may draw the images.
        """
        transforms = {f"transformed_shards{name}": each for name, each in self.all_transforms.items()}

        def is_raw(of: str | None, seen: tuple[str, ...] = ()) -> bool:
            """Whether samples there have the images that they were packed with."""
            transform = transforms.get(of or "")
            if transform is None or of in seen:
                return all(of != stage.name for stage in self.stages)
            own = any(operation.is_custom for operation in transform.operations)
            return not own and is_raw(transform.of, (*seen, of or ""))

        default = next(iter(transforms), None)
        if any(is_raw(embedder.of or default) for embedder in self.all_embedders.values()):
            return True
        first = ((each.of, each.operations[0]) for each in transforms.values() if each.operations)
        return any(is_raw(of) and not operation.is_custom for of, operation in first)

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSpec:
        self._check_the_source()
        self._check_batches()
        if self.transform is not None and self.transforms:
            raise refuse(["transforms"], "give either `transform`, or several by name in `transforms`")
        self._check_masks()
        self._check_stages()
        self._check_embedders()
        self._check_columns()
        return self

    def _check_the_source(self) -> None:
        field = "uri" if self.source.table is None else "table"
        template = self.source.uri or self.source.table or ""
        if self.source.table is not None and (self.sensor or not isinstance(self.partitions, list)):
            raise refuse(["source", "table"], "a source that is a table has declared partitions and no sensor")
        if "{{" in template:  # not filled in yet
            return
        try:
            partitioning = partitioning_of(self.partitions, template)
        except ValueError as error:
            raise refuse(["source", field], str(error), template) from error
        base = join_uri(partitioning.base, "")
        home = join_uri(absolute_uri(self.root), self.name)
        ours = [f"{home}/raw_images/partition/data.parquet", f"{home}/{SIDE}/raw_images/partition/index.json"]
        ours.append(f"{catalogs_below(absolute_uri(self.root))}/computation/file.parquet")
        if any(uri.startswith(base) and partitioning.match(uri.removeprefix(base)) for uri in ours):
            raise refuse(["root"], f"{self.root!r} lies within the source: what is made would be listed as raw")
        queue = self.sensor and self.sensor.notifications
        scheme = queue and ("s3://" if queue.sqs_queue else "gs://")
        if scheme and not absolute_uri(template).startswith(scheme):
            raise refuse(
                ["sensor", "notifications"], f"they are of buckets under {scheme}, and the source is {template}"
            )

    def _check_batches(self) -> None:
        if not isinstance(self.partitions, BatchPartitions):
            return
        if self.source.marker:
            raise refuse(
                ["source", "marker"], "a marker says that a partition is complete; a batch is when it is sealed"
            )
        if len(self.source.components or ()) > 1:
            raise refuse(
                ["source", "components"],
                "those from several folders would be torn apart by batches; use `by: prefix` or `by: time`",
            )

    def _check_masks(self) -> None:
        for suffix, transform in self.all_transforms.items():
            field = ["transform"] if self.transform is not None else ["transforms", suffix.removeprefix("_")]
            for mask in transform.masks:
                names = self.source.names_of(mask)
                lossy = [name for name in names if image_format(name) not in ("PNG", "TIFF")]
                if lossy and names != (mask,):
                    raise refuse(
                        [*field, "masks"],
                        f"by the patterns of `source.components`, {mask!r} can be {lossy[0]!r}, which would change its "
                        "labels: a mask is stored as png or tiff. Give it patterns that end so, and no `.*`",
                    )

    def _check_stages(self) -> None:
        names = [stage.name for stage in self.stages]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise refuse(["stages", place, "name"], f"{name!r} is given twice: each is an asset of that name")

    def _check_embedders(self) -> None:
        for suffix, embedder in self.all_embedders.items():
            field = ["embedders", suffix[1:]] if suffix else ["embedder"]
            if "{{" not in embedder.model:
                try:
                    check_model(embedder.model)
                except ConfigurationError as error:
                    raise refuse([*field, "model"], str(error)) from error
            if self.gpu and embedder.runtime not in ("auto", "cuda"):
                raise refuse([*field, "runtime"], f"gpu asks for a CUDA device, runtime: {embedder.runtime} for none")
            if embedder.decode == "cuda" and not self.gpu and embedder.runtime != "cuda":
                detail = "only where the vectors are computed on CUDA, too: with gpu: true or runtime: cuda"
                raise refuse([*field, "decode"], detail)
        if self.gpu and not self.all_embedders:
            raise refuse(["gpu"], "it is for the embeddings, and there is no embedder")

    def _check_columns(self) -> None:
        if self.source.metadata is not None and not self.columns:
            raise refuse(
                ["source", "metadata"],
                "it is a table of `columns`: declare which of its columns are taken, and their types",
            )
        if self.columns and not self.all_embedders:
            raise refuse(["columns"], "they go into the table of embeddings, and there is no embedder")
        if own := [name for name in self.columns if name in OWN_COLUMNS]:
            raise refuse(["columns", own[0]], "the table of embeddings has a column of its own that is called so")


def _by_suffix(one: Any, several: Mapping[str, Any]) -> Mapping[str, Any]:
    return ({"": one} if one is not None else {}) | {f"_{name}": each for name, each in several.items()}
