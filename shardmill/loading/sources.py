"""What is read: shards whose samples have numbers, pinned to the state that they were in when reading began."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from shardmill.errors import ConfigurationError, NothingCommittedError
from shardmill.loading.columns import Numbers, Rows, Wanted, joined, table_beside
from shardmill.loading.committed import CommittedShard, Read, pinned
from shardmill.loading.indexes import Indexes
from shardmill.loading.tars import find_tars, is_of_tars, open_tars
from shardmill.samples import names_of
from shardmill.shards.commit import Commit
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.places import Places
from shardmill.shards.reader import ShardSet, open_shards
from shardmill.spec import did_you_mean
from shardmill.storage import Storage
from shardmill.temporary import TemporaryFolder

if TYPE_CHECKING:
    import pyarrow.compute as pc

logger = logging.getLogger(__name__)

What: TypeAlias = "str | Path | ShardSet | Sequence[str | Path | ShardSet]"
"""A partition by the URI or path of its folder, or as `open_shards` gives it; tars by theirs, or by a glob; several."""


class Shard(Protocol):
    """Samples with numbers, in a tar. Picklable."""

    @property
    def url(self) -> str:
        """Of the tar."""

    @property
    def samples(self) -> int:
        """How many there are, before any filter."""

    @property
    def size(self) -> int:
        """Bytes of the tar."""

    def places(self) -> Places:
        """Where its samples stand.

        Raises:
            CorruptionError: What says so is damaged.
            SupersededError: It is gone.
        """

    def read(self, numbers: Sequence[range]) -> Iterator[Read]:
        """The samples with these numbers, ascending and disjoint, in order, by few ranged reads.

        Digests are compared where they are known.

        Raises:
            SupersededError: What was there when reading began is gone, and stands nowhere else.
            StorageError: A store cannot give it.
        """


@dataclass(frozen=True)
class Source:
    """The shards that a loader reads. Picklable; what it reads stays as it was when it was opened."""

    shards: Sequence[Shard]
    identity: str
    """Digest over all that says which samples these are, and in which order."""
    selected: Sequence[Numbers] | None = None
    """Of each shard the numbers of the samples that are read; None: all."""
    beside: Sequence[Rows] = ()
    """Of each shard what stands beside the components, if that is asked for."""
    without_vector: int = 0
    """Samples that are left out because the table of embeddings has no vector of them."""
    masks: Sequence[str] = ()
    """Components that are label maps, as far as the commits say so: those that a transform made do."""
    commits: Sequence[str] = ()
    """The beginnings of the digests of the commits, which `open_shards(…, digest=)` takes."""

    def cells(self, shard: int, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """What stands beside the components of these samples of a shard: column → value."""
        if not self.beside:
            return [{} for _ in numbers]
        rows = self.beside[shard]
        return rows.table.cells(rows.numbers[np.asarray(numbers, np.int64)])


def open_source(
    what: What,
    storage: Storage | None = None,
    columns: Sequence[str] = (),
    filter: pc.Expression | None = None,
    embeddings: What | None = None,
    components: Sequence[str] | None = None,
) -> Source:
    """Pin what there is now.

    Args:
        what: The partitions, or the tars.
        storage: Where they are.
        columns: Columns of the dataset's that samples get beside their components; null where there is no row.
        filter: Which samples are read, an expression over the columns of a table of embeddings: the dataset's own, and
            those of lineage.
        embeddings: The tables whose vectors samples get, one a partition, in their order; columns come from them, too.
            Samples without a vector are left out. By default columns come from a table of the same partition.
        components: Those that are read, by the names that `called_so` understands; by default all.

    Raises:
        NothingCommittedError: Nothing is committed in one of the folders.
        ConfigurationError: Nothing is given; a folder holds no samples, or a table not what is asked for.
        CorruptionError: An index or a tar is damaged.
        StorageError: A store cannot give it.
    """
    what = _checked(what)
    if not what:
        raise ConfigurationError("no partition and no tar is given to be read")
    storage, folder = storage or Storage(), TemporaryFolder()
    indexes = Indexes(folder)
    components = None if components is None else [each for name in components for each in names_of(name)]
    wanted = Wanted(columns, filter, embeddings is not None)
    tars = [str(each) for each in _each(what) if not isinstance(each, ShardSet) and is_of_tars(str(each))]
    if tars:
        return _of_tars(what, tars, storage, wanted, indexes, components)
    sets = [pinned(_opened(each, storage), indexes) for each in _each(what)]
    shards = [CommittedShard(s.storage, shard, indexes, components) for s in sets for shard in s.shards]
    everything = Source(
        shards,
        fingerprint(sets=[[found.commit.name, found.digest] for found in sets]),
        masks=sorted({name for found in sets for name in _masks(found.commit)}),
        commits=[found.digest[:16] for found in sets],
    )
    if not wanted:
        return everything
    tables = _tables(sets, embeddings, storage)
    beside: list[Rows] = []
    selected: list[Numbers] = []
    for samples, table in zip(sets, tables, strict=True):
        found = joined(table, wanted, folder)
        some = shards[len(beside) : len(beside) + len(samples.shards)]
        rows = found.rows([shard.places() for shard in some])
        beside += rows
        selected += map(found.selected, rows)
    _check_that_some_are_known(sets, tables, beside)
    if not wanted.selects:
        return replace(everything, beside=beside)
    chosen = [hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest() for numbers in selected]
    identity = fingerprint(sets=everything.identity, chosen=chosen)
    if filter is not None and shards and not any(map(len, selected)):
        logger.warning(f"filter {filter} lets no sample of {', '.join(each.folder for each in sets)} through")
    without = sum(rows.without for rows in beside) if wanted.vectors else 0
    return replace(everything, identity=identity, selected=selected, beside=beside, without_vector=without)


def _masks(commit: Commit) -> Iterator[str]:
    """The components that a transform took for label maps, by all names that they can have."""
    if commit.stage == "transform":
        names = commit.parameters["names"]
        for mask in commit.parameters["masks"]:
            yield from names.get(mask, [mask])


def _of_tars(
    what: What,
    tars: Sequence[str],
    storage: Storage,
    wanted: Wanted,
    indexes: Indexes,
    components: Sequence[str] | None,
) -> Source:
    if wanted:
        raise ConfigurationError("columns, filter and embeddings are of committed partitions: tars have none")
    if len(tars) < len([*_each(what)]):
        raise ConfigurationError("give either partitions or tars: a loader mixes several streams")
    infos = find_tars(tars, storage)
    shards = open_tars(infos, storage, indexes, components)
    return Source(shards, fingerprint(tars=[[info.uri, info.size, info.version] for info in infos]))


def _tables(sets: Sequence[ShardSet], embeddings: What | None, storage: Storage) -> list[ShardSet]:
    """Of each set the table that it is joined with."""
    if embeddings is None:
        return [table_beside(shards) for shards in sets]
    tables = [each if isinstance(each, ShardSet) else open_shards(str(each), storage) for each in _each(embeddings)]
    if len(tables) != len(sets):
        raise ConfigurationError(
            f"embeddings has {len(tables)} tables for {len(sets)} partitions: give one for each, in their order"
        )
    for table in tables:
        if table.commit.suffix != "parquet" or table.commit.stage != "embed":
            raise ConfigurationError(
                f"{table.folder} is no table of embeddings: those are <asset>/<partition> of an embedder"
            )
    return tables


def _check_that_some_are_known(sets: Sequence[ShardSet], tables: Sequence[ShardSet], beside: Sequence[Rows]) -> None:
    """Refuse a table that knows none of the samples: it is another dataset's, or of what a transform made of them."""
    if beside and all(rows.without == len(rows.numbers) for rows in beside):
        names = [", ".join(each.folder for each in several) for several in (tables, sets)]
        raise ConfigurationError(
            f"{names[0]} has a row of no sample of {names[1]}: keys are joined, and none is in both"
        )


