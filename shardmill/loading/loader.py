"""The loader of a training loop: batches of this rank, and where it stands among all."""

from __future__ import annotations

import logging
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any

from typing_extensions import override

from shardmill.concurrency import usable_cores
from shardmill.errors import ConfigurationError
from shardmill.loading.collate import collate
from shardmill.loading.feed import Feed
from shardmill.loading.mixture import Mixture
from shardmill.loading.order import Lane, Topology
from shardmill.loading.state import Part, Progress, State, begin, check, parse, resume
from shardmill.loading.stream import ShardStream, rank_and_ranks
from shardmill.loading.workers import Batch, Batches, Collate, read_batches

logger = logging.getLogger(__name__)


class Loader:
    """Batches of a stream, or of several, for this rank.

    Every sample of an epoch goes to one rank once. A state that was taken in mid-epoch can be gone on with by any
    number of ranks and workers.

    Example:
        loader = Loader(stream, batch_size=64, workers=4)
        for epoch in range(loader.epoch, 90):
            loader.set_epoch(epoch)
            for batch in loader: ...
    """

    def __init__(
        self,
        stream: ShardStream | Mixture,
        batch_size: int,
        *,
        workers: int = 0,
        rank: int | None = None,
        ranks: int | None = None,
        equal: bool = False,
        pin_memory: bool = False,
        collate_fn: Collate = collate,
    ) -> None:
        """Nothing is read before an iteration begins.

        Args:
            stream: What is read.
            batch_size: Samples a batch. Only the last of a rank is shorter, where each sample gives one result.
            workers: Processes that read and decode, from a fork server; 0: threads of this one.
            rank: Of this process, by default what `torch.distributed` says where it is initialised, else RANK and
                WORLD_SIZE in the environment, else 0 of 1.
            ranks: How many there are.
            equal: Whether all ranks get equally many samples. Some come twice for it: `padded` says how many.
            pin_memory: Whether batches are copied to memory from which CUDA copies faster, where there is a device.
            collate_fn: Makes a batch of a list of samples; with workers it has to pickle.

        Raises:
            ConfigurationError: An argument is wrong.
        """
        for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(f"{name} is {value!r}: it is a whole number of at least {least}")
        if not isinstance(stream, ShardStream | Mixture):
            raise ConfigurationError(f"a Loader reads a ShardStream or a Mixture, not a {type(stream).__name__}")
        if rank is not None or ranks is not None:
            rank_and_ranks(rank, ranks)
        self.stream, self.batch_size, self.workers, self.equal = stream, batch_size, workers, equal
        self._rank, self._pin_memory, self._collate = (rank, ranks), pin_memory, collate_fn
        self._epoch = 0
        self._states: list[State] | None = None
        self._start: Progress | None = None
        self._lanes_of: Progress | None = None
        self._first_lanes: list[list[Lane]] = []
        self._is_begun = False
        self._now: Progress | None = None
        # Not held: whoever leaves a loop lets go of it, and that ends its workers.
        self._iteration: Callable[[], _Iteration | None] = lambda: None

    @property
    def epoch(self) -> int:
        """The one that is being read or comes next: after the end of one, the one after it."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Read this epoch next, from its beginning; a state that was loaded and is of this epoch stays."""
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise ConfigurationError(f"epoch is {epoch!r}: epochs count from 0")
        if epoch != self._epoch:
            self._go_to(epoch)

    @property
    def skipped(self) -> Counter[str]:
        """Samples of this rank that were skipped, by reason: in the epoch that is read, or was read last."""
        return Counter((self._now or self._first()).skipped)

    @property
    def padded(self) -> int:
        """Samples that this rank gives twice in the epoch, so that all ranks give equally many."""
        return (self._now or self._first()).repeated + sum(lane.repeats for lanes in self._lanes() for lane in lanes)

    def __len__(self) -> int:
        """Batches of this rank in the iteration that is under way or comes next; of a state, those that are left.

        Where a transform gives none or several of a sample, or samples are skipped, they come to fewer or more.
        """
        left = (sum(len(lane) - lane.inputs for lane in lanes) for lanes in self._lanes())
        return sum(-(-samples // self.batch_size) for samples in left)

    def __repr__(self) -> str:
        progress = self._first()
        return (
            f"<Loader of {self.stream}: {len(self):,} batches of {self.batch_size}, epoch {self._epoch}, "
            f"rank {progress.rank} of {progress.topology.ranks}, {self.workers} workers>"
        )

    # Where it stands.

    def state_dict(self) -> dict[str, Any]:
        """What has been handed out, as plain data; what workers have read ahead does not count.

        Going on with other ranks or workers takes the states of all ranks, or one where they move in step: each
        sample gives one result and none is skipped, or `equal` is set.
        """
        now = self._first() if self._now is None or self._now.epoch != self._epoch else self._now
        topology = now.topology
        part = Part(
            ranks=topology.ranks,
            lanes=topology.lanes,
            batch_size=topology.batch_size,
            equal=topology.equal,
            done=[now.done],
        )
        return State(
            streams=[stream.about for stream in self.stream.streams],
            mixture=self.stream.mixture,
            epoch=now.epoch,
            rank=now.rank,
            in_step=self.stream.is_one_to_one or (self.equal and len(self.stream.streams) == 1),
            parts=[*now.earlier, part],
            batches=now.batches,
            turn=now.turn,
            skipped=dict(now.skipped),
            repeated=now.repeated,
        ).model_dump(mode="json")

    def load_state_dict(self, state: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Go on, in the next iteration, where a state was taken.

        The order is the one that would have come if ranks, workers and batch size are as before; else each sample that
        is left comes once, in an order of its own.

        Args:
            state: What `state_dict` gave on this rank, or on another; or a list of what it gave on all.

        Raises:
            ConfigurationError: It is none, is of other samples or another order, or says too little.
        """
        states = parse(state)
        check(states, [stream.about for stream in self.stream.streams], self.stream.mixture)
        resume(states, self.stream.lines, *self._place()).lanes(self.stream.lines)
        self._go_to(states[0].epoch)
        self._states = states

    def _go_to(self, epoch: int) -> None:
        self._close()
        self._epoch, self._states, self._start, self._now, self._is_begun = epoch, None, None, None, False

    def _place(self) -> tuple[int, Topology]:
        rank, ranks = rank_and_ranks(*self._rank)
        return rank, Topology(ranks, max(1, self.workers), self.batch_size, self.equal)

    def _first(self) -> Progress:
        """Where the iteration began that is under way, or else where the next one begins."""
        if self._is_begun and self._iteration() is None:  # it was left
            self._states, self._start, self._is_begun = None, None, False
        rank, topology = self._place()
        if self._start is None or (self._start.rank, self._start.topology) != (rank, topology):
            if self._states is not None:
                self._start = resume(self._states, self.stream.lines, rank, topology)
            else:
                self._start = begin(self._epoch, rank, topology, len(self.stream.streams))
        return self._start

    def _lanes(self) -> list[list[Lane]]:
        """As they were at `_first`."""
        first = self._first()
        if self._lanes_of is not first:
            self._lanes_of, self._first_lanes = first, first.lanes(self.stream.lines)
        return self._first_lanes

    # Reading.

    def __iter__(self) -> Iterator[Any]:
        """The batches that are left of the epoch; at its end comes the next one.

        Raises:
            Rejected: A sample is rejected, and none is to be skipped.
            CorruptionError: A sample is damaged, and none is to be skipped.
            ConfigurationError: Another iteration of this loader began meanwhile.
            EngineError: A worker died.
            StorageError: A store cannot give what is to be read.
        """
        self._close()
        self._now = self._first()
        iteration = _Iteration(self._batches(self._now))
        self._iteration, self._is_begun = weakref.ref(iteration), True
        return iteration

    def _batches(self, start: Progress) -> Generator[Any, None, None]:
        lanes = self._lanes()
        if padded := sum(lane.repeats for each in lanes for lane in each):
            logger.info(f"{self}: {padded} samples come a second time, so that all ranks get equally many")
        samples = [stream.samples for stream in self.stream.streams]
        threads = 1 if self.workers else usable_cores()
        if self.workers:
            for each in samples:
                each.expect_tensors()
        feeds = [Feed(samples, each, self.stream.weights, start.epoch, threads, self.equal) for each in lanes]
        with closing(self._made(Batches(feeds, start.turn, self.batch_size, self._collate))) as batches:
            for batch in batches:
                self._now = start = start.after(
                    batch.lane, batch.positions, batch.skipped, batch.repeated, batch.data is None
                )
                if batch.data is not None:
                    yield batch.data
        if start.skipped:
            logger.warning(f"{self}: {start.skipped.total()} samples were skipped: {dict(start.skipped)}")
        self._epoch, self._states, self._start, self._is_begun = start.epoch + 1, None, None, False

    def _made(self, batches: Batches) -> Generator[Batch, None, None]:
        return read_batches(batches, self.workers, self._pin_memory)

    def _close(self) -> None:
        """End an iteration that was left, and with it its workers."""
        if (iteration := self._iteration()) is not None:
            iteration.close()
        self._iteration = lambda: None


class _Iteration(Iterator[Any]):
    """The batches of one loop."""

    def __init__(self, batches: Generator[Any, None, None]) -> None:
        self._batches = batches
        self._is_cut = False

    @override
    def __next__(self) -> Any:
        if self._is_cut:
            raise ConfigurationError(
                "the loader was set to another place, or another loop over it began, before this loop had ended: give "
                "each loop a Loader of its own"
            )
        return next(self._batches)

    def close(self) -> None:
        """End it. A loop that goes on all the same must not take that for the end of the epoch."""
        self._is_cut = getgeneratorstate(self._batches) != GEN_CLOSED
        self._batches.close()
