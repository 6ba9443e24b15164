"""Embed: a tar shard → a part of the embedding table, one row a sample."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeAlias

from typing_extensions import override

from shardmill.devices import GPUSpec
from shardmill.embedders import (
    Embedder,
    EmbedderSpec,
    Runtime,
    build_runtime,
    choose_runtime,
    load_embedder,
    preprocessing,
    weights_identity,
)
from shardmill.errors import Rejected
from shardmill.images import MAX_PIXELS, decode_image, in_work
from shardmill.samples import called_so, image_format
from shardmill.shards.earlier import Earlier, EarlierReader, Former
from shardmill.shards.fingerprint import sample_fingerprint
from shardmill.shards.gathered import GatheredRows
from shardmill.shards.index import IndexRow
from shardmill.shards.layout import Suffix
from shardmill.shards.parts import WIDE_GAP, Bytes, Part, read_parts
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.stored import Rows, StoredShard
from shardmill.sources.columns import LINEAGE, OWN_COLUMNS
from shardmill.stages.about import about
from shardmill.stages.columns import SampleColumns, UnfitValueError
from shardmill.stages.counts import Counts
from shardmill.stages.outputs import Cell, TableOutput
from shardmill.stages.stage import Foreseen, OutputFiles, Resources, Work, stage_identity
from shardmill.stages.stored_samples import Fingerprints, InputSample, StoredSamplesStage, components_of
from shardmill.storage import Storage

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_MODELS = 4
"""Models that a process keeps: a dataset may have several embedders, and its partitions come one after the other."""


_ROWS = 1024
"""Most that are written at once."""


class _Plan(NamedTuple):
    """How the row of a sample is had."""

    sample: InputSample
    read: Sequence[str] = ()
    """Components that are read for it."""
    given: Mapping[str, Any] = MappingProxyType({})
    """What the source's tables say of its columns."""
    cls: str | None = None
    """What is in its component, where that need not be read."""
    refused: Rejected | None = None
    is_copied: bool = False


class _Row(NamedTuple):
    key: str
    columns: Sequence[Any]
    """The declared ones."""
    origin: IndexRow
    """Of the image that is embedded."""
    fingerprint: str
    former: Former | None
    """Has the vector, where it is copied."""


_Prepared: TypeAlias = "tuple[_Row, np.ndarray[Any, Any] | None]"
"""A row, and the image to embed where there is no vector of it."""


