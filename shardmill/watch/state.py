"""What a watcher remembers between two looks, and where.

The state is one compressed JSON file below `<root>/<dataset>/_shardmill/sensor/`, written anew, under a new name, by
each look that has something to remember. The cursor is the name of the file. Whoever keeps the cursor decides which
state counts: a look that dies before its cursor is kept has changed nothing.
"""

from __future__ import annotations

import gzip
import json
import re
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from shardmill.errors import CorruptionError
from shardmill.shards.layout import SIDE
from shardmill.sources import content_digest
from shardmill.storage import Storage, join_uri, relative_to

_FORMAT = 2
_NAME = re.compile(r"[0-9]{8,}-[0-9a-f]{8}\.json\.gz")


@dataclass
class Tally:
    """What has been counted of a partition so far, in a listing that is under way."""

    key: str
    content: int = 0
    """Sum of `content_of` over the objects."""
    objects: int = 0
    bytes: int = 0
    newest: float = 0.0
    """The latest modification, in seconds since the epoch."""
    marked: float | None = None
    """When the marker was written, in seconds since the epoch; None where it was not among the objects."""


@dataclass
class Walk:
    """A listing that may take several looks."""

    after: str | None = None
    """URI of the last object that was listed."""
    tally: Tally | None = None
    """Of the partition in which that object is."""
    ended: bool = False
    """Whether everything was listed."""


@dataclass
class Seen:
    """A partition as it was last listed."""

    content: str
    objects: int
    bytes: int
    newest: float
    """The latest modification, in seconds since the epoch."""
    since: float
    """When it was first seen to be another than before; 0 for one that was there when the watcher began."""
    marked: float | None
    """When its marker was written; None where there is none."""
    look: int
    """Number of the look that first saw this content: one more than that of the state before."""
    settled: str = ""
    """The content that is committed or asked for. Nothing is to be done while it is what was listed."""


@dataclass
class Waiting:
    """A new object that is in no batch yet."""

    size: int
    version: str
    modified: float
    seen: float
    """When it was first listed, in seconds since the epoch."""
    round: int
    """The last round in which it was listed."""


@dataclass
class State:
    """All that a watcher remembers."""

    declared: str = ""
    """Digest of the source and of the partitions as they were declared."""
    seen: dict[str, Seen] = field(default_factory=dict)
    hot: list[str] = field(default_factory=list)
    """Partitions to list before all others."""
    hot_walk: Walk | None = None
    """Of the first of them."""
    walk: Walk | None = None
    """The listing of the whole source, if one is under way."""
    listed: dict[str, None] = field(default_factory=dict)
    """Partitions that it has come by, each once."""
    reconciling: bool = False
    """Whether it is to compare everything with what is committed."""
    round: int = 0
    """Counts these listings, as far as a new object waits for its batch."""
    tallies: dict[str, Tally] = field(default_factory=dict)
    """Of the batches, whose objects are not listed together."""
    batches: int = 0
    """How many batches there were when the listing began."""
    waiting: dict[str, Waiting] = field(default_factory=dict)
    """New objects by URI, fewer than make a batch."""
    receipts: list[str] = field(default_factory=list)
    """Of notifications that have been taken into this state, and may be forgotten by their queue."""

    def forget_the_future(self, now: float) -> None:
        """Take moments that are still to come for `now`: a clock was ahead, and nothing waits for it to be right."""
        for seen in self.seen.values():
            seen.newest, seen.since = min(seen.newest, now), min(seen.since, now)
        for item in self.waiting.values():
            item.modified, item.seen = min(item.modified, now), min(item.seen, now)

    def to_bytes(self) -> bytes:
        """Compressed JSON."""
        plain = {"format": _FORMAT, **asdict(self)}
        plain["seen"] = {key: list(asdict(item).values()) for key, item in self.seen.items()}
        plain["listed"] = list(self.listed)
        return gzip.compress(json.dumps(plain, separators=(",", ":")).encode(), 1, mtime=0)

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """The state again.

        Raises:
            CorruptionError: The bytes are anything else.
        """
        try:
            plain: dict[str, Any] = json.loads(gzip.decompress(data))
            if plain.pop("format") != _FORMAT:
                raise CorruptionError("the sensor's state is of another version")
            plain["seen"] = {key: Seen(*fields) for key, fields in plain["seen"].items()}
            plain["listed"] = dict.fromkeys(plain["listed"])
            plain["tallies"] = {key: Tally(**fields) for key, fields in plain["tallies"].items()}
            plain["waiting"] = {uri: Waiting(**fields) for uri, fields in plain["waiting"].items()}
            for name in ("walk", "hot_walk"):
                plain[name] = _walk(plain[name])
            return cls(**plain)
        except (ValueError, TypeError, KeyError, AttributeError, OSError, EOFError, zlib.error) as error:
            raise CorruptionError(f"the sensor's state cannot be read: {type(error).__name__}") from error


