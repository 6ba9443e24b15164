"""Several streams as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from shardmill.errors import ConfigurationError
from shardmill.loading.state import Line
from shardmill.loading.stream import ShardStream


class Mixture:
    """Several streams for one `Loader`: each sample comes from one of them, at random by weight.

    Example:
        Loader(Mixture([photographs, drawings], weights=[3, 1]), batch_size=64)
    """

    def __init__(
        self,
        streams: Sequence[ShardStream],
        weights: Sequence[float] | None = None,
        until: Literal["all", "first"] = "all",
    ) -> None:
        """Mix streams.

        Args:
            streams: Each with its own order, transform and policy.
            weights: How often each is drawn from, relative to the others; by default as often as it has samples
                left, so that they end together.
            until: When an epoch ends: when all have ended, every sample of each handed out once; or with the first, so
                that the proportions hold to the end. Of the others it then reads a part: the first shards in the
                epoch's order, which are other ones in another epoch if they are shuffled.

        Raises:
            ConfigurationError: An argument is wrong.
        """
        if not streams:
            raise ConfigurationError("a mixture needs streams")
        if weights is not None and (
            len(weights) != len(streams) or not all(0 < weight < float("inf") for weight in weights)
        ):
            raise ConfigurationError(f"{len(streams)} streams need as many weights above 0: got {weights}")
        if until not in ("all", "first"):
            raise ConfigurationError(f"until is {until!r}: it is 'all' or 'first'")
        self.streams = list(streams)
        self.weights = None if weights is None else [float(weight) for weight in weights]
        self.until = until

    @property
    def lines(self) -> list[Line]:
        """The samples of each stream, before an epoch orders them."""
        lines = [stream.line for stream in self.streams]
        if self.until == "all" or self.weights is None:
            return lines
        counts = [sum(line.samples) for line in lines]
        rounds = [count / weight for count, weight in zip(counts, self.weights, strict=True)]
        shares = [min(rounds) * weight for weight in self.weights]
        most = [
            count if number == rounds.index(min(rounds)) else min(count, round(share))
            for number, (count, share) in enumerate(zip(counts, shares, strict=True))
        ]
        return [replace(line, most=each) for line, each in zip(lines, most, strict=True)]

    @property
    def mixture(self) -> dict[str, Any] | None:
        """What the order depends on beside the streams."""
        return {"weights": self.weights, "until": self.until}

    @property
    def is_one_to_one(self) -> bool:
        """Not known of each stream how far it is, by the number of batches."""
        return False

    def __repr__(self) -> str:
        return f"<Mixture of {len(self.streams)} streams: {', '.join(map(repr, self.streams))}>"
