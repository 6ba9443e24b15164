"""What stages of samples share: threads in order, rejects, counts, and the files that are written.

A stage over the samples of stored shards is a function over samples: `SampleStage` makes samples of samples, `RowStage`
a table with a row a sample.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from typing_extensions import override

from shardmill.concurrency import bounded_map
from shardmill.errors import ConfigurationError, Rejected
from shardmill.samples import EncodedSample
from shardmill.shards.fingerprint import file_sha256
from shardmill.shards.index import IndexRow, IndexWriter, Source
from shardmill.shards.layout import Suffix
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.stored import Rows, StoredShard
from shardmill.shards.ustar import TarWriter
from shardmill.sources.names import MAX_NAME, is_member_name
from shardmill.stages.lineage import Lineage
from shardmill.stages.stage import InputShard, OutputFiles, Stage, Work

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
R = TypeVar("R")

ReadSample = tuple[EncodedSample, Rows]
"""A sample of a stored shard, and its rows of the shard's index."""

_ROW_GROUP = 1024


class Counts:
    """The samples of a shard while it is made: how many were kept, filtered and rejected."""

    def __init__(self, shard: InputShard, work: Work) -> None:
        self._shard = shard
        self._work = work
        self.rejects: list[Reject] = []
        self.kept = self.filtered = self.bytes_in = 0

    def each(self, prepare: Callable[[T], R | Reject], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """Each item with what `prepare` makes of it, in order, computed in `work.threads` threads.

        Rejects are counted and left out. Holds `2 * work.threads` items.
        """
        for item, made in bounded_map(lambda item: (item, prepare(item)), items, self._work.threads):
            if isinstance(made, Reject):
                self.rejects.append(made)
                self._work.advance(1)
            else:
                yield item, made

    def samples(
        self, prepare: Callable[[ReadSample], R], shard: StoredShard, masks: Collection[str] = (), component: str = ""
    ) -> Iterator[tuple[ReadSample, R]]:
        """Call `each` over the samples of a stored shard; `prepare` refuses a sample with `Rejected`.

        A reject names the raw object of `component`, else that of an image which is no mask.
        """

        def try_it(read: ReadSample) -> R | Reject:
            try:
                return prepare(read)
            except Rejected as rejected:
                return Reject.of(read[0].key, rejected, Lineage(read[1], masks)(component).uri)

        def counted() -> Iterator[ReadSample]:
            for sample, rows in shard.read(self._work.storage):
                self.bytes_in += sum(len(data) for data in sample.components.values())
                yield sample, rows

        return self.each(try_it, counted())

    def done(self, kept: bool = True) -> None:
        """Count an item of `each` as kept, or as filtered."""
        self.kept += kept
        self.filtered += not kept
        self._work.advance(1)

    def report(self, samples: int, file: Path | None, sha256: str, **figures: Any) -> ShardReport:
        """The report of the shard, `samples` of which stand in `file`."""
        return ShardReport(
            samples_in=self._shard.samples,
            kept=self.kept,
            filtered=self.filtered,
            samples=samples,
            bytes_in=self.bytes_in,
            bytes=file.stat().st_size if file else 0,
            sha256=sha256 if file else "",
            rejects=self.rejects,
            **figures,
        )


class TarOutput:
    """A tar shard that is being written, with its index."""

    def __init__(self, work: Work) -> None:
        self._file = work.scratch / "data.tar"
        self._stream = self._file.open("wb")
        self._tar = TarWriter(self._stream)
        self.index = IndexWriter()
        self.samples = 0

    def add(
        self, key: str, component: str, data: bytes, sha256: str, source: Source, origin: str | None = None
    ) -> None:
        """Append a component; those of a sample one after the other, sorted."""
        offset = self._tar.write(key, component, data)
        self.index.add(key, component, offset, len(data), sha256, source, origin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sha256 = self._tar.close()
        self._stream.close()

    def result(self, counts: Counts) -> tuple[OutputFiles, ShardReport]:
        """What the stage returns, once the file is closed."""
        file = self._file if self.samples else None
        return OutputFiles(file, self.index), counts.report(self.samples, file, self._sha256)


class TableOutput:
    """A part of a table that is being written, with its index. Memory does not grow with the shard."""

    def __init__(self, work: Work, schema: pa.Schema, **options: Any) -> None:
        """`options` are those of `pyarrow.parquet.ParquetWriter`."""
        import pyarrow.parquet as pq

        self._schema = schema
        self._file = work.scratch / "data.parquet"
        self._writer = pq.ParquetWriter(self._file, schema, **{"compression": "zstd", **options})
        self._waiting: list[pa.Table] = []
        self.index = IndexWriter()
        self.rows = 0

    def add(self, columns: dict[str, Any], component: str, cells: Sequence[bytes], origins: Sequence[IndexRow]) -> None:
        """Append rows. `cells` has the bytes of what was computed for each, `origins` what that was computed from."""
        import pyarrow as pa

        for key, cell, row in zip(columns["key"], cells, origins, strict=True):
            digest = hashlib.sha256(cell).hexdigest()
            self.index.add(key, component, self.rows, len(cell), digest, row.source, row.origin)
            self.rows += 1
        self._waiting.append(pa.table(columns, schema=self._schema))
        if sum(part.num_rows for part in self._waiting) >= _ROW_GROUP:
            self._flush(_ROW_GROUP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._waiting:
            self._flush(1)
        self._writer.close()

    def result(self, counts: Counts, **figures: Any) -> tuple[OutputFiles, ShardReport]:
        """What the stage returns, once the file is closed."""
        file = self._file if self.rows else None
        return OutputFiles(file, self.index), counts.report(self.rows, file, file_sha256(self._file), **figures)

    def _flush(self, least: int) -> None:
        """Write row groups of one size, whatever the sizes that rows come in, as long as `least` rows wait."""
        import pyarrow as pa

        waiting = pa.concat_tables(self._waiting).combine_chunks()
        while waiting.num_rows >= least:
            self._writer.write_table(waiting.slice(0, _ROW_GROUP))
            waiting = waiting.slice(_ROW_GROUP)
        self._waiting = [waiting] if waiting.num_rows else []


class SampleStage(Stage[StoredShard]):
    """A stage that makes samples of samples: `process` is all there is to it."""

    suffix: ClassVar[Suffix] = "tar"

    @property
    def masks(self) -> Collection[str]:
        """Components that are label maps: no other component descends from one if there is an image."""
        return ()

    @abstractmethod
    def process(self, sample: EncodedSample) -> Iterable[EncodedSample]:
        """The samples that are made of one; if there are none, it is filtered out. Called in several threads at once.

        Raises:
            Rejected: This sample cannot be processed.
        """

    @override
    def __call__(self, shard: StoredShard, work: Work) -> tuple[OutputFiles, ShardReport]:
        counts, keys = Counts(shard, work), set[str]()
        with TarOutput(work) as output:
            for (_, rows), children in counts.samples(lambda read: list(self.process(read[0])), shard, self.masks):
                source = Lineage(rows, self.masks)
                for child in children:
                    _check_names(child, keys)
                    keys.add(child.key)
                    for component in sorted(child.components):
                        data = child.components[component]
                        digest = hashlib.sha256(data).hexdigest()
                        output.add(child.key, component, data, digest, source(component), source.origin)
                    output.samples += 1
                counts.done(kept=bool(children))
        return output.result(counts)


class RowStage(Stage[StoredShard]):
    """A stage that makes a table with a row a sample: `row` and `schema` are all there is to it."""

    suffix: ClassVar[Suffix] = "parquet"

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
    def __call__(self, shard: StoredShard, work: Work) -> tuple[OutputFiles, ShardReport]:
        import pyarrow as pa

        schema = pa.schema([pa.field("key", pa.string(), nullable=False), *self.schema()])
        counts = Counts(shard, work)
        with TableOutput(work, schema) as output:
            for (sample, rows), cells in counts.samples(lambda read: self.row(read[0]), shard):
                unknown = cells.keys() - set(schema.names)
                if unknown:
                    raise ConfigurationError(f"{self.name} gives {min(unknown)!r}, which its schema has no column for")
                columns = {"key": [sample.key], **{name: [cells.get(name)] for name in schema.names if name != "key"}}
                output.add(columns, "row", [repr(sorted(cells.items())).encode()], [next(iter(rows.values()))])
                counts.done()
        return output.result(counts)


def _check_names(sample: EncodedSample, taken: set[str]) -> None:
    """Check the names that custom code gives its children.

    Raises:
        ConfigurationError: A shard cannot hold them.
    """
    if sample.key in taken:
        raise ConfigurationError(f"the transform gives two samples the key {sample.key!r}; keys must differ")
    for component in sample.components:
        if not is_member_name(sample.key, component):
            raise ConfigurationError(
                f"the transform names a component {component!r} of {sample.key!r}; use at most {MAX_NAME} letters, "
                "digits and _-/ for both, no dot in the key, lower case in the component"
            )