def check_lists(**given: Sequence[str] | None) -> None:
    """Refuse a string where names are listed: its letters would be taken for them.

    Raises:
        ConfigurationError: One is a string.
    """
    for argument, names in given.items():
        if isinstance(names, str):
            raise ConfigurationError(f"{argument} is {names!r}: it is a list of names, [{names!r}]")


def check_components(shards: Sequence[Shard], names: Sequence[str]) -> None:
    """Refuse a component that no sample has; the indexes are looked at until each is found.

    Raises:
        ConfigurationError: There is none.
        CorruptionError: An index is damaged.
    """
    present: set[str] = set()
    missing = [*names]
    for shard in shards:
        if not missing:
            return
        present |= set(shard.places().index["component"].unique().to_pylist())
        missing = [name for name in missing if not present & set(names_of(name))]
    if missing and present:
        raise ConfigurationError(
            f"no sample has the component {missing[0]!r}{did_you_mean(missing[0], present)} (there are "
            f"{', '.join(sorted(present))})"
        )


def _each(what: What) -> Iterable[str | Path | ShardSet]:
    return [what] if isinstance(what, str | Path | ShardSet) else what


def _checked(what: What) -> list[str | Path | ShardSet]:
    several = [*_each(what)] if isinstance(what, str | Path | ShardSet | Iterable) else [what]
    for each in several:
        if not isinstance(each, str | Path | ShardSet):
            raise ConfigurationError(
                f"{type(each).__name__} is nothing that can be read: give the folder of a partition, such as "
                "`dataset.folder('webdataset_shards', '2026-01')`, or what `open_shards` gives, or tars"
            )
    return several


def _opened(what: str | Path | ShardSet, storage: Storage) -> ShardSet:
    try:
        shards = what if isinstance(what, ShardSet) else open_shards(str(what), storage)
    except NothingCommittedError as error:
        raise NothingCommittedError(f"{error}. Tars of others are read by a pattern, such as <folder>/*.tar") from error
    if shards.commit.suffix != "tar":
        raise ConfigurationError(f"{shards.folder} holds a table, and no samples")
    return shards
