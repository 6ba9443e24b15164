"""Embed: a tar shard → a part of the embedding table, one row a sample."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import chain, islice, tee
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeAlias

from typing_extensions import override

from shardmill.concurrency import chunked_map, fan_out
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
from shardmill.images import MAX_PIXELS, in_work
from shardmill.images.once import DecodeOnce
from shardmill.samples import called_so, image_format
from shardmill.shards.earlier import Earlier, EarlierReader
from shardmill.shards.fingerprint import sample_fingerprint
from shardmill.shards.gathered import GatheredRows
from shardmill.shards.index import IndexRow
from shardmill.shards.layout import Suffix
from shardmill.shards.parts import WIDE_GAP, Bytes, Part, read_parts
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.stored import Rows, StoredShard
from shardmill.stages.about import about
from shardmill.stages.columns import SampleColumns, UnfitValueError
from shardmill.stages.counts import Counts, unknown
from shardmill.stages.embedding_table import Embedded, Row, embedding_schema, open_table, table_arrays
from shardmill.stages.stage import Foreseen, OutputFiles, Resources, Work, stage_identity
from shardmill.stages.stored_samples import Fingerprints, InputSample, StoredSamplesStage, components_of
from shardmill.storage import Storage

if TYPE_CHECKING:
    import numpy as np

_MODELS = 4
"""Models that a process keeps: a dataset may have several embedders, and its partitions come one after the other."""
_ROWS = 1024  # most that are written at once


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


_Prepared: TypeAlias = "tuple[Row, np.ndarray[Any, Any] | None]"
"""A row, and the image to embed where there is no vector of it."""
_Taken: TypeAlias = "tuple[_Plan, _Prepared | Reject]"
"""A sample as one model takes it."""


class _Read(NamedTuple):
    """What is read of a sample, for all models that embed it."""

    plans: Sequence[_Plan]
    names: Sequence[str]
    """Components, each once."""


@dataclass(frozen=True)
class EmbedStage(StoredSamplesStage):
    """Embeds one image of every sample."""

    spec: EmbedderSpec
    masks: tuple[str, ...] = ()
    """Image components that are label maps, and never embedded."""
    max_pixels: int = MAX_PIXELS
    names: tuple[str, ...] = ()
    """Others that the embedded component can have in a sample."""
    all_sound: bool = False
    """Whether what made the shards has verified every image in them."""
    devices: GPUSpec = field(default_factory=GPUSpec)
    """What it takes of a machine's CUDA devices, where it runs on CUDA."""
    weights: str = ""
    """Identity of the weights (`weights_identity`), found out when the stage is resolved. Others are refused."""
    preprocessing: str = ""
    """What is done to an image before the network, found out like the weights."""

    name: ClassVar[str] = "embed"
    against_rejects: ClassVar[str] = "Check what the dataset file says of it"
    version: ClassVar[int] = 3
    suffix: ClassVar[Suffix] = "parquet"
    most_together: ClassVar[int] = _MODELS

    @property
    @override
    def resources(self) -> Resources:
        """One model a process; on CUDA, a device a process."""
        runtime = "cuda" if self.spec.runtime == "cuda" else choose_runtime(self.spec)
        return Resources(model=True, gpus=self.devices if runtime == "cuda" else None)

    @override
    def check_machine(self) -> None:
        choose_runtime(self.spec)

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
            row = rows[self.component_of(rows)]
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
        index = shard.index_data(work.storage)
        embedding = _Embedding(self, shard, index, work)
        with closing(_read_and_prepare([embedding], shard, index, work)) as taken:
            return embedding.table(each for (each,) in taken)

    @override
    @classmethod
    def together(
        cls, stages: Sequence[Self], shard: StoredShard, works: Sequence[Work]
    ) -> list[tuple[OutputFiles, ShardReport]]:
        """Each image is read and decoded once for all models, which compute at the same time."""
        work, done = works[0], deque[int]()
        index = shard.index_data(work.storage)
        embeddings = [
            _Embedding(stage, shard, index, replace(its, advance=done.append))
            for stage, its in zip(stages, works, strict=True)
        ]

        def table(number: int) -> Callable[[Iterator[Sequence[_Taken]]], tuple[OutputFiles, ShardReport]]:
            return lambda taken: embeddings[number].table(each[number] for each in taken)

        def told() -> None:
            while done:
                work.advance(done.popleft())

        def items(taken: Iterable[Sequence[_Taken]]) -> Iterator[Sequence[_Taken]]:
            for each in taken:
                told()  # in this thread, as the caller expects
                yield each

        with closing(_read_and_prepare(embeddings, shard, index, work)) as taken:
            tables = fan_out(items(taken), [table(number) for number in range(len(stages))], 2 * work.threads)
        told()
        return tables

    def component_of(self, names: Collection[str]) -> str:
        """Which of a sample's components is embedded.

        Raises:
            Rejected: None, or nobody says which.
        """
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


