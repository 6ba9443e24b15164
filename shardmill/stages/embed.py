"""Embed: a tar shard → a part of the embedding table, one row a sample."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

from typing_extensions import override

from shardmill.devices import GPUSpec
from shardmill.embedders import (
    Embedder,
    EmbedderSpec,
    Runtime,
    build_runtime,
    choose_runtime,
    load_embedder,
    weights_identity,
)
from shardmill.errors import Rejected
from shardmill.images import MAX_PIXELS, decode_image
from shardmill.samples import EncodedSample, image_format
from shardmill.shards.index import IndexRow
from shardmill.shards.layout import Suffix
from shardmill.shards.report import ShardReport
from shardmill.shards.stored import StoredShard
from shardmill.stages.samples import Counts, ReadSample, TableOutput
from shardmill.stages.stage import OutputFiles, Resources, Stage, Work
from shardmill.storage import Storage

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_MODELS = 4
"""Models that a process keeps: a dataset may have several embedders, and its partitions come one after the other."""


@dataclass(frozen=True)
class _Row:
    key: str
    cls: str | None
    origin: IndexRow
    """Of the image that is embedded."""


@dataclass(frozen=True)
class EmbedStage(Stage[StoredShard]):
    """Embeds one image of every sample."""

    spec: EmbedderSpec
    masks: tuple[str, ...] = ()
    """Image components that are label maps, and never embedded."""
    max_pixels: int = MAX_PIXELS
    devices: GPUSpec = field(default_factory=GPUSpec)
    """What it takes of a machine's CUDA devices, where it runs on CUDA."""
    weights: str = ""
    """Identity of the weights (`weights_identity`), found out when the stage is resolved. Others are refused."""

    name: ClassVar[str] = "embed"
    version: ClassVar[int] = 2
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
        return {**self.declared(), "weights": self.weights}

    @override
    def declared(self) -> dict[str, Any]:
        return {**self.spec.declared(), "masks": list(self.masks), "max_pixels": self.max_pixels}

    @override
    def resolve(self, storage: Storage) -> Self:
        return replace(self, weights=weights_identity(self.spec, storage))

    @override
    def __call__(self, shard: StoredShard, work: Work) -> tuple[OutputFiles, ShardReport]:
        """Decode in threads while the model runs.

        Raises:
            CorruptionError: The shard's bytes are not those that were committed.
            StorageError: A store cannot give them.
        """
        threads = None if self.resources.gpus else work.threads  # a device's model does not depend on them
        embedder, runtime = _loaded(self.spec, self.weights, work.storage, threads)
        counts = Counts(shard, work)
        waiting: deque[list[_Row]] = deque()

        def prepare(read: ReadSample) -> np.ndarray[Any, Any]:
            component = self._component(read[0])
            return embedder.preprocess(decode_image(read[0].components[component], component, self.max_pixels))

        def batches() -> Iterator[np.ndarray[Any, Any]]:
            import numpy as np

            rows: list[_Row] = []
            images: list[np.ndarray[Any, Any]] = []
            for (sample, origins), image in counts.samples(prepare, shard, self.masks, self.spec.component or ""):
                origin = origins[self._component(sample)]
                rows.append(_Row(sample.key, _text(sample.components.get("cls")), origin))
                images.append(image)
                if len(rows) == self.spec.batch_size:
                    waiting.append(rows)
                    yield np.stack(images)
                    rows, images = [], []
            if rows:
                waiting.append(rows)
                yield np.stack(images)

        with _open_table(work, embedder.dimension, self.spec) as table:
            for vectors in runtime.embed(batches()):
                rows, stored = waiting.popleft(), self.spec.finish(vectors)
                columns = _columns(rows, stored, shard, self.spec, embedder.dimension)
                table.add(columns, "embedding", [vector.tobytes() for vector in stored], [row.origin for row in rows])
                for _ in rows:
                    counts.done()
        summary = {"model": self.spec.model, "dimensions": embedder.dimension}
        return table.result(counts, runtime=runtime.name, summary=summary)

    def _component(self, sample: EncodedSample) -> str:
        if self.spec.component is not None:
            if self.spec.component not in sample.components:
                raise Rejected("missing component", f"there is no {self.spec.component} to embed")
            return self.spec.component
        images = [name for name in sample.components if image_format(name) and name not in self.masks]
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


def _open_table(work: Work, dimension: int, spec: EmbedderSpec) -> TableOutput:
    """Vectors neither repeat nor compress, and nobody filters by their smallest element."""
    schema = embedding_schema(dimension, spec.dtype)
    scalars = [name for name in schema.names if name != "embedding"]
    compression = {**dict.fromkeys(scalars, "zstd"), "embedding.list.element": "none"}
    return TableOutput(work, schema, use_dictionary=scalars, write_statistics=scalars, compression=compression)


def _columns(
    rows: list[_Row], vectors: np.ndarray[Any, Any], shard: StoredShard, spec: EmbedderSpec, dimension: int
) -> dict[str, Any]:
    import pyarrow as pa

    kind = embedding_schema(dimension, spec.dtype).field("embedding").type
    return {
        "key": [row.key for row in rows],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind),
        "cls": [row.cls for row in rows],
        "model": [spec.model] * len(rows),
        "component": [row.origin.component for row in rows],
        "component_sha256": [row.origin.sha256 for row in rows],
        "shard": [shard.file_name] * len(rows),
        "shard_sha256": [shard.entry.sha256] * len(rows),
        "source_uri": [row.origin.source_uri for row in rows],
        "source_version": [row.origin.source_version for row in rows],
        "source_sha256": [row.origin.source_sha256 for row in rows],
    }


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
