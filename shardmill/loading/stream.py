"""Samples of committed shards as a stream: which ones, in which order, and what becomes of each."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # noqa: TID253
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info  # noqa: TID253
from typing_extensions import override

from shardmill.concurrency import usable_cores
from shardmill.errors import ConfigurationError
from shardmill.loading.feed import Feed, OnReject, Result, Samples
from shardmill.loading.order import Lane, Topology, rank_run
from shardmill.loading.prepare import Prepare, Transform, built
from shardmill.loading.sources import Source, What, check_components, check_lists, open_source
from shardmill.loading.state import Line, Position, StreamState, begin, begun, check_streams, parsed
from shardmill.shards.fingerprint import fingerprint
from shardmill.storage import Storage
from shardmill.transforms import TransformSpec

if TYPE_CHECKING:
    import pyarrow.compute as pc

_BUFFER_BYTES = 256 << 20
"""What a buffer may hold, by the mean size of the samples of the shard whose are largest."""
_PLACE = ("rank", "ranks", "worker", "workers")


class ShardStream(IterableDataset[dict[str, Any]]):
    """The samples of committed shards, for a `Loader`; also a dataset for torchdata's `StatefulDataLoader`.

    It reads what was committed when it was made, whatever is committed meanwhile.

    Example:
        stream = ShardStream("gs://ours/pets/webdataset_shards/2026-01", shuffle=True)
    """

    def __init__(
        self,
        what: What,
        *,
        shuffle: bool = False,
        seed: int = 0,
        buffer: int = 1000,
        components: Sequence[str] | None = None,
        transform: TransformSpec | Transform | None = None,
        columns: Sequence[str] = (),
        filter: pc.Expression | None = None,
        embeddings: What | None = None,
        decode: bool = True,
        masks: Sequence[str] = (),
        on_reject: OnReject = "raise",
        storage: Storage | None = None,
    ) -> None:
        """Read the commits, and of each shard the index.

        Args:
            what: A partition by the URI or path of its folder, or as `open_shards` gives it; tars of others by URI or
                glob; or a list of such.
            shuffle: Whether shards come in a random order, and samples through a buffer that mixes them.
            seed: Of that order, with the epoch.
            buffer: Samples that it mixes; fewer where they would come to more than 256 MiB.
            components: Those that samples are to have; by default all.
            transform: What is made of each sample, seeded by its own seed, the sample's key and the epoch; here, or by
                a server.
            columns: Columns of the dataset's beside the components.
            filter: Which samples are read, an expression over the dataset's columns.
            embeddings: The table whose vectors samples get, as `embedding`; or one a partition.
            decode: Whether images become tensors and labels numbers; else bytes.
            masks: Components that are label maps, beside those that a transform says are.
            on_reject: What happens at a sample that cannot be decoded, is damaged, or that the transform rejects.
            storage: Where the shards are, with the credentials.

        Raises:
            NothingCommittedError: Nothing is committed in one of the folders.
            ConfigurationError: An argument is wrong, a folder holds no samples, or none a component that is named.
            StorageError: A store cannot give it.
        """
        _check("seed", seed, 0)
        _check("buffer", buffer, 1)
        if on_reject not in ("raise", "skip"):
            raise ConfigurationError(f"on_reject is {on_reject!r}: it is 'raise' or 'skip'")
        check_lists(components=components, columns=columns, masks=masks)
        read = components if transform is None else None
        source = open_source(what, storage, columns, filter, embeddings, read)
        if transform is None:
            check_components(source.shards, [*(components or ()), *masks])
        prepare = Prepare(components, built(transform), decode, (*source.masks, *masks))
        self._set(source, prepare, shuffle, seed, buffer, on_reject)

    @classmethod
    def of(
        cls,
        source: Source,
        prepare: Prepare,
        *,
        shuffle: bool = False,
        seed: int = 0,
        buffer: int = 1000,
        on_reject: OnReject = "raise",
    ) -> ShardStream:
        """The stream of a source, whose samples become what `prepare` makes of them."""
        stream = cls.__new__(cls)
        stream._set(source, prepare, shuffle, seed, buffer, on_reject)
        return stream

    def _set(
        self, source: Source, prepare: Prepare, shuffle: bool, seed: int, buffer: int, on_reject: OnReject
    ) -> None:
        self.samples = Samples(source, prepare, on_reject)
        counts = _counts(source)
        self.line = Line(counts, shuffle, seed, _bounded(buffer, source) if shuffle else 1)
        self.about: dict[str, Any] = {
            "set": fingerprint(
                source=source.identity,
                samples=counts,
                selected=None if source.selected is None else [_digest(some) for some in source.selected],
            )[:16],
            "commits": [*source.commits],
            "shuffle": shuffle,
            **({"seed": seed, "buffer": self.line.buffer} if shuffle else {}),
        }
        # Shared, so that worker processes that stay for several epochs see it change.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._rank: tuple[int, int] | None = None
        self._process = os.getpid()

    @property
    def streams(self) -> list[ShardStream]:
        """Itself: a mixture has several."""
        return [self]

    @property
    def weights(self) -> None:
        """Those of a mixture."""
        return None

    @property
    def lines(self) -> list[Line]:
        """The samples, before an epoch orders them."""
        return [self.line]

    @property
    def mixture(self) -> dict[str, Any] | None:
        """What the order of a mixture depends on beside its streams."""
        return None

    @property
    def is_one_to_one(self) -> bool:
        """Whether each sample that is read surely gives one result."""
        return self.samples.on_reject == "raise" and gives_one(self.samples.prepare)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration reads. A `Loader` says so itself."""
        _check("epoch", epoch, 0)
        self._epoch[0] = epoch

    def __len__(self) -> int:
        """Samples that this rank reads in an epoch, before a transform makes more or fewer of them."""
        rank, ranks = self._rank or rank_and_ranks()
        start, stop = rank_run(sum(self.line.samples), rank, Topology(ranks, 1, 1, False))
        return stop - start

    def __repr__(self) -> str:
        shards, order = len(self.samples.source.shards), "shuffled" if self.line.shuffle else "in order"
        return f"<ShardStream: {sum(self.line.samples):,} samples in {shards:,} shards, {order}>"

    @override
    def __getstate__(self) -> dict[str, Any]:
        """For a worker process, to which `torch.distributed` is not known."""
        self.samples.expect_tensors()
        return {**self.__dict__, "_rank": self._rank or rank_and_ranks()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a process that was not forked."""
        self.__dict__.update(state, _process=os.getpid())

    @override
    def __iter__(self) -> StreamIterator:
        """The samples of this rank and worker, in a `DataLoader` or outside one.

        Raises:
            ConfigurationError: This process was forked, and a client of a bucket does not survive that.
        """
        urls = (shard.url for shard in self.samples.source.shards)
        if os.getpid() != self._process and not all(url.startswith("file://") for url in urls):
            raise ConfigurationError(
                "a stream from a bucket cannot be read in a process that was forked: give the DataLoader "
                "multiprocessing_context='forkserver', or take shardmill's Loader"
            )
        return StreamIterator(self)

    def lane(self, rank: int, ranks: int, worker: int, workers: int, position: Position) -> Lane:
        """What a worker of a `DataLoader` reads, whose batches are not known."""
        progress = begin(int(self._epoch[0]), rank, Topology(ranks, workers, 1, False), 1)
        [lane] = progress.lanes([self.line])[worker]
        return begun(lane, position)


class StreamIterator(Iterator[dict[str, Any]]):
    """The samples of one worker of one rank. Its state counts what it handed out."""

    def __init__(self, stream: ShardStream) -> None:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        self._stream = stream
        self._place = (*(stream._rank or rank_and_ranks()), worker, workers)
        self._position: Position = (0, 0)
        self._epoch = int(stream._epoch[0])
        self._skipped: Counter[str] = Counter()
        # It does not refer to this iterator: in a cycle its threads would be joined wherever garbage is collected, also
        # where another thread begins and holds the lock that this takes.
        self._results: Generator[Result, None, None] | None = None

    @override
    def __next__(self) -> dict[str, Any]:
        if self._results is None:
            lane = self._stream.lane(*self._place, self._position)
            threads = 1 if get_worker_info() is not None else usable_cores()
            self._results = Feed([self._stream.samples], [lane], None, self._epoch, threads).results()
        for result in self._results:
            self._position = result.position
            if result.skipped is not None:
                self._skipped[result.skipped] += 1
            if result.data is not None:
                return result.data
        raise StopIteration

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, for an iterator of the same rank and worker among as many."""
        return StreamState(
            stream=self._stream.about,
            epoch=self._epoch,
            place=self._place,
            position=self._position,
            skipped=dict(self._skipped),
        ).model_dump(mode="json")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken.

        Raises:
            ConfigurationError: It is none, of another set or order, or of other ranks and workers.
        """
        given = parsed(StreamState, state)
        check_streams([given.stream], [self._stream.about])
        if given.place != self._place:
            was, now = (dict(zip(_PLACE, each, strict=True)) for each in (given.place, self._place))
            raise ConfigurationError(
                f"the state was taken with {was}, and this is {now}. Set them as before, or use shardmill's Loader, "
                "which goes on with any number of ranks and workers"
            )
        self._stream.set_epoch(given.epoch)
        self._stream.lane(*self._place, given.position)
        self._epoch, self._position, self._skipped = given.epoch, given.position, Counter(given.skipped)
        self._results = None


def gives_one(prepare: Prepare) -> bool:
    """Whether it surely makes one of each sample: only callables of the user's own make none or several."""
    return prepare.transform is None or not prepare.transform.has_custom


def rank_and_ranks(rank: int | None = None, ranks: int | None = None) -> tuple[int, int]:
    """Of this process: as given, else what `torch.distributed` says, else RANK and WORLD_SIZE, else 0 of 1.

    Raises:
        ConfigurationError: They cannot be.
    """
    if (rank is None) != (ranks is None):
        raise ConfigurationError(f"rank is {rank} and ranks is {ranks}: give both or none")
    if rank is None or ranks is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            named = [os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))]
            if not all(each.isdecimal() for each in named):
                raise ConfigurationError(
                    f"RANK is {named[0]!r} and WORLD_SIZE {named[1]!r} in the environment: no numbers"
                )
            rank, ranks = map(int, named)
    if not 0 <= rank < ranks:
        raise ConfigurationError(f"rank {rank} of {ranks}: ranks count from 0")
    return rank, ranks


def _check(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} is {value!r}: it is a whole number of at least {least}")


def _counts(source: Source) -> list[int]:
    if source.selected is None:
        return [shard.samples for shard in source.shards]
    return [len(some) for some in source.selected]


def _digest(numbers: NDArray[np.int64]) -> str:
    return hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()


def _bounded(buffer: int, source: Source) -> int:
    largest = max((shard.size / shard.samples for shard in source.shards if shard.samples), default=1.0)
    return max(1, min(buffer, int(_BUFFER_BYTES / max(largest, 1.0))))
