"""What has been handed out of an epoch: plain data, from which any number of ranks and workers can go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shardmill.errors import ConfigurationError
from shardmill.loading.order import Lane, Pieces, Topology, batches_of, cut, joined, lanes_of, length, line_of, rank_run

VERSION = 1

_MOST = 1 << 48
_Count = Annotated[int, Field(ge=0, le=_MOST)]
_Size = Annotated[int, Field(ge=1, le=1 << 24)]
Position = tuple[_Count, _Count]
"""Of a stream in a lane: samples that were handed out, and results of the sample after them."""
Positions = list[list[Position]]
"""Of a rank: by lane and stream."""


@dataclass(frozen=True)
class Line:
    """A stream's samples before an epoch orders them."""

    samples: Sequence[int]
    """Of each shard."""
    shuffle: bool
    seed: int
    buffer: int
    most: int | None = None
    """Only so many of an epoch's line are read."""

    def of(self, epoch: int) -> Pieces:
        """The samples of an epoch in the order of the line."""
        line = line_of(self.samples, self.shuffle, self.seed, epoch)
        return line if self.most is None else cut(line, 0, self.most)


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


_Kind = TypeVar("_Kind", bound=_Data)


class Part(_Data):
    """A part of an epoch that was read under one topology."""

    ranks: _Size
    lanes: _Size
    batch_size: _Size
    equal: bool
    done: list[Positions]
    """Of every rank; in the last part of a state of the state's own rank alone."""

    @model_validator(mode="after")
    def _has_all_lanes(self) -> Self:
        if any(len(lanes) != self.lanes for lanes in self.done):
            raise ValueError(f"each rank has {self.lanes} lanes")
        return self

    @property
    def topology(self) -> Topology:
        """Among whom it was divided."""
        return Topology(self.ranks, self.lanes, self.batch_size, self.equal)

    @property
    def is_begun(self) -> bool:
        """Whether anything was handed out."""
        return any(position != (0, 0) for rank in self.done for lane in rank for position in lane)


class StreamState(_Data):
    """Of one worker of a stream that another loader reads."""

    version: Literal[1] = 1
    stream: dict[str, Any]
    """What the order depends on."""
    epoch: _Count
    place: tuple[_Count, _Size, _Count, _Size]
    """Rank, ranks, worker, workers."""
    position: Position
    skipped: dict[str, _Count]


class State(_Data):
    """Of one rank."""

    version: Literal[1] = 1
    streams: list[dict[str, Any]]
    """What the order depends on, of each stream."""
    mixture: dict[str, Any] | None = None
    epoch: _Count
    rank: _Count
    in_step: bool
    """Whether the positions of the other ranks follow from the number of batches."""
    parts: list[Part] = Field(min_length=1)
    batches: _Count
    """Handed out in the last part."""
    turn: _Count
    """The lane whose turn it is."""
    skipped: dict[str, _Count] = {}
    repeated: _Count = 0

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        *earlier, last = self.parts
        if any(len(part.done) != part.ranks for part in earlier) or len(last.done) != 1:
            raise ValueError("each part has the positions of all its ranks, and the last one of this rank's")
        if any(len(lane) != len(self.streams) for part in self.parts for rank in part.done for lane in rank):
            raise ValueError("each lane has a position in each stream")
        if self.rank >= last.ranks or self.turn >= last.lanes:
            raise ValueError(f"there are {last.ranks} ranks, of {last.lanes} lanes each")
        return self


def parse(data: Any) -> list[State]:
    """The state of one rank, or of all.

    Raises:
        ConfigurationError: It is none.
    """
    states = [data] if isinstance(data, Mapping) else data
    if not isinstance(states, list | tuple) or not states:
        raise ConfigurationError(
            "a loader's state is what its `state_dict()` gave, or a list of the states of all ranks"
        )
    return [parsed(State, each) for each in states]


def parsed(kind: type[_Kind], data: Any) -> _Kind:
    """A state of this kind, out of plain data.

    Raises:
        ConfigurationError: It is none.
    """
    version = data.get("version") if isinstance(data, Mapping) else None
    if version != VERSION:
        said = "it says no version" if version is None else f"it is of version {version}, and this is {VERSION}"
        raise ConfigurationError(f"this is no state that can be resumed here: {said}")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = f" at {place}" if (place := ".".join(map(str, first["loc"]))) else ""
        raise ConfigurationError(f"the state is damaged{where}: {first['msg']}") from None


