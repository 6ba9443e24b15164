"""What a watcher remembers between two looks, and where.

The state is a compressed JSON file below `<root>/<dataset>/_shardmill/sensor/`, written anew, under a new name, by each
look that has something to remember. What was seen of the partitions is in files of their own beside it, so many
partitions in each, of which a look writes those anew that changed; the state names them. The cursor is the name of the
state's file. Whoever keeps the cursor decides which state counts: a look that dies before its cursor is kept has
changed nothing.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.shards.layout import SIDE
from shardmill.sources import content_digest
from shardmill.storage import Storage, join_uri, relative_to
from shardmill.watch.seen import FORMAT, LostStateError, Part, SeenPartitions, packed, unpacked

_NAME = re.compile(r"[0-9]{8,}-[0-9a-f]{8}\.json\.gz")
_PART_NAME = re.compile(r"[0-9]{8,}-[0-9a-f]{8}\.part\.json\.gz")


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
    seen: SeenPartitions = field(default_factory=SeenPartitions)
    hot: list[str] = field(default_factory=list)
    """Partitions to list before all others."""
    hot_walk: Walk | None = None
    """Of the first of them."""
    walk: Walk | None = None
    """The listing of the whole source, if one is under way."""
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
        self.seen.forget_the_future(now)
        for item in self.waiting.values():
            item.modified, item.seen = min(item.modified, now), min(item.seen, now)

    def to_bytes(self) -> bytes:
        """All but the partitions: of these the names of the files."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("walk", "hot_walk"):
            plain[name] = plain[name] and asdict(plain[name])
        for name in ("tallies", "waiting"):
            plain[name] = {key: vars(item) for key, item in plain[name].items()}
        plain["seen"] = [part.row for part in self.seen.parts]
        return packed(plain)

    @classmethod
    def from_bytes(cls, data: bytes, read: Callable[[str], bytes]) -> State:
        """The state again; `read` gives the file of a part, by its name.

        Raises:
            LostStateError: The bytes are anything else.
        """

        def made(plain: dict[str, Any]) -> State:
            plain["seen"] = SeenPartitions([Part(*row) for row in plain["seen"]], read)
            plain["tallies"] = {key: Tally(**item) for key, item in plain["tallies"].items()}
            plain["waiting"] = {uri: Waiting(**item) for uri, item in plain["waiting"].items()}
            for name in ("walk", "hot_walk"):
                plain[name] = _walk(plain[name])
            return cls(**plain)

        return unpacked(data, made)


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
        return _number(self.state)

    def __str__(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor again.

        Raises:
            LostStateError: The text is anything else.
        """
        try:
            plain = json.loads(text)
            if plain.pop("format") != FORMAT:
                raise LostStateError("the cursor is of another version")
            state, reconciled = plain["state"], float(plain["reconciled"])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise LostStateError("the cursor cannot be read") from error
        if not isinstance(state, str) or not _NAME.fullmatch(state):
            raise LostStateError("the cursor cannot be read")
        return cls(state, reconciled)


def load_state(storage: Storage, home: str, cursor: Cursor) -> State:
    """The state that the cursor points to.

    Raises:
        LostStateError: It is not there or not whole.
    """
    read = partial(_read, storage, home)
    return State.from_bytes(read(cursor.state), read)


def next_number(storage: Storage, home: str) -> int:
    """A number that no stored state has, for a watcher that has lost its cursor."""
    return max(map(_number, _stored(storage, home)), default=0) + 1


def save_state(storage: Storage, home: str, state: State, number: int, before: Cursor | None) -> str:
    """Store a state beside the one `before` and return its name. What came before that is removed.

    What came after it is left alone: a look that took too long, or somebody who tries the sensor out, may work from a
    cursor that is not the last.
    """
    earlier = _earlier(storage, home, state, before) if before else []
    parts = state.seen.cut()
    for part, _ in parts:
        part.name = _new_name(number, "part.json.gz")
    name = _new_name(number, "json.gz")

    def put(file: tuple[str, bytes]) -> None:
        storage.replace(join_uri(_folder(home), file[0]), file[1], expected=None)

    for _ in bounded_map(put, [(part.name, data) for part, data in parts], REQUESTS_AT_ONCE):
        pass
    put((name, state.to_bytes()))
    for _ in bounded_map(lambda each: storage.delete(join_uri(_folder(home), each)), earlier, REQUESTS_AT_ONCE):
        pass
    return name


def _earlier(storage: Storage, home: str, state: State, before: Cursor) -> list[str]:
    """Files that are older than the state `before`, of which `state` was made, and that no state needs."""
    there = _stored(storage, home)
    needed = {before.state, *(part.name for part in state.seen.parts)}
    for name in there:
        if _NAME.fullmatch(name) and _number(name) > before.number:
            with suppress(LostStateError):
                needed |= {part.name for part in load_state(storage, home, Cursor(name, 0.0)).seen.parts}
    return [name for name in there if _number(name) <= before.number and name not in needed]


def _read(storage: Storage, home: str, name: str) -> bytes:
    try:
        return storage.read(join_uri(_folder(home), name))
    except FileNotFoundError:
        raise LostStateError(f"the sensor's state {name} is gone") from None


def _stored(storage: Storage, home: str) -> list[str]:
    """The names of the files that are there."""
    names = (relative_to(_folder(home), info.uri) for info in storage.list(_folder(home)))
    return [name for name in names if _NAME.fullmatch(name) or _PART_NAME.fullmatch(name)]


def _new_name(number: int, suffix: str) -> str:
    return f"{number:08}-{uuid.uuid4().hex[:8]}.{suffix}"


def _number(name: str) -> int:
    return int(name.partition("-")[0])


def _folder(home: str) -> str:
    return join_uri(home, f"{SIDE}/sensor")


NOTHING = content_digest(0)
"""The content of a partition without objects."""