class _Embedding:
    """One model's part in a pass over a shard."""

    def __init__(self, stage: EmbedStage, shard: StoredShard, index: bytes, work: Work) -> None:
        self._stage, self._shard, self._work = stage, shard, work
        self._counts, self._columns = Counts(shard, work), SampleColumns(shard)
        self._earlier = EarlierReader(work.earlier, work.storage)
        seen = () if work.earlier.is_empty else self.samples(shard.rows_in(index))
        formers = (sample.former for sample in seen if sample.former)
        self._known = GatheredRows(work.storage, work.scratch, formers, ["embedding", "cls"])
        threads = None if stage.resources.gpus else work.threads  # a device's model does not depend on them
        self._model = cache(lambda: _loaded(stage.spec, stage.weights, work.storage, threads))
        self._waiting: deque[tuple[InputSample, Row]] = deque()

    def samples(self, rows: Iterator[tuple[str, Rows]]) -> Iterator[InputSample]:
        """The samples of the shard, each with what was made of it before."""
        return self._stage.look_up(rows, self._earlier)

    def plan(self, sample: InputSample) -> _Plan:
        """How the row of a sample is had; loads the model where it is needed, since that is no work for a thread."""
        self._counts.bytes_in += sum(row.size for row in sample.rows.values())
        plan = self._plan(sample)
        if not plan.is_copied and plan.refused is None:
            self._model()
        return plan

    def prepare(self, plan: _Plan, data: Mapping[str, Bytes], decode: DecodeOnce) -> _Prepared | Reject:
        """The row of a sample, of what was read of it, and the image to embed."""
        try:
            return self._prepare(plan, components_of(plan.read, (data[name] for name in plan.read)), decode)
        except UnfitValueError as unfit:  # another value makes no other sample: the reject must not be found again
            return plan.sample.reject(unfit).model_copy(update={"fingerprint": ""})
        except Rejected as rejected:
            return self._reject(plan.sample, rejected)

    def _reject(self, sample: InputSample, why: Rejected) -> Reject:
        return sample.reject(why, self._stage.masks, self._stage.spec.component or "")

    def table(self, taken: Iterator[_Taken]) -> tuple[OutputFiles, ShardReport]:
        """Embed what comes, and write the rows."""
        stage = self._stage
        images = self._images(taken)
        first = next(images, None)
        dimension = self._known.dimension or self._model()[0].dimension
        schema = embedding_schema(dimension, stage.spec.dtype, self._columns)
        with (
            closing(self._embedded(first, images)) as rows,
            open_table(self._work, schema) as table,
        ):
            while some := list(islice(rows, _ROWS)):
                table.add(*table_arrays(some, self._known, self._shard, stage.spec, schema))
        runtime = "" if first is None else self._model()[1].name
        summary = {"model": stage.spec.model, "dimensions": dimension}
        return table.result(self._counts, runtime=runtime, summary=summary)

    def _images(self, taken: Iterator[_Taken]) -> Iterator[np.ndarray[Any, Any]]:
        """Those to embed. The rows of all samples that are no rejects wait for their vectors."""
        for plan, made in taken:
            self._counts.copied += plan.is_copied
            if isinstance(made, Reject):
                self._counts.reject(made)
                continue
            row, image = made
            self._waiting.append((plan.sample, row))
            if image is not None:
                yield image

    def _embedded(
        self, first: np.ndarray[Any, Any] | None, images: Iterator[np.ndarray[Any, Any]]
    ) -> Generator[Embedded]:
        waiting = self._waiting
        with closing(self._computed(first, images)) as vectors:  # the model is kept, and nothing may be left in it
            for vector in chain(vectors, [None]):
                while waiting and waiting[0][1].former is not None:
                    self._counts.done()
                    yield waiting.popleft()[1], None
                if vector is None:
                    continue
                sample, row = waiting.popleft()
                if self._stage.spec.is_finite(vector):
                    self._counts.done()
                    yield row, vector
                else:
                    self._counts.reject(
                        self._reject(sample, Rejected("no finite vector", "the model gives NaN or infinity for it"))
                    )

    def _computed(
        self, first: np.ndarray[Any, Any] | None, images: Iterator[np.ndarray[Any, Any]]
    ) -> Generator[np.ndarray[Any, Any]]:
        if first is not None:
            yield from self._model()[1].embed(chain([first], images))

    def _plan(self, sample: InputSample) -> _Plan:
        former = sample.former
        try:
            given = self._columns.given(sample.rows)
            component = self._stage.component_of(sample.rows)
        except UnfitValueError as unfit:
            return _Plan(sample, refused=unfit, is_copied=True)
        except Rejected as refused:
            return _Plan(sample, refused=refused, is_copied=former is not None)
        if sample.refused is not None:
            return _Plan(sample, refused=sample.refused, is_copied=True)
        others = self._columns.read_from(given, sample.rows)
        if former is None or not self._known.has(former):
            return _Plan(sample, [component, *others], given)
        if "cls" in others:
            text = self._known.row(former)["cls"][0].as_py()
            if text is not None and _says(sample.rows["cls"], str(text)):
                return _Plan(sample, [name for name in others if name != "cls"], given, str(text), is_copied=True)
        return _Plan(sample, others, given, is_copied=True)

    def _prepare(self, plan: _Plan, data: dict[str, bytes], decode: DecodeOnce) -> _Prepared:
        """The row, its image first: that is refused for its columns last, whether it is copied or not."""
        if plan.refused is not None:
            raise plan.refused
        sample, stage = plan.sample, self._stage
        component, image = stage.component_of(sample.rows), None
        former = sample.former if plan.is_copied else None
        if former is None:
            with in_work, about(sample.key, sample.rows[component].source_uri):
                image = self._model()[1].prepare(data[component], component, stage.max_pixels, decode, stage.all_sound)
        if plan.cls is not None:
            data["cls"] = plan.cls.encode()
        values = self._columns.values(plan.given, data)
        return Row(sample.key, values, sample.rows[component], sample.fingerprints.output, former), image


