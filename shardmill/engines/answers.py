"""Answers of a run's workers to its caller, by small files beside the shards: for runners that have no other way back.

<side of the partition>/runs/<run>.open                stands while somebody waits for the run
<side of the partition>/runs/<run>-000000-….json       an answer: a shard is made, or it failed
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.engines.making import EntryOfSeveral
from shardmill.errors import ConflictError, EngineError, SupersededError
from shardmill.shards.commit import ShardEntry
from shardmill.shards.layout import RUNS, Layout
from shardmill.storage import ObjectInfo, Storage, join_uri

_ERRORS: dict[str, type[ConflictError]] = {each.__name__: each for each in (ConflictError, SupersededError)}
"""Those of a shard that tell the caller to plan again. Any other is an `EngineError`."""


class Answer(BaseModel):
    """What became of a shard: its entry, or an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    shard: str
    entry: EntryOfSeveral | ShardEntry | None = None
    error: str = ""
    kind: str = ""
    """Class of the error."""
    final: bool = False
    """Whether trying again cannot help."""

    @classmethod
    def of_error(cls, shard: str, error: EngineError | ConflictError) -> Answer:
        """The answer that a shard failed."""
        return cls(shard=shard, error=str(error), kind=type(error).__name__, final=error.final)

    @property
    def is_conflict(self) -> bool:
        """Whether another run was first: the caller plans again."""
        return self.kind in _ERRORS

    @property
    def raised(self) -> EngineError | ConflictError:
        """The error, as it was raised."""
        known = _ERRORS.get(self.kind)
        return known(self.error) if known else EngineError(self.error, self.final)


@dataclass(frozen=True)
class Answers:
    """The answers to one run. Picklable: the caller opens and closes it, workers look whether it is open."""

    storage: Storage
    folder: str
    run: str

    @classmethod
    def beside(cls, storage: Storage, layout: Layout) -> Answers:
        """Those of a new run, for the shards of a partition."""
        return cls(storage, layout.beside(RUNS.rstrip("/")), uuid.uuid4().hex)

    def open(self) -> None:
        """From now on answers are wanted."""
        self.storage.replace(self._open, b"{}", None)

    @property
    def is_open(self) -> bool:
        """Whether answers are wanted still."""
        return self.storage.stat(self._open) is not None

    def leave(self, answer: Answer) -> None:
        """Leave an answer. One shard may have several: a runner may run it again."""
        name = f"{self.run}-{answer.shard}-{uuid.uuid4().hex}.json"
        self.storage.replace(join_uri(self.folder, name), answer.model_dump_json().encode(), None)

    def take(self) -> Iterator[Answer]:
        """The answers that came since it was last asked."""
        yield from bounded_map(self._take, list(self._left), REQUESTS_AT_ONCE)

    def close(self) -> None:
        """Nobody waits any more: workers stop at what they do."""
        self.storage.delete(self._open)

    def remove(self) -> None:
        """Delete what is there. What a worker leaves later still is for `gc`."""
        for info in list(self._left):
            self.storage.delete(info.uri)

    @property
    def _left(self) -> Iterator[ObjectInfo]:
        begin = join_uri(self.folder, f"{self.run}-")
        return (info for info in self.storage.list(self.folder) if info.uri.startswith(begin))

    def _take(self, info: ObjectInfo) -> Answer:
        found = Answer.model_validate_json(self.storage.read(info.uri))
        self.storage.delete(info.uri)
        return found

    @property
    def _open(self) -> str:
        return join_uri(self.folder, f"{self.run}.open")
