"""Stages that are functions over samples: `SampleStage` makes samples of samples, `RowStage` a table's row of each."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from typing_extensions import override

from shardmill.errors import ConfigurationError, Rejected
from shardmill.importing import as_an_error
from shardmill.samples import EncodedSample
from shardmill.shards.earlier import EarlierReader
from shardmill.shards.gathered import GatheredRows
from shardmill.shards.layout import Suffix
from shardmill.shards.parts import Bytes, Part, read_parts
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.stored import Rows, StoredShard
from shardmill.sources.names import MAX_NAME, is_member_name
from shardmill.stages.about import about
from shardmill.stages.counts import Counts
from shardmill.stages.lineage import Lineage
from shardmill.stages.outputs import Cell, TableOutput, TarOutput
from shardmill.stages.stage import OutputFiles, Work
from shardmill.stages.stored_samples import Fingerprints, InputSample, StoredSamplesStage, components_of, of_all

if TYPE_CHECKING:
    import pyarrow as pa


T = TypeVar("T")

_ROWS = 64
"""That are handed to a table together."""


class Component(NamedTuple):
    """A component as it is written."""

    name: str
    data: bytes
    sha256: str


Children = list[tuple[str, list[Component]]]
"""Keys and components of the samples that are made of one, the components sorted."""


class _Plan(NamedTuple):
    """How the output for a sample is had."""

    sample: InputSample
    children: list[tuple[str, list[Part]]] | None
    """Keys and components of what is copied; None if it is computed."""

    @property
    def parts(self) -> list[Part]:
        return [part for _, parts in self.children or () for part in parts]


class TarStage(StoredSamplesStage):
    """A stage that makes samples of samples: `children` says which of one."""

    suffix: ClassVar[Suffix] = "tar"

    @property
    def masks(self) -> Collection[str]:
        """Components that are label maps: no other component descends from one if there is an image."""
        return ()

    @property
    def reads_keys(self) -> bool:
        """Whether what is made of a sample depends on its key. If not, that is one sample of the same key, or none."""
        return True

    def reads(self, component: str) -> bool:  # noqa: ARG002
        """Whether what is made of a sample depends on this component. If not, all that is made has it as it is."""
        return True

    @abstractmethod
    def children(self, sample: EncodedSample, uri: str | Callable[[], str]) -> Children:
        """What is made of a sample that stands at `uri`, as it is written. Called in several threads at once.

        Raises:
            Rejected: This sample cannot be processed.
            SampleError: Something failed that says nothing against the sample.
        """

    @override
    def fingerprints(self, computation: str, key: str, rows: Rows) -> Fingerprints:
        whole = of_all(computation, key, rows)
        read = {name: row for name, row in rows.items() if self.reads(name)}
        if self.reads_keys and len(read) == len(rows):
            return whole
        return Fingerprints(of_all(computation, key if self.reads_keys else "", read).output, whole.refusal)

    @override
    def __call__(self, shard: StoredShard, work: Work) -> tuple[OutputFiles, ShardReport]:
        counts, keys = Counts(shard, work), set[str]()

        def planned() -> Iterator[tuple[_Plan, list[Part]]]:
            for sample in self.look_up(shard.rows(work.storage), EarlierReader(work.earlier, work.storage)):
                counts.bytes_in += sum(row.size for row in sample.rows.values())
                plan = self._plan(shard, sample)
                whole = [Part(shard, row) for row in sample.rows.values()]
                yield plan, whole if plan.children is None else plan.parts

        def make(read: tuple[_Plan, list[Bytes]]) -> Children | Reject:
            plan, found = read
            if _is_copied(read):
                assert plan.children is not None
                data = iter(found)
                if plan.sample.refused is not None:
                    return plan.sample.reject(plan.sample.refused, self.masks)
                return [
                    (key, [Component(part.row.component, next(data), part.row.sha256) for part in parts])  # type: ignore[arg-type]
                    for key, parts in plan.children
                ]
            sample = _whole(shard, work, plan, found)
            try:
                return self.children(sample, lambda: Lineage(plan.sample.rows, self.masks)("").uri)
            except Rejected as rejected:
                return plan.sample.reject(rejected, self.masks)

        with TarOutput(work) as output:
            for (plan, _), children in counts.each(make, read_parts(work.storage, planned()), _is_copied, _size):
                sample = plan.sample
                source = Lineage(sample.rows, self.masks)
                for key, components in children:
                    check_names(key, components, keys)
                    keys.add(key)
                    for name, data, digest in components:
                        output.add(key, name, data, digest, source(name), source.origin, sample.fingerprints.output)
                    output.samples += 1
                counts.done(filtered=None if children else sample.fingerprints.refusal)
        return output.result(counts)

    def _plan(self, shard: StoredShard, sample: InputSample) -> _Plan:
        former = sample.former
        if former is None:
            return _Plan(sample, None)
        passed = [row for row in sample.rows.values() if not self.reads(row.component)]
        children: dict[str, dict[str, Part]] = {}
        for row in former.rows:
            children.setdefault(row.key, {})[row.component] = Part(former.shard, row)
        made = []
        for key, parts in children.items():
            taken = {name: part for name, part in parts.items() if self.reads(name)}
            for row in passed:
                same = parts.get(row.component)
                taken[row.component] = same if same and same.row.sha256 == row.sha256 else Part(shard, row)
            made.append((key if self.reads_keys else sample.key, [taken[name] for name in sorted(taken)]))
            if not self.reads_keys:
                break
        return _Plan(sample, made)


class SampleStage(TarStage):
    """A stage that makes samples of samples: `process` is all there is to it."""

    @abstractmethod
    def process(self, sample: EncodedSample) -> Iterable[EncodedSample]:
        """The samples that are made of one; if there are none, it is filtered out. Called in several threads at once.

        Raises:
            Rejected: This sample cannot be processed.
        """

    @override
    def children(self, sample: EncodedSample, uri: str | Callable[[], str]) -> Children:
        with about(sample.key, uri), as_an_error(f"the stage {self.name}"):
            made = list(each_given(f"{type(self).__name__}.process", self.process(sample), EncodedSample))
            for child in made:
                self._check(child)
        return [(child.key, hashed(child.components)) for child in made]

    def _check(self, made: EncodedSample) -> None:
        gives = f"{type(self).__name__}.process gives a sample"
        if not isinstance(made.key, str):
            raise ConfigurationError(f"{gives} whose key is of type {type(made.key).__name__}: it has to be text")
        if not isinstance(made.components, Mapping) or not made.components:
            raise ConfigurationError(f"{gives} without components: give them by name, or no sample to leave it out")
        for name, data in made.components.items():
            if not isinstance(data, bytes):
                given = type(data).__name__
                raise ConfigurationError(f"{gives} whose component {name!r} is of type {given}: it has to be bytes")


class RowStage(StoredSamplesStage):
    """A stage that makes a table with a row a sample: `row` and `schema` are all there is to it."""

    suffix: ClassVar[Suffix] = "parquet"

    def reads(self, component: str) -> bool:  # noqa: ARG002
        """Whether a row depends on this component. If not, `row` is not given it, and it is not read."""
        return True

    def lineage(self, shard: StoredShard, rows: Rows) -> Mapping[str, Any]:  # noqa: ARG002
        """Cells that say where a sample's row comes from, for columns of the schema. They are of now, never copied."""
        return {}

    @abstractmethod
    def schema(self) -> pa.Schema:
        """The columns beside `key`."""

    @abstractmethod
    def row(self, sample: EncodedSample) -> dict[str, Any]:
        """The cells of a sample's row by column, without `key`. Called in several threads at once.

        Raises:
            Rejected: This sample cannot be processed.
        """

    @override
    def fingerprints(self, computation: str, key: str, rows: Rows) -> Fingerprints:
        return of_all(computation, key, self._read(rows))

    def _check(self, cells: Any, schema: pa.Schema) -> None:
        if not isinstance(cells, Mapping):
            raise ConfigurationError(f"{type(self).__name__}.row gives {type(cells).__name__}, and not cells by column")
        unknown = cells.keys() - set(schema.names)
        if unknown:
            raise ConfigurationError(f"{self.name} gives {min(unknown)!r}, which its schema has no column for")

    def _read(self, rows: Rows) -> Rows:
        return {name: row for name, row in rows.items() if self.reads(name)}

    @override
    def __call__(self, shard: StoredShard, work: Work) -> tuple[OutputFiles, ShardReport]:
        import pyarrow as pa

        schema = pa.schema([pa.field("key", pa.string(), nullable=False), *self.schema()])
        required = [field.name for field in schema if not field.nullable]
        counts = Counts(shard, work)
        index, earlier = shard.index_data(work.storage), EarlierReader(work.earlier, work.storage)
        seen = () if work.earlier.is_empty else self.look_up(shard.rows_in(index), earlier)
        gathered = GatheredRows(work.storage, work.scratch, (sample.former for sample in seen if sample.former))

        def is_copied(read: tuple[InputSample, list[Bytes]]) -> bool:
            former = read[0].former
            return former is not None and (former.reject is not None or gathered.has(former))

        def planned() -> Iterator[tuple[InputSample, list[Part]]]:
            for sample in self.look_up(shard.rows_in(index), earlier):
                read = self._read(sample.rows).values()
                counts.bytes_in += sum(row.size for row in read)
                yield sample, [] if is_copied((sample, [])) else [Part(shard, row) for row in read]

        def make(read: tuple[InputSample, list[Bytes]]) -> tuple[Mapping[str, Any], Cell] | Reject:
            sample, found = read
            origin, digest = next(iter(sample.rows.values())), sample.fingerprints.output
            former = sample.former
            if sample.refused is not None:
                return sample.reject(sample.refused)
            if former is not None and is_copied(read):
                old = former.rows[0]
                (cells,) = gathered.row(former).to_pylist()
                return cells, Cell(old.size, old.sha256, origin, digest)
            try:
                whole = EncodedSample(sample.key, components_of(self._read(sample.rows), found))
                with about(sample.key, origin.source_uri), as_an_error(f"the stage {self.name}"):
                    cells = self.row(whole)
                    self._check(cells, schema)
            except Rejected as rejected:
                return sample.reject(rejected)
            data = repr(sorted(cells.items())).encode()
            return cells, Cell(len(data), hashlib.sha256(data).hexdigest(), origin, digest)

        def size(read: tuple[InputSample, list[Bytes]], made: tuple[Mapping[str, Any], Cell] | Reject | None) -> int:
            return _stored(read[1]) + (made[1].size if isinstance(made, tuple) else 0)

        def rows() -> Generator[tuple[Mapping[str, Any], Cell]]:
            for (sample, _), (cells, cell) in counts.each(make, read_parts(work.storage, planned()), is_copied, size):
                counts.done()
                yield {**cells, **self.lineage(shard, sample.rows), "key": sample.key}, cell

        with closing(rows()) as each, TableOutput(work, schema) as output:
            while some := list(islice(each, _ROWS)):
                columns = {name: [row.get(name) for row, _ in some] for name in schema.names}
                try:
                    if any(value is None for name in required for value in columns[name]):
                        raise pa.ArrowInvalid("a column that takes no null has one")
                    output.add(columns, "row", [cell for _, cell in some])
                except (pa.ArrowException, OverflowError):
                    for row, cell in some:
                        _check_fits(row, cell, schema, type(self).__name__)
                    raise
        return output.result(counts)