@dataclass(frozen=True)
class EmbedStage(StoredSamplesStage):
    """Embeds one image of every sample."""

    spec: EmbedderSpec
    masks: tuple[str, ...] = ()
    """Image components that are label maps, and never embedded."""
    max_pixels: int = MAX_PIXELS
    names: tuple[str, ...] = ()
    """Others that the embedded component can have in a sample."""
    devices: GPUSpec = field(default_factory=GPUSpec)
    """What it takes of a machine's CUDA devices, where it runs on CUDA."""
    weights: str = ""
    """Identity of the weights (`weights_identity`), found out when the stage is resolved. Others are refused."""
    preprocessing: str = ""
    """What is done to an image before the network, found out like the weights."""

    name: ClassVar[str] = "embed"
    version: ClassVar[int] = 3
    suffix: ClassVar[Suffix] = "parquet"

    @property
    @override
    def resources(self) -> Resources:
        """One model a process; on CUDA, a device a process.

        Raises:
            ConfigurationError: The spec asks for a runtime that is not to be had here.
        """
        return Resources(model=True, gpus=self.devices if choose_runtime(self.spec) == "cuda" else None)

    @override
    def parameters(self) -> dict[str, Any]:
        return {**self.declared(), "weights": self.weights, "preprocessing": self.preprocessing}

    @override
    def declared(self) -> dict[str, Any]:
        names = {"names": list(self.names), "masks": list(self.masks)}
        return {**self.spec.declared(), **names, "max_pixels": self.max_pixels}

    @override
    def resolve(self, storage: Storage) -> Self:
        return replace(self, weights=weights_identity(self.spec, storage), preprocessing=preprocessing(self.spec))

    @override
    def check(self, storage: Storage) -> None:
        """Weights of the user's own load, and fit the model: else that would show when all before is made."""
        if self.spec.weights is not None and self.weights.startswith("sha256:"):
            _check_weights(self.spec, self.weights, storage)

    @override
    def computation(self) -> str:
        """Which component is embedded changes no vector of it."""
        parameters = {
            name: value for name, value in self.parameters().items() if name not in ("component", "names", "masks")
        }
        return stage_identity(self.name, self.version, parameters)

    @override
    def fingerprints(self, computation: str, key: str, rows: Rows) -> Fingerprints:
        try:
            row = rows[self._component(rows)]
        except Rejected as refused:
            return Fingerprints("", sample_fingerprint(computation, refused.reason, refused.detail))
        return Fingerprints(
            sample_fingerprint(computation, image_format(row.component) or "", row.sha256),
            sample_fingerprint(computation, row.component, row.sha256),
        )

    @override
    def foresee(self, shard: StoredShard, storage: Storage, earlier: Earlier) -> Foreseen:
        columns, new = SampleColumns(shard), 0
        for sample in self.look_up(shard.rows(storage), EarlierReader(earlier, storage)):
            with suppress(UnfitValueError):
                columns.given(sample.rows)
                new += sample.former is None
        return Foreseen(new, new)

    @override
    def __call__(self, shard: StoredShard, work: Work) -> tuple[OutputFiles, ShardReport]:
        """Decode in threads while the model runs. The model is loaded only where it has something to embed.

        Raises:
            CorruptionError: The shard's bytes are not those that were committed.
            StorageError: A store cannot give them.
        """
        counts, columns = Counts(shard, work), SampleColumns(shard)
        index, earlier = shard.index_data(work.storage), EarlierReader(work.earlier, work.storage)
        seen = () if work.earlier.is_empty else self.look_up(shard.rows_in(index), earlier)
        known = GatheredRows(
            work.storage, work.scratch, (sample.former for sample in seen if sample.former), ["embedding", "cls"]
        )
        threads = None if self.resources.gpus else work.threads  # a device's model does not depend on them
        model = cache(lambda: _loaded(self.spec, self.weights, work.storage, threads))
        waiting: deque[list[_Row]] = deque()

        def planned() -> Iterator[tuple[_Plan, list[Part]]]:
            for sample in self.look_up(shard.rows_in(index), earlier):
                counts.bytes_in += sum(row.size for row in sample.rows.values())
                plan = self._plan(sample, known, columns)
                if not plan.is_copied and plan.refused is None:
                    model()  # here, and not in several threads at once
                yield plan, [Part(shard, sample.rows[name]) for name in plan.read]

        def prepare(read: tuple[_Plan, list[Bytes]]) -> _Prepared | Reject:
            try:
                return self._prepare(*read, columns, lambda pixels: model()[0].preprocess(pixels))
            except UnfitValueError as unfit:  # another value makes no other sample: the reject must not be found again
                return read[0].sample.reject(unfit).model_copy(update={"fingerprint": ""})
            except Rejected as rejected:
                return read[0].sample.reject(rejected, self.masks, self.spec.component or "")

        def batches() -> Iterator[np.ndarray[Any, Any]]:
            import numpy as np

            rows: list[_Row] = []
            images: list[np.ndarray[Any, Any]] = []
            read = read_parts(work.storage, planned(), WIDE_GAP)
            for _, (row, image) in counts.each(prepare, read, lambda each: each[0].is_copied):
                rows.append(row)
                if image is not None:
                    images.append(image)
                if len(images) == self.spec.batch_size:
                    waiting.append(rows)
                    yield np.stack(images)
                    rows, images = [], []
            waiting.append(rows)
            if images:
                yield np.stack(images)

        stacked = batches()
        first = next(stacked, None)
        vectors = iter(()) if first is None else model()[1].embed(chain([first], stacked))
        dimension = known.dimension or model()[0].dimension
        schema = embedding_schema(dimension, self.spec.dtype, columns)
        with _open_table(work, schema) as table:
            for computed in chain(vectors, [None]):
                rows = waiting.popleft() if waiting else []
                for arrays, cells in _arrays(rows, computed, known, shard, self.spec, schema):
                    table.add(arrays, "embedding", cells)
                for _ in rows:
                    counts.done()
        runtime = "" if first is None else model()[1].name
        summary = {"model": self.spec.model, "dimensions": dimension}
        return table.result(counts, runtime=runtime, summary=summary)

    def _plan(self, sample: InputSample, known: GatheredRows, columns: SampleColumns) -> _Plan:
        former = sample.former
        try:
            given = columns.given(sample.rows)
            component = self._component(sample.rows)
        except UnfitValueError as unfit:
            return _Plan(sample, refused=unfit, is_copied=True)
        except Rejected as refused:
            return _Plan(sample, refused=refused, is_copied=former is not None)
        if sample.refused is not None:
            return _Plan(sample, refused=sample.refused, is_copied=True)
        others = columns.read_from(given, sample.rows)
        if former is None or not known.has(former):
            return _Plan(sample, [component, *others], given)
        if "cls" in others:
            text = known.row(former)["cls"][0].as_py()
            if text is not None and _says(sample.rows["cls"], str(text)):
                return _Plan(sample, [name for name in others if name != "cls"], given, str(text), is_copied=True)
        return _Plan(sample, others, given, is_copied=True)

    def _prepare(
        self,
        plan: _Plan,
        found: list[Bytes],
        columns: SampleColumns,
        preprocess: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]],
    ) -> _Prepared:
        """The row, its image first: that is refused for its columns last, whether it is copied or not."""
        if plan.refused is not None:
            raise plan.refused
        sample, data = plan.sample, components_of(plan.read, found)
        component, image = self._component(sample.rows), None
        former = sample.former if plan.is_copied else None
        if former is None:
            with in_work, about(sample.key, sample.rows[component].source_uri):
                image = preprocess(decode_image(data[component], component, self.max_pixels))
        if plan.cls is not None:
            data["cls"] = plan.cls.encode()
        values = columns.values(plan.given, data)
        return _Row(sample.key, values, sample.rows[component], sample.fingerprints.output, former), image

    def _component(self, names: Collection[str]) -> str:
        if self.spec.component is not None:
            found = called_so(self.spec.component, names) or next((name for name in self.names if name in names), None)
            if found is None:
                present = ", ".join(sorted(name for name in names if image_format(name))) or "none"
                raise Rejected("missing component", f"there is no {self.spec.component} to embed; images: {present}")
            return found
        images = [name for name in names if image_format(name) and name not in self.masks]
        if len(images) != 1:
            found = ", ".join(sorted(images)) or "none"
            raise Rejected("no single image", f"images: {found}; say which one in the embedder's `component`")
        return images[0]