def _read_and_prepare(
    embeddings: Sequence[_Embedding], shard: StoredShard, index: bytes, work: Work
) -> Generator[Sequence[_Taken]]:
    """The samples of a shard, each as every model takes it: read once, its images decoded once."""

    def planned() -> Iterator[tuple[_Read, list[Part]]]:
        rows = tee(shard.rows_in(index), len(embeddings))
        found = (each.samples(some) for each, some in zip(embeddings, rows, strict=True))
        for samples in zip(*found, strict=True):
            plans = [each.plan(sample) for each, sample in zip(embeddings, samples, strict=True)]
            names = list(dict.fromkeys(name for plan in plans for name in plan.read))
            yield _Read(plans, names), [Part(shard, samples[0].rows[name]) for name in names]

    def prepare(item: tuple[_Read, list[Bytes]]) -> list[_Prepared | Reject]:
        (plans, names), found = item
        data, decode = dict(zip(names, found, strict=True)), DecodeOnce(len(embeddings) > 1)
        with in_work:  # as long as one of them works on the pixels
            return [each.prepare(plan, data, decode) for each, plan in zip(embeddings, plans, strict=True)]

    def is_quick(item: tuple[_Read, list[Bytes]]) -> bool:
        return all(plan.is_copied for plan in item[0].plans)

    read = read_parts(work.storage, planned(), WIDE_GAP)
    for (sample, _), made in chunked_map(prepare, read, shard.samples, work.threads, is_quick, unknown):
        yield list(zip(sample.plans, made, strict=True))


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