def _check_fits(row: Mapping[str, Any], cell: Cell, schema: pa.Schema, who: str) -> None:
    """Name the sample whose cells a table does not take.

    Raises:
        ConfigurationError: They are of this one.
    """
    import pyarrow as pa

    with about(row["key"], cell.origin.source_uri):
        for field in schema:
            value = row.get(field.name)
            if value is None and not field.nullable:
                raise ConfigurationError(f"{who}.row gives no {field.name!r}, a column that takes no null")
            try:
                pa.array([value], field.type)
            except (pa.ArrowException, OverflowError) as error:
                raise ConfigurationError(f"{who}.row gives no {field.type} for {field.name!r}: {error}") from error


def each_given(who: str, made: Any, kind: type[T]) -> Iterator[T]:
    """What code of the user's own gives, one by one.

    Raises:
        ConfigurationError: It gives something else than several of that kind.
    """
    several = f"{kind.__name__}s: return a list of them, or yield them"
    if not isinstance(made, Iterable):
        raise ConfigurationError(f"{who} gives {type(made).__name__}, and not {several}")
    for each in made:
        if not isinstance(each, kind):
            raise ConfigurationError(f"{who} gives {type(each).__name__}, and not {several}")
        yield each


def _is_copied(read: tuple[_Plan, list[Bytes]]) -> bool:
    """Whether all of the output was found, and nothing of it is damaged."""
    return read[0].children is not None and not any(isinstance(data, Exception) for data in read[1])


