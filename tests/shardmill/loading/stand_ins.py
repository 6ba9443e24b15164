"""Shards that are lists, and what is made of their samples, for tests of order and of loops."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shardmill.errors import CorruptionError, Rejected
from shardmill.loading.sources import Source
from shardmill.loading.stream import ShardStream
from shardmill.samples import EncodedSample


@dataclass(frozen=True)
class ListShard:
    """`samples` samples, whose text is their key; `opened` remembers which numbers were read."""

    url: str
    samples: int
    damaged: frozenset[int] = frozenset()
    opened: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        return 1000 * self.samples

    def read(self, numbers: Sequence[range]) -> Iterator[tuple[int, EncodedSample | CorruptionError]]:
        for some in numbers:
            for number in some:
                self.opened.append(number)
                key = f"{self.url}/{number}"
                if number in self.damaged:
                    yield number, CorruptionError(f"{key} is damaged")
                else:
                    yield number, EncodedSample(key, {"txt": key.encode()})


@dataclass(frozen=True)
class Spelled:
    """Makes a dict of a sample: of some several or none, and rejects some."""

    children: Mapping[str, int] = field(default_factory=dict)
    rejected: frozenset[str] = frozenset()
    decode = False
    transform = None
    at_once = 1

    def __call__(
        self, sample: EncodedSample, cells: Mapping[str, Any], epoch: int, url: str = ""
    ) -> list[dict[str, Any]]:
        if sample.key in self.rejected:
            raise Rejected("broken image", "the letters are smudged")
        count = self.children.get(sample.key, 1)
        names = [sample.key] if count == 1 else [f"{sample.key}~{number}" for number in range(count)]
        return [{"__key__": name, "__url__": url, "epoch": epoch} for name in names]


class Several(Spelled):
    """As `Spelled`, of which it is known that not each sample gives one."""

    transform = type("Custom", (), {"has_custom": True})()


def shards(*sizes: int) -> list[ListShard]:
    return [ListShard(f"{number}", size) for number, size in enumerate(sizes)]


def stream(*sizes: int, prepare: Any = None, **order: Any) -> ShardStream:
    """A stream over shards of these sizes; keys are `shard/number`."""
    return ShardStream.of(Source(shards(*sizes), f"of {sizes}"), prepare or Spelled(), **order)


def keys(*sizes: int) -> list[str]:
    """Those of all samples, in order."""
    return [f"{shard}/{number}" for shard, size in enumerate(sizes) for number in range(size)]


def handed_out(batches: Any) -> list[str]:
    """The keys in some batches, in order."""
    return [key for batch in batches for key in batch["__key__"]]
