"""What one worker hands out: of its lanes the samples, prepared, with where each stands."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import ConfigurationError, CorruptionError, Rejected
from shardmill.library_threads import compute_alone
from shardmill.loading.lanes import Read, read_lane
from shardmill.loading.order import Lane, draws
from shardmill.loading.prepare import Prepare
from shardmill.loading.sources import Source
from shardmill.loading.state import Position
from shardmill.loading.through_server import ThroughServer
from shardmill.samples import EncodedSample
from shardmill.torchvision_compat import import_torchvision

OnReject: TypeAlias = Literal["raise", "skip"]

DAMAGED = "damaged"
"""Why a sample is skipped whose bytes are not those that were committed."""
_AHEAD_BYTES = 64 << 20
"""Of samples that are prepared ahead, as they are stored."""


@dataclass(frozen=True)
class Samples:
    """A stream's samples and what becomes of them. Picklable."""

    source: Source
    prepare: Prepare
    on_reject: OnReject

    @property
    def computes(self) -> bool:
        """Whether anything is made of what is stored."""
        return self.prepare.decode or self.prepare.transform is not None

    @property
    def at_once(self) -> int:
        """Samples that are worth preparing at once, whatever the cores: threads that wait for a server take none."""
        return REQUESTS_AT_ONCE if isinstance(self.prepare.transform, ThroughServer) else 1

    def until(self, stop: threading.Event) -> Samples:
        """The same, of which no thread waits for a busy server any more once `stop` is set."""
        transform = self.prepare.transform
        if not isinstance(transform, ThroughServer):
            return self
        return replace(self, prepare=replace(self.prepare, transform=transform.until(stop)))

    def expect_tensors(self) -> None:
        """Make ready to take from worker processes what is made of the samples: images are torchvision's."""
        if self.prepare.decode:
            import_torchvision()


class Result(NamedTuple):
    """A sample that is handed out, or that one was passed over."""

    data: dict[str, Any] | None
    stream: int
    position: Position
    """Of the stream in its lane, when this has been handed out."""
    skipped: str | None = None
    """Why a sample was."""
    is_repeat: bool = False
    """Whether it stands in the place of one that was skipped."""


Outcome: TypeAlias = "list[dict[str, Any]] | Rejected | CorruptionError"
Taken: TypeAlias = tuple[int, Read]
"""A sample and the number of its stream."""