def _stored(found: list[Bytes]) -> int:
    return sum(len(data) for data in found if isinstance(data, bytes))


def _size(read: tuple[_Plan, list[Bytes]], made: Children | Reject | None) -> int:
    components = [] if made is None or isinstance(made, Reject) else [part for _, parts in made for part in parts]
    return _stored(read[1]) + sum(len(part.data) for part in components)


def _whole(shard: StoredShard, work: Work, plan: _Plan, found: list[Bytes]) -> EncodedSample:
    """The sample itself: as it was read, or now, where what was to be copied is damaged."""
    if plan.children is not None:
        return shard.sample(work.storage, plan.sample.rows)
    return EncodedSample(plan.sample.key, components_of(plan.sample.rows, found))


def hashed(components: Mapping[str, bytes]) -> list[Component]:
    """The components, sorted, with their digests."""
    return [
        Component(name, components[name], hashlib.sha256(components[name]).hexdigest()) for name in sorted(components)
    ]


def check_names(key: str, components: Iterable[Component], taken: Collection[str]) -> None:
    """Check the names that custom code gives its children.

    Raises:
        ConfigurationError: A shard cannot hold them.
    """
    if key in taken:
        raise ConfigurationError(f"the transform gives two samples the key {key!r}; keys must differ")
    for name, _, _ in components:
        if not is_member_name(key, name):
            raise ConfigurationError(
                f"the transform names a component {name!r} of {key!r}; use at most {MAX_NAME} letters, "
                "digits and _-/ for both, no dot in the key, lower case in the component, `jpg` and not `jpeg`"
            )
