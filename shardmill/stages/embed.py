"""Embed: a tar shard → a part of the embedding table, one row a sample."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import chain
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
from shardmill.samples import image_format
from shardmill.shards.earlier import EarlierReader, Former
from shardmill.shards.fingerprint import sample_fingerprint
from shardmill.shards.gathered import GatheredRows
from shardmill.shards.index import IndexRow
from shardmill.shards.layout import Suffix
from shardmill.shards.parts import Bytes, Part, read_parts
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.stored import Rows, StoredShard
from shardmill.stages.about import about
from shardmill.stages.counts import Counts
from shardmill.stages.outputs import Cell, TableOutput
from shardmill.stages.stage import OutputFiles, Resources, Work, stage_identity
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
    cls: str | None = None
    """Where it need not be read."""
    refused: Rejected | None = None
    is_copied: bool = False


class _Row(NamedTuple):
    key: str
    cls: str | None
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
        return {**self.spec.declared(), "masks": list(self.masks), "max_pixels": self.max_pixels}

    @override
    def resolve(self, storage: Storage) -> Self:
        return replace(self, weights=weights_identity(self.spec, storage), preprocessing=preprocessing(self.spec))

    @override
    def computation(self) -> str:
        """Which component is embedded changes no vector of it."""
        parameters = {name: value for name, value in self.parameters().items() if name not in ("component", "masks")}
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
    def __call__(self, shard: StoredShard, work: Work) -> tuple[OutputFiles, ShardReport]:
        """Decode in threads while the model runs. The model is loaded only where it has something to embed.

        Raises:
            CorruptionError: The shard's bytes are not those that were committed.
            StorageError: A store cannot give them.
        """
        counts = Counts(shard, work)
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
                plan = self._plan(sample, known)
                if not plan.is_copied and plan.refused is None:
                    model()  # here, and not in several threads at once
                yield plan, [Part(shard, sample.rows[name]) for name in plan.read]

        def prepare(read: tuple[_Plan, list[Bytes]]) -> _Prepared | Reject:
            try:
                return self._prepare(*read, lambda pixels: model()[0].preprocess(pixels))
            except Rejected as rejected:
                return read[0].sample.reject(rejected, self.masks, self.spec.component or "")

        def batches() -> Iterator[np.ndarray[Any, Any]]:
            import numpy as np

            rows: list[_Row] = []
            images: list[np.ndarray[Any, Any]] = []
            read = read_parts(work.storage, planned())
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
        with _open_table(work, dimension, self.spec) as table:
            for computed in chain(vectors, [None]):
                rows = waiting.popleft() if waiting else []
                for columns, cells in _columns(rows, computed, known, shard, self.spec, dimension):
                    table.add(columns, "embedding", cells)
                for _ in rows:
                    counts.done()
        runtime = "" if first is None else model()[1].name
        summary = {"model": self.spec.model, "dimensions": dimension}
        return table.result(counts, runtime=runtime, summary=summary)

    def _plan(self, sample: InputSample, known: GatheredRows) -> _Plan:
        former, cls = sample.former, sample.rows.get("cls")
        try:
            component = self._component(sample.rows)
        except Rejected as refused:
            return _Plan(sample, refused=refused, is_copied=former is not None)
        if sample.refused is not None:
            return _Plan(sample, refused=sample.refused, is_copied=True)
        if former is None or not known.has(former):
            return _Plan(sample, [component, *(["cls"] if cls else [])])
        text = known.row(former)["cls"][0].as_py()
        if cls is None or (text is not None and _says(cls, text)):
            return _Plan(sample, cls=cls and text, is_copied=True)
        return _Plan(sample, ["cls"], is_copied=True)

    def _prepare(
        self,
        plan: _Plan,
        found: list[Bytes],
        preprocess: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]],
    ) -> _Prepared:
        if plan.refused is not None:
            raise plan.refused
        sample, data = plan.sample, components_of(plan.read, found)
        component = self._component(sample.rows)
        cls = _text(data["cls"]) if "cls" in data else plan.cls
        former = sample.former if plan.is_copied else None
        row = _Row(sample.key, cls, sample.rows[component], sample.fingerprints.output, former)
        if former is not None:
            return row, None
        with in_work, about(sample.key, row.origin.source_uri):
            return row, preprocess(decode_image(data[component], component, self.max_pixels))

    def _component(self, names: Collection[str]) -> str:
        if self.spec.component is not None:
            if self.spec.component not in names:
                raise Rejected("missing component", f"there is no {self.spec.component} to embed")
            return self.spec.component
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


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace").strip()


def _says(cls: IndexRow, text: str) -> bool:
    """Whether a class is this text, as files have it: alone, or as a line."""
    return cls.sha256 in {hashlib.sha256(f"{text}{end}".encode()).hexdigest() for end in ("", "\n")}


def _open_table(work: Work, dimension: int, spec: EmbedderSpec) -> TableOutput:
    """Vectors neither repeat nor compress, and nobody filters by their smallest element."""
    schema = embedding_schema(dimension, spec.dtype)
    scalars = [name for name in schema.names if name != "embedding"]
    compression = {**dict.fromkeys(scalars, "zstd"), "embedding.list.element": "none"}
    return TableOutput(work, schema, use_dictionary=scalars, write_statistics=scalars, compression=compression)


def _columns(
    rows: list[_Row],
    computed: np.ndarray[Any, Any] | None,
    known: GatheredRows,
    shard: StoredShard,
    spec: EmbedderSpec,
    dimension: int,
) -> Iterator[tuple[dict[str, Any], list[Cell]]]:
    """The columns of some rows at a time, and what the index says of them. Vectors are computed or copied."""
    import numpy as np
    import pyarrow as pa

    kind = embedding_schema(dimension, spec.dtype).field("embedding").type
    fresh = iter(() if computed is None else spec.finish(computed))
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        vectors = np.empty((len(some), dimension), spec.dtype)
        cells = []
        for vector, row in zip(vectors, some, strict=True):
            vector[:] = next(fresh) if row.former is None else vectors_of(known.row(row.former))[0]
            cells.append(Cell(vector.nbytes, hashlib.sha256(vector.tobytes()).hexdigest(), row.origin, row.fingerprint))
        columns = {
            "key": [row.key for row in some],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind),
            "cls": [row.cls for row in some],
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


def embedding_schema(dimension: int, dtype: str) -> pa.Schema:
    """The columns of an embedding table: key, vector, class if there is one, model, the way to the raw object."""
    import pyarrow as pa

    element = pa.field("element", pa.type_for_alias(dtype), nullable=False)
    text = (
        "model",
        "component",
        "component_sha256",
        "shard",
        "shard_sha256",
        "source_uri",
        "source_version",
        "source_sha256",
    )
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(element, dimension), nullable=False),
            pa.field("cls", pa.string()),
            *(pa.field(name, pa.string(), nullable=False) for name in text),
        ]
    )