@dataclass(frozen=True)
class Feed:
    """The lanes of one worker, one a stream."""

    streams: Sequence[Samples]
    lanes: Sequence[Lane]
    weights: Sequence[float] | None
    epoch: int
    threads: int = 1
    """That prepare samples."""
    equal: bool = False
    """Whether each sample gives one result: one that is skipped gives another's again."""

    def results(self) -> Generator[Result, None, None]:
        """What is left, in order. Close it, so that its threads end.

        Raises:
            Rejected: A sample cannot be prepared, and its stream skips none.
            CorruptionError: A sample is damaged, and its stream skips none.
            ConfigurationError: A transform gives none or several where each sample gives one.
        """
        inputs = [lane.inputs for lane in self.lanes]
        begun = [lane.given for lane in self.lanes]
        with closing(self._outcomes()) as outcomes:
            for (stream, read), made in outcomes:
                inputs[stream] += 1
                if isinstance(made, Exception):
                    if self.streams[stream].on_reject == "raise":
                        raise _named(made, read)
                    yield Result(None, stream, (inputs[stream], 0), _reason(made))
                    continue
                if self.equal and len(made) != 1:
                    raise ConfigurationError(
                        f"{_name(read)} gave {len(made)} samples: with `equal` each has to give one. Leave it out, "
                        "or transform the shards beforehand"
                    )
                for number, data in list(enumerate(made))[read.given + begun[stream] :]:
                    following = (inputs[stream] - 1, number + 1 - read.given)
                    yield Result(data, stream, following if number + 1 < len(made) else (inputs[stream], 0))
                if len(made) <= read.given + begun[stream]:
                    yield Result(None, stream, (inputs[stream], 0))
                begun[stream] = 0

    def equal_results(self) -> Generator[Result, None, None]:
        """As `results`, where a sample that is skipped gives the one after it again; at the end, the lane's first.

        Raises:
            Rejected: As `results`, or all samples of the lane are skipped.
            CorruptionError: As `results`.
            ConfigurationError: As `results`.
        """
        owed: list[Result] = []
        first: dict[str, Any] | None = None
        with closing(self.results()) as results:
            for result in results:
                if result.data is None:
                    owed.append(result)
                    continue
                if not any(lane.inputs for lane in self.lanes):
                    first = first or result.data
                yield from (each._replace(data=result.data, is_repeat=True) for each in owed)
                owed = []
                yield result
        if owed and first is None:
            first = self._first()
        yield from (each._replace(data=first, is_repeat=True) for each in owed)

    def _first(self) -> dict[str, Any]:
        anew = replace(self, lanes=[replace(lane, inputs=0, given=0) for lane in self.lanes])
        reason = None
        with closing(anew.results()) as results:
            for result in results:
                if result.data is not None:
                    return result.data
                reason = result.skipped
        raise ConfigurationError(
            f"every sample of a worker is skipped, the last one as {reason!r}, and `equal` has none to give again"
        )

    def _outcomes(self) -> Generator[tuple[Taken, Outcome], None, None]:
        """Every sample that is left, and what it became."""
        with closing(self._reads()) as reads:
            threads = max([self.threads, *(stream.at_once for stream in self.streams)])
            if threads == 1 or not any(stream.computes for stream in self.streams):
                for read in reads:  # `map` would take a StopIteration for the end
                    yield self._prepare(read)
                return
            stop = threading.Event()
            prepare = replace(self, streams=[stream.until(stop) for stream in self.streams])._prepare_in_thread
            with closing(bounded_map(prepare, reads, threads, size=_size, most=_AHEAD_BYTES)) as prepared:
                try:
                    for each in prepared:  # noqa: UP028 - `yield from` would close it before `stop` is set
                        yield each
                finally:
                    stop.set()

    def _reads(self) -> Generator[Taken, None, None]:
        with ExitStack() as stack:
            read = [
                stack.enter_context(closing(read_lane(stream.source, lane)))
                for stream, lane in zip(self.streams, self.lanes, strict=True)
            ]
            for stream in draws(self.weights, self.lanes):
                yield stream, next(read[stream])

    def _prepare_in_thread(self, taken: Taken) -> tuple[Taken, Outcome]:
        """The threads are the parallelism: those of torch would wait for each other."""
        if not hasattr(_this_thread, "computes_alone"):
            compute_alone()
            _this_thread.computes_alone = True
        return self._prepare(taken)

    def _prepare(self, taken: Taken) -> tuple[Taken, Outcome]:
        stream, read = taken
        if isinstance(read.sample, CorruptionError):
            return taken, read.sample
        try:
            return taken, self.streams[stream].prepare(read.sample, read.cells, self.epoch, read.url)
        except Rejected as error:
            return taken, error
        except Exception as error:
            error.add_note(f"It was raised for {_name(read)}.")
            raise


_this_thread = threading.local()


def _size(taken: Taken) -> int:
    sample = taken[1].sample
    return sum(map(len, sample.components.values())) if isinstance(sample, EncodedSample) else 0


def _name(read: Read) -> str:
    key = f"the sample {read.sample.key!r}" if isinstance(read.sample, EncodedSample) else f"sample {read.number}"
    return f"{key} of {read.url}"


def _named(error: Rejected | CorruptionError, read: Read) -> Rejected | CorruptionError:
    advice = '`on_reject="skip"` passes over such samples and counts them'
    if isinstance(error, CorruptionError):
        return CorruptionError(f"{error}. {advice}")
    detail = f": {error.detail}" if error.detail else ""
    return Rejected(error.reason, f"{_name(read)}{detail}. {advice}", error.may_pass)


def _reason(error: Rejected | CorruptionError) -> str:
    return error.reason if isinstance(error, Rejected) else DAMAGED
