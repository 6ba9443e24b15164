"""Embed: a tar shard → a part of the embedding table, one row a sample."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from shardmill.concurrency import bounded_map
from shardmill.devices import GPUSpec
from shardmill.embedders import Embedder, EmbedderSpec, Runtime, build_runtime, choose_runtime, load_embedder
from shardmill.errors import Rejected
from shardmill.images import MAX_PIXELS, decode_image
from shardmill.samples import EncodedSample, image_format
from shardmill.shards.fingerprint import file_sha256
from shardmill.shards.index import IndexRow, IndexWriter
from shardmill.shards.layout import Suffix
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.stored import Rows, StoredShard
from shardmill.stages.stage import OutputFiles, Work
from shardmill.storage import Storage

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_ROW_GROUP = 1024


@dataclass(frozen=True)
class _Row:
    key: str
    cls: str | None
    origin: IndexRow
    """Of the image that is embedded."""


@dataclass(frozen=True)
class EmbedStage:
    """Embeds one image of every sample."""

    spec: EmbedderSpec
    weights: str
    """Identity of the weights (`weights_identity`), found out once, when the run is planned. Others are refused."""
    masks: tuple[str, ...] = ()
    """Image components that are label maps, and never embedded."""
    max_pixels: int = MAX_PIXELS
    devices: GPUSpec = field(default_factory=GPUSpec)
    """What it takes of a machine's CUDA devices, where it runs on CUDA."""

    name = "embed"
    version = 1
    suffix: Suffix = "parquet"
    exclusive = True

    @property
    def gpu(self) -> GPUSpec | None:
        """See `Stage`. Raises ConfigurationError if the spec asks for a runtime that is not to be had here."""
        return self.devices if choose_runtime(self.spec) == "cuda" else None

    def parameters(self) -> dict[str, Any]:
        """See `Stage`."""
        return {
            **self.spec.declared(),
            "weights": self.weights,
            "masks": list(self.masks),
            "max_pixels": self.max_pixels,
        }

    def __call__(self, shard: StoredShard, work: Work) -> tuple[OutputFiles, ShardReport]:
        """See `Stage`. Decodes in threads while the model runs. Raises CorruptionError, StorageError."""
        embedder, runtime = _loaded(self.spec, self.weights, work.storage, work.threads)
        rejects: list[Reject] = []
        waiting: deque[list[_Row]] = deque()
        bytes_in = 0

        def batches() -> Iterator[np.ndarray[Any, Any]]:
            nonlocal bytes_in
            import numpy as np

            rows: list[_Row] = []
            images: list[np.ndarray[Any, Any]] = []
            for prepared, size in bounded_map(prepare, shard.read(work.storage), work.threads):
                bytes_in += size
                if isinstance(prepared, Reject):
                    rejects.append(prepared)
                    work.advance(1)
                    continue
                rows.append(prepared[0])
                images.append(prepared[1])
                if len(rows) == self.spec.batch_size:
                    waiting.append(rows)
                    yield np.stack(images)
                    rows, images = [], []
            if rows:
                waiting.append(rows)
                yield np.stack(images)

        def prepare(
            read: tuple[EncodedSample, Rows],
        ) -> tuple[tuple[_Row, np.ndarray[Any, Any]] | Reject, int]:
            sample, origins = read
            size = sum(len(data) for data in sample.components.values())
            component = ""
            try:
                component = self._component(sample)
                image = embedder.preprocess(decode_image(sample.components[component], component, self.max_pixels))
            except Rejected as rejected:
                origin = origins.get(component, next(iter(origins.values())))
                return Reject.of(sample.key, rejected, origin.source_uri), size
            return (_Row(sample.key, _text(sample.components.get("cls")), origins[component]), image), size

        file = work.scratch / "data.parquet"
        index = IndexWriter()
        count = 0
        table = _TableWriter(file, embedder.dimension, self.spec, shard)
        try:
            for vectors in runtime.embed(batches()):
                rows = waiting.popleft()
                stored = table.write(rows, vectors)
                for row, vector in zip(rows, stored, strict=True):
                    data = vector.tobytes()
                    digest = hashlib.sha256(data).hexdigest()
                    index.add(row.key, "embedding", count, len(data), digest, row.origin.source, row.origin.origin)
                    count += 1
                work.advance(len(rows))
        finally:
            table.close()
        report = ShardReport(
            samples_in=shard.samples,
            kept=count,
            samples=count,
            bytes_in=bytes_in,
            bytes=file.stat().st_size if count else 0,
            sha256=file_sha256(file) if count else "",
            rejects=rejects,
            runtime=runtime.name,
            summary={"dimensions": embedder.dimension},
        )
        return OutputFiles(file if count else None, index), report

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


@lru_cache(maxsize=1)
def _loaded(spec: EmbedderSpec, weights: str, storage: Storage, threads: int) -> tuple[Embedder, Runtime]:
    """The model, once a process, and anew when other weights are planned with: loading and compiling takes seconds."""
    embedder = load_embedder(spec, weights, storage)
    return embedder, build_runtime(embedder, spec, threads)


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace").strip()


class _TableWriter:
    """Writes rows in groups of `_ROW_GROUP`, so that memory does not grow with the shard."""

    def __init__(self, file: Any, dimension: int, spec: EmbedderSpec, shard: StoredShard) -> None:
        import pyarrow.parquet as pq

        self._schema = embedding_schema(dimension, spec.dtype)
        self._spec = spec
        self._shard = shard
        self._rows: list[_Row] = []
        self._vectors: list[np.ndarray[Any, Any]] = []
        scalars = [name for name in self._schema.names if name != "embedding"]
        # Vectors neither repeat nor compress, and nobody filters by their smallest element.
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            use_dictionary=scalars,
            write_statistics=scalars,
            compression={**dict.fromkeys(scalars, "zstd"), "embedding.list.element": "none"},
        )

    def write(self, rows: list[_Row], vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Append rows with the runtime's vectors, float32 [n, d]. Returns the vectors as they are stored."""
        stored = self._spec.finish(vectors)
        self._rows += rows
        self._vectors.append(stored)
        if len(self._rows) >= _ROW_GROUP:
            self._flush()
        return stored

    def close(self) -> None:
        """Write what is left and the footer."""
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import numpy as np
        import pyarrow as pa

        rows, shard = self._rows, self._shard
        vectors = np.concatenate(self._vectors)
        field = self._schema.field("embedding").type
        columns = {
            "key": [row.key for row in rows],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=field),
            "cls": [row.cls for row in rows],
            "component": [row.origin.component for row in rows],
            "component_sha256": [row.origin.sha256 for row in rows],
            "shard": [shard.file_name] * len(rows),
            "shard_sha256": [shard.entry.sha256] * len(rows),
            "source_uri": [row.origin.source_uri for row in rows],
            "source_version": [row.origin.source_version for row in rows],
            "source_sha256": [row.origin.source_sha256 for row in rows],
        }
        self._writer.write_table(pa.table(columns, schema=self._schema))
        self._rows, self._vectors = [], []


def embedding_schema(dimension: int, dtype: str) -> pa.Schema:
    """The columns of an embedding table: key, vector, class if there is one, and the way back to the raw object."""
    import pyarrow as pa

    element = pa.field("element", pa.type_for_alias(dtype), nullable=False)
    text = (
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
