"""Progress of long work: how much is done, how fast, how long it will take."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A state of some work."""

    task: str
    done: int
    total: int
    rate: float
    """Units per second since the start."""
    unit: str = "samples"

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None before the first."""
        return (self.total - self.done) / self.rate if self.rate else None

    def __str__(self) -> str:
        share = f"{self.done:,} of {self.total:,} {self.unit}"
        left = "" if self.seconds_left is None else f", {format_duration(self.seconds_left)} left"
        digits = 1 if self.rate < 10 else 0  # a large model on a CPU makes less than one a second
        return f"{self.task}: {share}, {self.rate:,.{digits}f} {self.unit}/s{left}"


ProgressSink = Callable[[Progress], None]


class ProgressMeter:
    """Counts, and tells a sink every `interval` seconds and at the end."""

    def __init__(
        self, task: str, total: int, sink: ProgressSink, interval: float = 0.5, *, unit: str = "samples"
    ) -> None:
        self._task, self._total, self._sink, self._interval, self._unit = task, total, sink, interval, unit
        self._started = time.monotonic()
        self._told = self._started
        self._done = 0

    def advance(self, count: int) -> None:
        """Count so many more as done."""
        self._done += count
        now = time.monotonic()
        if now - self._told >= self._interval or self._done == self._total:
            self._told = now
            elapsed = max(now - self._started, 1e-9)
            self._sink(Progress(self._task, self._done, self._total, self._done / elapsed, self._unit))


def for_a_log(sink: ProgressSink, interval: float = 10.0) -> ProgressSink:
    """A sink that passes a state on at most every `interval` seconds, and the last of each task."""
    told = time.monotonic()

    def pass_on(state: Progress) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= interval or state.done == state.total:
            told = now
            sink(state)

    return pass_on


def silent(_: Progress) -> None:
    """A sink that says nothing."""


def counted(number: int, noun: str) -> str:
    """`1 shard`, `1,200 shards`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def format_duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