def _walk(plain: Mapping[str, Any] | None) -> Walk | None:
    if plain is None:
        return None
    return Walk(plain["after"], Tally(**plain["tally"]) if plain["tally"] else None)


@dataclass(frozen=True)
class Cursor:
    """Which state counts. Less than 200 characters, whatever the source holds."""

    state: str
    """Name of the state's file."""
    reconciled: float
    """When everything was last compared with what is committed, in seconds since the epoch."""

    @property
    def number(self) -> int:
        """Counts the states."""
        return int(self.state.partition("-")[0])

    def __str__(self) -> str:
        return json.dumps({"format": _FORMAT, **asdict(self)})

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor again.

        Raises:
            CorruptionError: The text is anything else.
        """
        try:
            plain = json.loads(text)
            if plain.pop("format") != _FORMAT:
                raise CorruptionError("the cursor is of another version")
            state, reconciled = plain["state"], float(plain["reconciled"])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise CorruptionError("the cursor cannot be read") from error
        if not isinstance(state, str) or not _NAME.fullmatch(state):
            raise CorruptionError("the cursor cannot be read")
        return cls(state, reconciled)


def load_state(storage: Storage, home: str, cursor: Cursor) -> State:
    """The state that the cursor points to.

    Raises:
        CorruptionError: It is not there or not whole.
    """
    try:
        return State.from_bytes(storage.read(join_uri(_folder(home), cursor.state)))
    except FileNotFoundError:
        raise CorruptionError(f"the sensor's state {cursor.state} is gone") from None


def next_number(storage: Storage, home: str) -> int:
    """A number that no stored state has, for a watcher that has lost its cursor."""
    numbers = (Cursor(name, 0.0).number for name in _stored(storage, home))
    return max(numbers, default=0) + 1


def save_state(storage: Storage, home: str, state: State, number: int, before: Cursor | None) -> str:
    """Store a state beside the one `before` and return its name. Those that came before that are removed.

    What came after it is left alone: a look that took too long, or somebody who tries the sensor out, may work from a
    cursor that is not the last.
    """
    name = f"{number:08}-{uuid.uuid4().hex[:8]}.json.gz"
    for other in _stored(storage, home) if before else ():
        if before and other != before.state and Cursor(other, 0.0).number <= before.number:
            storage.delete(join_uri(_folder(home), other))
    storage.replace(join_uri(_folder(home), name), state.to_bytes(), expected=None)
    return name


def _stored(storage: Storage, home: str) -> list[str]:
    """The names of the states that are there."""
    names = (relative_to(_folder(home), info.uri) for info in storage.list(_folder(home)))
    return [name for name in names if _NAME.fullmatch(name)]


def _folder(home: str) -> str:
    return join_uri(home, f"{SIDE}/sensor")


NOTHING = content_digest(0)
"""The content of a partition without objects."""
