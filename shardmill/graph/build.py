"""The graph of a dataset: which assets its file declares, and which is made of which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

from shardmill.dataset import RAW, DatasetSpec, StageSpec
from shardmill.devices import GPUSpec
from shardmill.errors import ConfigurationError
from shardmill.graph.asset import Asset, shard_by_shard
from shardmill.graph.cuts import fitted, listed, mapped, packed, with_columns
from shardmill.importing import as_an_error, import_path
from shardmill.sources.columns import declared as declared_columns
from shardmill.spec import did_you_mean
from shardmill.stages.embed import EmbedStage
from shardmill.stages.embedding_basis import BasisStage
from shardmill.stages.embedding_map import MapStage
from shardmill.stages.files import FileStage
from shardmill.stages.list_objects import ListStage
from shardmill.stages.metadata import MetadataStage, check_columns
from shardmill.stages.pack import PackStage
from shardmill.stages.stage import Stage
from shardmill.stages.stored_samples import StoredSamplesStage
from shardmill.stages.transform import TransformStage

PACKED = "webdataset_shards"


@dataclass(frozen=True)
class Graph:
    """The assets of a dataset, each after those that it is made of."""

    assets: tuple[Asset, ...]

    def __iter__(self) -> Iterator[Asset]:
        return iter(self.assets)

    def __getitem__(self, name: str) -> Asset:
        return self.by_name[name]

    @cached_property
    def by_name(self) -> Mapping[str, Asset]:
        """The assets by their names."""
        return {asset.name: asset for asset in self.assets}

    def siblings(self, asset: Asset) -> list[Asset]:
        """The assets that are made together, in one pass over the shards that they are made of: this one and others.

        Where processes and devices are shared out they still have to need the same (`Stage.resources`).
        """
        most = asset.stage.most_together
        alike = [
            each
            for each in self.assets
            if type(each.stage) is type(asset.stage) and (each.inputs, each.scope) == (asset.inputs, asset.scope)
        ]
        start = alike.index(asset) // most * most
        return alike[start : start + most]

    @property
    def leaves(self) -> list[Asset]:
        """The assets that no other is made of."""
        used = {name for asset in self.assets for name in asset.inputs}
        return [asset for asset in self.assets if asset.name not in used]


def build_graph(spec: DatasetSpec) -> Graph:
    """The graph that a dataset file declares.

    Raises:
        ConfigurationError: An `of` names no asset that fits, assets are made of each other, or two have one name; a
            stage of the user's own cannot be imported, or is none.
    """
    assets = [
        Asset(
            RAW,
            ListStage(),
            cut=listed,
            declared={"source": spec.source.model_dump(mode="json"), "columns": [*spec.columns]},
            description="Every raw object of the partition: key, component, URI, size, version.",
            kinds=frozenset({"parquet"}),
        ),
        Asset(
            PACKED,
            PackStage(spec.source.declared, spec.source.cuts_names, spec.max_pixels, spec.source.table is not None),
            (RAW,),
            cut=packed,
            declared={"shards": spec.shards.model_dump(mode="json")},
            description="The samples as WebDataset shards, bytes unchanged; every image in them decodes.",
            kinds=frozenset({"webdataset", "tar"}),
        ),
        *_transformed(spec),
        *_own(spec),
    ]
    masks, sound = _masks(assets), _sound(assets)
    for suffix, embedder in spec.all_embedders.items():
        of = embedder.of or _default_of(spec)
        assets += _embedded(spec, suffix, of, masks.get(of, ()), of in sound)
    return Graph(tuple(_in_order(spec, assets)))


def _transformed(spec: DatasetSpec) -> Iterator[Asset]:
    for suffix, transform in spec.all_transforms.items():
        steps = ", ".join(operation.operation for operation in transform.operations) or "no operation"
        names = spec.names_in(transform)
        yield Asset(
            f"transformed_shards{suffix}",
            TransformStage(transform.spec, spec.max_pixels, names),
            (transform.of or PACKED,),
            description=f"The samples after a transform: {steps}.",
            kinds=frozenset({"webdataset", "torchvision"}),
            masks=tuple(name for mask in transform.masks for name in names[mask]),
            field=_field("transform", suffix),
        )


def _own(spec: DatasetSpec) -> Iterator[Asset]:
    for declared in spec.stages:
        stage, field = _load(spec, declared), f"stages.{declared.name}"
        yield Asset(
            declared.name,
            stage,
            (declared.of or PACKED,),
            description=(type(stage).__doc__ or "").strip(),
            kinds=frozenset({"webdataset" if stage.suffix == "tar" else "parquet", "python"}),
            declared={"use": declared.use},
            field=field,
        )
        if isinstance(stage, FileStage):
            yield Asset(
                f"{declared.name}_metadata",
                MetadataStage(dict(stage.columns)),
                (declared.name,),
                description=f"The metadata of `{declared.name}`, a row a sample, with the raw object of each.",
                kinds=frozenset({"parquet"}),
                field=field,
            )


def _embedded(spec: DatasetSpec, suffix: str, of: str, masks: tuple[str, ...], all_sound: bool) -> Iterator[Asset]:
    declared = spec.all_embedders[suffix]
    devices = spec.gpu or GPUSpec()
    names = spec.source.names_of(declared.component) if declared.component else ()
    embedder = declared.spec(cuda=spec.gpu is not None)
    stage = EmbedStage(embedder, masks, spec.max_pixels, names, all_sound, devices)
    table, basis = f"embeddings{suffix}", f"embedding_basis{suffix}"
    has_columns = spec.columns or spec.source.table is not None  # a table may have a column of classes
    yield Asset(
        table,
        stage,
        (of, RAW) if has_columns else (of,),
        cut=with_columns if has_columns else shard_by_shard,
        declared={"columns": declared_columns(spec.columns)} if has_columns else {},
        description=f"Vectors of `{declared.model}`, one row a sample, with the raw object that each comes from.",
        kinds=frozenset({"parquet", "pytorch"}),
        field=_field("embedder", suffix),
    )
    yield Asset(
        basis,
        BasisStage(spec.projection, stage),
        (table,),
        scope="dataset",
        cut=fitted,
        description=f"What all partitions' vectors are projected on, by {spec.projection.upper()}: fitted once.",
        kinds=frozenset({"parquet"}),
    )
    yield Asset(
        f"embedding_map{suffix}",
        MapStage(tuple(spec.class_names)),
        (table, basis),
        cut=mapped,
        description=f"Two dimensions by {spec.projection.upper()}, on one basis for all partitions of the dataset.",
        kinds=frozenset({"parquet", "matplotlib"}),
    )


def _field(one: str, suffix: str) -> str:
    """The field that declares the asset which ends in this suffix: `transform`, or `transforms.<name>`."""
    return f"{one}s.{suffix[1:]}" if suffix else one


def _default_of(spec: DatasetSpec) -> str:
    """What an embedder embeds if it does not name an asset."""
    transformed = [f"transformed_shards{suffix}" for suffix in spec.all_transforms]
    if len(transformed) > 1:
        raise ConfigurationError(
            f"{spec.name} has several transforms: say in each embedder's `of` which it embeds, "
            f"{', '.join(transformed)} or {PACKED}"
        )
    return transformed[0] if transformed else PACKED


def _masks(assets: list[Asset]) -> dict[str, tuple[str, ...]]:
    """Asset → the components of its samples that are label maps, by it or by what it is made of."""

    def masks(name: str, seen: frozenset[str]) -> tuple[str, ...]:
        asset = next((asset for asset in assets if asset.name == name), None)
        if asset is None or name in seen:
            return ()
        inherited = (mask for of in asset.inputs for mask in masks(of, seen | {name}))
        return tuple(dict.fromkeys((*asset.masks, *inherited)))

    return {asset.name: masks(asset.name, frozenset()) for asset in assets}


def _sound(assets: list[Asset]) -> set[str]:
    """The assets of which every image decodes: what was packed, and what transforms made of that.

    Code of the user's own may give bytes, which are stored as they are.
    """
    transforms = {
        each.name: each.inputs[0]
        for each in assets
        if isinstance(each.stage, TransformStage)
        and not any(operation.is_custom for operation in each.stage.spec.operations)
    }
    found = {PACKED}
    while more := {name for name, of in transforms.items() if of in found} - found:
        found |= more
    return found


def _load(spec: DatasetSpec, declared: StageSpec) -> Stage[Any]:
    where = f"{spec.name}: stages.{declared.name}"
    try:
        kind = import_path(declared.use)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Stage)):
        raise ConfigurationError(f"{where}: {declared.use} is no subclass of shardmill.Stage")
    lacking = [name for name in ("name", "suffix") if not isinstance(getattr(kind, name, None), str)]
    if lacking:
        raise ConfigurationError(f"{where}: {declared.use} has no class attribute `{lacking[0]}`")
    try:
        with as_an_error("making it"):
            stage: Stage[Any] = kind(**declared.parameters)
    except Exception as error:
        raise ConfigurationError(f"{where}: {declared.use} cannot be made of these parameters: {error}") from error
    if isinstance(stage, FileStage):
        try:
            with as_an_error("giving its columns"):
                check_columns(stage.columns)
        except Exception as error:
            raise ConfigurationError(f"{where}: {declared.use}.columns: {error}") from error
    return stage.is_declared(declared.use, declared.parameters)


def _in_order(spec: DatasetSpec, assets: list[Asset]) -> Iterator[Asset]:
    """Each asset after its inputs, else as they stand."""
    by_name: dict[str, Asset] = {}
    for asset in assets:
        if asset.name in by_name:
            raise ConfigurationError(f"{spec.name} has two assets called {asset.name}")
        by_name[asset.name] = asset
    for asset in assets:
        for name in asset.inputs:
            _check_input(spec, asset, name, by_name)
    try:
        yield from (by_name[name] for name in _sorted(assets))
    except CycleError as error:
        raise ConfigurationError(f"{spec.name}: assets are made of each other: {' → '.join(error.args[1])}") from None


def _sorted(assets: list[Asset]) -> list[str]:
    sorter = TopologicalSorter({asset.name: asset.inputs for asset in assets})
    sorter.prepare()
    position = {asset.name: place for place, asset in enumerate(assets)}
    ready, done = list(sorter.get_ready()), []
    while ready:
        ready.sort(key=position.__getitem__)
        name = ready.pop(0)
        done.append(name)
        sorter.done(name)
        ready += sorter.get_ready()
    return done


def _check_input(spec: DatasetSpec, asset: Asset, name: str, by_name: Mapping[str, Asset]) -> None:
    samples = [each.name for each in by_name.values() if each.format == "tar" and each is not asset]
    if name not in by_name:
        raise ConfigurationError(
            f"{spec.name}: {asset.field}.of: {name} is no asset{did_you_mean(name, samples) or ';'} "
            f"{', '.join(samples)} hold samples"
        )
    is_first = name == asset.inputs[0]
    if isinstance(asset.stage, StoredSamplesStage) and is_first and by_name[name].format != "tar":
        raise ConfigurationError(f"{spec.name}: {asset.field}.of: {name} is a table; {', '.join(samples)} hold samples")
