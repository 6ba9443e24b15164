"""How the inputs of assets are cut into shards, where that is not shard by shard."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

from shardmill.dataset import RAW, WHOLE
from shardmill.dataset.source import check_that_all_was_deleted, read_manifest
from shardmill.errors import ConfigurationError
from shardmill.graph.asset import Asset, Cut, Inputs
from shardmill.shards.reader import ShardSet
from shardmill.sources import Manifest
from shardmill.sources.dots import check_for_dots, several_in_one
from shardmill.stages.columns import ShardWithColumns, shards_with_columns
from shardmill.stages.embedding_basis import BasisStage, TablesToFit, tables_of, tables_to_fit
from shardmill.stages.embedding_map import TableToMap
from shardmill.stages.list_objects import ListedObjects
from shardmill.stages.raw_shards import RawShard, pack
from shardmill.stages.stage import Stage, stage_identity

logger = logging.getLogger(__name__)


def listed(asset: Asset, stage: Stage[Any], inputs: Inputs) -> Cut:  # noqa: ARG001
    """The partition's objects, listed when the shards are asked for.

    Raises:
        ConfigurationError: When the shards are asked for: there are no objects, unless all there were are deleted; or
            too many names would be torn apart.
    """
    dataset, partition = inputs.dataset, inputs.partition

    @cache
    def manifest() -> Manifest:
        return dataset.manifest(partition, inputs.progress)

    def shards() -> list[ListedObjects]:
        if not manifest().objects:
            check_that_all_was_deleted(dataset, partition, manifest().left_out)
        source, several = dataset.spec.source, None
        if source.cuts_names:
            of_table = source.table is not None
            check_for_dots(manifest(), dataset.spec.max_reject_ratio, of_table)
            if several := several_in_one(manifest(), of_table):
                logger.warning("%s: %s", dataset.name(asset.name, partition), several)
        return [ListedObjects(manifest(), several)]

    parameters = {**dataset.spec.source.model_dump(mode="json"), "columns": [*dataset.spec.columns]}
    return Cut(shards, parameters=parameters, left_out=lambda: manifest().left_out)


def packed(asset: Asset, stage: Stage[Any], inputs: Inputs) -> Cut:  # noqa: ARG001
    """The samples of the manifest, by the dataset's limits of a shard."""
    spec, raw = inputs.dataset.spec, inputs.sets[RAW]

    def shards() -> list[RawShard]:
        return pack(_manifest(inputs), spec.shards, spec.reads_images)

    parameters = {**spec.shards.model_dump(mode="json"), "images": spec.reads_images}
    return Cut(shards, {RAW: raw}, parameters, spec.shards.order)


def with_columns(asset: Asset, stage: Stage[Any], inputs: Inputs) -> Cut:  # noqa: ARG001
    """Each shard of the first input, with what the manifest says of the declared columns of its samples."""
    shards = inputs.sets[asset.inputs[0]]

    def cut() -> list[ShardWithColumns]:
        return shards_with_columns(shards.shards, shards.commit, _manifest(inputs), inputs.dataset.spec.columns)

    return Cut(cut, {name: inputs.sets[name] for name in asset.inputs}, asset.declared, shards.commit.order)


def _manifest(inputs: Inputs) -> Manifest:
    """That of the partition: as it stands, or as it is foreseen."""
    foreseen = inputs.planned.get(RAW)
    return foreseen.inputs[0].manifest if foreseen else read_manifest(inputs.sets[RAW])  # type: ignore[attr-defined]


def fitted(asset: Asset, stage: Stage[Any], inputs: Inputs) -> Cut:
    """All tables of the embedder together. Once they are fitted, no table that comes or changes moves the maps.

    That does not hold for a basis of tables that are not final: samples of them are still to be tried again.
    """
    assert isinstance(stage, BasisStage)
    tables = _Tables(asset.inputs[0], stage, inputs)
    present = inputs.dataset.stored(asset.name, WHOLE)
    settled = {"tables": "settled"}
    is_settled = present is not None and present.commit.cut == settled
    if is_settled and present is not None and present.commit.parameters == stage.parameters():
        return Cut(lambda: [TablesToFit(tables, settled=True)], parameters=settled)
    passing = set()
    for table in chain(tables.own(), tables.all()):
        if table.commit.is_final:
            return Cut(lambda: [TablesToFit(tables, settled=True)], parameters=settled)
        passing.add(table.commit.digest)
    return Cut(lambda: [TablesToFit(tables, settled=False)] if passing else [], parameters={"tables": sorted(passing)})


@dataclass(frozen=True)
class _Tables:
    """The tables that a basis is fitted on: the final ones, or those that there are."""

    asset: str
    stage: BasisStage
    inputs: Inputs

    def own(self) -> Iterator[ShardSet]:
        """That of this partition, if there is one."""
        return tables_of(self.stage.embed, [self.inputs.sets[self.asset]] if self.asset in self.inputs.sets else [])

    def all(self) -> Iterator[ShardSet]:
        """Every table with rows that the dataset's embedder made, as far as they are asked for."""
        return tables_of(self.stage.embed, self.inputs.every(self.asset))

    def __call__(self) -> Sequence[ShardSet]:
        return tables_to_fit(self.all())  # in one order, whichever partition's run fits it


def mapped(asset: Asset, stage: Stage[Any], inputs: Inputs) -> Cut:  # noqa: ARG001
    """The whole table, with the basis.

    Raises:
        ConfigurationError: The table's vectors are of another space than the basis.
    """
    table, basis = (inputs.sets[name] for name in asset.inputs)
    commit = table.commit
    made_by = stage_identity(commit.stage, commit.stage_version, commit.parameters)
    if commit.total_samples and basis.commit.parameters["embedder"] != made_by:
        raise ConfigurationError(
            f"{commit.name} was made by another embedder than {basis.commit.name}: materialize {asset.inputs[0]} first"
        )
    if not commit.total_samples:  # no basis moves it
        return Cut(list, {asset.inputs[0]: table}, order=commit.order)
    upstream = {name: inputs.sets[name] for name in asset.inputs}
    return Cut(lambda: [TableToMap(table.pinned_here(), basis.pinned_here())], upstream, order=commit.order)