@lru_cache(maxsize=_MODELS)
def _loaded(spec: EmbedderSpec, weights: str, storage: Storage, threads: int | None) -> tuple[Embedder, Runtime]:
    """The model, once a process, and anew when other weights are planned with: loading and compiling takes seconds."""
    embedder = load_embedder(spec, weights, storage)
    return embedder, build_runtime(embedder, spec, threads)


def _says(cls: IndexRow, text: str) -> bool:
    """Whether a class is this text, as files have it: alone, or as a line."""
    return cls.sha256 in {hashlib.sha256(f"{text}{end}".encode()).hexdigest() for end in ("", "\n")}


@lru_cache(maxsize=_MODELS)
def _check_weights(spec: EmbedderSpec, weights: str, storage: Storage) -> None:
    load_embedder(spec, weights, storage)


def _open_table(work: Work, schema: pa.Schema) -> TableOutput:
    """Vectors neither repeat nor compress, and nobody filters by their smallest element."""
    paths = [path for field in schema for path in _leaves(field) if field.name != "embedding"]
    compression = {**dict.fromkeys(paths, "zstd"), "embedding.list.element": "none"}
    return TableOutput(work, schema, use_dictionary=paths, write_statistics=paths, compression=compression)


def _leaves(field: pa.Field) -> list[str]:
    """What Parquet calls the column that holds a field's values."""
    import pyarrow as pa

    return [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name]


def _arrays(
    rows: list[_Row],
    computed: np.ndarray[Any, Any] | None,
    known: GatheredRows,
    shard: StoredShard,
    spec: EmbedderSpec,
    schema: pa.Schema,
) -> Iterator[tuple[dict[str, Any], list[Cell]]]:
    """The columns of some rows at a time, and what the index says of them. Vectors are computed or copied."""
    import numpy as np
    import pyarrow as pa

    kind = schema.field("embedding").type
    declared = [field.name for field in schema if field.name not in OWN_COLUMNS]
    fresh = iter(() if computed is None else spec.finish(computed))
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        vectors = np.empty((len(some), kind.list_size), spec.dtype)
        cells = []
        for vector, row in zip(vectors, some, strict=True):
            vector[:] = next(fresh) if row.former is None else vectors_of(known.row(row.former))[0]
            cells.append(Cell(vector.nbytes, hashlib.sha256(vector.tobytes()).hexdigest(), row.origin, row.fingerprint))
        columns = {
            "key": [row.key for row in some],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind),
            **{name: [row.columns[number] for row in some] for number, name in enumerate(declared)},
            "model": [spec.model] * len(some),
            "component": [row.origin.component for row in some],
            "component_sha256": [row.origin.sha256 for row in some],
            "shard": [shard.file_name] * len(some),
            "shard_sha256": [shard.entry.sha256] * len(some),
            "source_uri": [row.origin.source_uri for row in some],
            "source_version": [row.origin.source_version for row in some],
            "source_sha256": [row.origin.source_sha256 for row in some],
        }
        yield columns, cells


def vectors_of(batch: pa.RecordBatch) -> np.ndarray[Any, Any]:
    """The embedding column of a table's batch, [n, d]."""
    import numpy as np

    column = batch["embedding"]
    return np.asarray(column.flatten()).reshape(batch.num_rows, column.type.list_size)


def embedding_schema(dimension: int, dtype: str, columns: SampleColumns) -> pa.Schema:
    """The columns of an embedding table: key, vector, class, those that are declared, the way to the raw object."""
    import pyarrow as pa

    element = pa.field("element", pa.type_for_alias(dtype), nullable=False)
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(element, dimension), nullable=False),
            *columns.fields(),
            *(pa.field(name, pa.string(), nullable=False) for name in LINEAGE),
        ]
    )