def check(states: Sequence[State], streams: Sequence[Mapping[str, Any]], mixture: Mapping[str, Any] | None) -> None:
    """Refuse states of other samples, or of another order of them.

    Raises:
        ConfigurationError: Says what differs.
    """
    for state in states:
        check_streams(state.streams, streams)
        if state.mixture != mixture:
            raise ConfigurationError(
                f"the state was taken of the mixture {state.mixture}, and this one is {mixture}: set it as before"
            )


def check_streams(was: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what was taken of other samples, or of another order of them.

    Raises:
        ConfigurationError: Says what differs.
    """
    if len(was) != len(now):
        raise ConfigurationError(f"the state was taken of {len(was)} streams, and here are {len(now)}")
    for number, (before, here) in enumerate(zip(was, now, strict=True)):
        which = f" of stream {number}" if len(now) > 1 else ""
        for name in {**here, **before}:
            if before.get(name) != here.get(name):
                raise ConfigurationError(_differs(name, which, before, here))


def _differs(name: str, which: str, before: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    was, now = before.get(name), here.get(name)
    if name in ("set", "commits"):
        commits = before.get("commits")
        digests = ", ".join(map(repr, commits if isinstance(commits, list) else ())) or "…"
        return (
            f"the state{which} was taken of other samples: the set was committed anew since, or another filter or "
            f"list of shards is given (then {was}, now {now}). Open the state that it was taken of, with "
            f"`open_shards(…, digest={digests})` where `keep_superseded` keeps it, or begin the epoch anew"
        )
    return f"the state{which} was taken with {name}={was}, and now it is {now}: its order is another. Set it as before"


@dataclass(frozen=True)
class Progress:
    """Where a rank stands in an epoch."""

    epoch: int
    rank: int
    topology: Topology
    earlier: list[Part] = field(default_factory=list)
    """Parts of the epoch that were read under other topologies."""
    done: Positions = field(default_factory=list)
    batches: int = 0
    turn: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    repeated: int = 0

    def after(
        self, lane: int, positions: list[Position], skipped: Mapping[str, int], repeated: int, is_empty: bool
    ) -> Progress:
        """When a batch of a lane has been handed out; or, if it is empty, that the lane has got on without one."""
        return replace(
            self,
            done=[positions if number == lane else each for number, each in enumerate(self.done)],
            batches=self.batches + (not is_empty),
            turn=self.turn if is_empty else (lane + 1) % self.topology.lanes,
            skipped=self.skipped + Counter(skipped),
            repeated=self.repeated + repeated,
        )

    def lanes(self, lines: Sequence[Line]) -> list[list[Lane]]:
        """What this rank reads: by lane and stream."""
        rest = remaining(lines, self.epoch, self.earlier)
        by_stream = [
            lanes_of(line, self.rank, self.topology, of.buffer, _seeds(of, self.epoch, len(self.earlier)))
            for line, of in zip(rest, lines, strict=True)
        ]
        return [
            [begun(lane, done) for lane, done in zip(lanes, positions, strict=True)]
            for lanes, positions in zip(zip(*by_stream, strict=True), self.done, strict=True)
        ]


def begin(epoch: int, rank: int, topology: Topology, streams: int) -> Progress:
    """The start of an epoch."""
    return Progress(epoch, rank, topology, done=_nothing(topology, streams))


def resume(states: Sequence[State], lines: Sequence[Line], rank: int, topology: Topology) -> Progress:
    """Where a rank goes on.

    Raises:
        ConfigurationError: The states are not those of one moment, or some ranks' are missing.
    """
    _check_one_moment(states)
    own = next((state for state in states if state.rank == rank), states[0])
    *earlier, last = own.parts
    if last.topology == topology and own.rank == rank:
        counts = Counter(own.skipped), own.repeated
        return Progress(own.epoch, rank, topology, earlier, last.done[0], own.batches, own.turn, *counts)
    done = _of_all_ranks(states, lines)
    if last.topology == topology:  # the state of another rank stands for all
        turn = own.batches % topology.lanes
        return Progress(own.epoch, rank, topology, earlier, done[rank], own.batches, turn)
    part = last.model_copy(update={"done": done})
    if part.is_begun:
        earlier.append(part)
    start = Progress(own.epoch, rank, topology, earlier, _nothing(topology, len(lines)))
    if rank:
        return start
    # One rank tells of what all have skipped, so that the sum over ranks is right.
    skipped = sum((Counter(state.skipped) for state in states), Counter[str]())
    return replace(start, skipped=skipped, repeated=sum(state.repeated for state in states))


def remaining(lines: Sequence[Line], epoch: int, parts: Sequence[Part]) -> list[Pieces]:
    """Of each stream what is left of an epoch, as a line."""
    rest = [line.of(epoch) for line in lines]
    for number, part in enumerate(parts):
        for stream, line in enumerate(lines):
            left = [rest[stream][:0]]
            for rank, positions in enumerate(part.done):
                lanes = lanes_of(rest[stream], rank, part.topology, line.buffer, _seeds(line, epoch, number))
                for lane, done in zip(lanes, positions, strict=True):
                    left.append(begun(lane, done[stream]).unread())
            rest[stream] = joined(np.concatenate(left))
    return rest


def begun(lane: Lane, position: Position) -> Lane:
    """A lane of which so much has been handed out.

    Raises:
        ConfigurationError: It has not so much.
    """
    inputs, given = position
    if inputs > len(lane) or (given and inputs == len(lane)):
        raise ConfigurationError(f"the state is damaged: it is {inputs:,} samples into a lane of {len(lane):,}")
    return replace(lane, inputs=inputs, given=given)


def _seeds(line: Line, epoch: int, part: int) -> tuple[int, ...]:
    return (line.seed, epoch, 1 + part)


def _nothing(topology: Topology, streams: int) -> Positions:
    return [[(0, 0)] * streams for _ in range(topology.lanes)]


def _check_one_moment(states: Sequence[State]) -> None:
    first = states[0]
    for state in states:
        if state.epoch != first.epoch:
            raise ConfigurationError(
                f"the states are of epochs {first.epoch} and {state.epoch}: take those of all ranks at one step"
            )
        if (state.parts[:-1], state.parts[-1].topology) != (first.parts[:-1], first.parts[-1].topology):
            raise ConfigurationError("the states are not those of the ranks of one run")
    ranks = sorted(state.rank for state in states)
    if len(states) > 1 and ranks != list(range(first.parts[-1].ranks)):
        raise ConfigurationError(
            f"give the states of all {first.parts[-1].ranks} ranks, or of one: these are of ranks {ranks}"
        )


def _of_all_ranks(states: Sequence[State], lines: Sequence[Line]) -> list[Positions]:
    """The positions of all ranks, which follow from one's where they move in step."""
    first = states[0]
    part = first.parts[-1]
    if len(states) == part.ranks:
        return [state.parts[-1].done[0] for state in sorted(states, key=lambda state: state.rank)]
    if not first.in_step:
        raise ConfigurationError(
            f"the state is of rank {first.rank} of {part.ranks}, and how far the others were does not follow from it: "
            "samples are skipped, a transform of one's own may give none or several, or streams are mixed. Give a list "
            "of the states of all ranks, which `torch.distributed.all_gather_object` collects"
        )
    [rest] = remaining(lines, first.epoch, first.parts[:-1])
    return [in_step(length(rest), rank, part.topology, first.batches) for rank in range(part.ranks)]


def in_step(total: int, rank: int, topology: Topology, batches: int) -> Positions:
    """The positions of a rank that has handed out so many batches of a line of `total` samples."""
    start, stop = rank_run(total, rank, topology)
    most = batches_of(stop - start, topology)
    taken = [
        min(int(most[lane]), (batches - lane + topology.lanes - 1) // topology.lanes) for lane in range(topology.lanes)
    ]
    short = int(most.sum()) * topology.batch_size - (stop - start)
    positions = [each * topology.batch_size for each in taken]
    if sum(taken) == most.sum() and sum(taken):
        positions[(int(most.sum()) - 1) % topology.lanes] -= short
    return [[(each, 0)] for each in positions]
