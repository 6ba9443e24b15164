"""Scrubbing: committed shards are read again and compared, some of them at a time, each in its turn."""

from __future__ import annotations

import contextlib
import json

from shardmill.errors import ConflictError
from shardmill.shards.reader import ShardSet
from shardmill.shards.stored import StoredShard

ROUNDS = 10
"""Damage to a committed shard is found within so many scrubs of its partition."""


def due_for_scrub(shards: ShardSet) -> list[StoredShard]:
    """The shards whose turn it is: those never read, and a tenth of the others, those read longest ago first."""
    order, _ = _read(shards)
    turn = {name: place for place, name in enumerate(order)}
    seen = sorted((shard for shard in shards.shards if shard.file_name in turn), key=lambda s: turn[s.file_name])
    new = [shard for shard in shards.shards if shard.file_name not in turn]
    return new + seen[: -(-len(seen) // ROUNDS)]


def mark_as_sound(shards: ShardSet, sound: list[StoredShard]) -> None:
    """Remember that these were found sound, last of all. A shard that was not found sound stays due."""
    order, version = _read(shards)
    names = [shard.file_name for shard in sound]
    committed = {shard.file_name for shard in shards.shards}
    left = [name for name in order if name in committed and name not in names]
    with contextlib.suppress(ConflictError):  # another scrub at the same time
        shards.storage.replace(_uri(shards), json.dumps([*left, *names]).encode(), version)


def _read(shards: ShardSet) -> tuple[list[str], str | None]:
    """Names of data files, in the order in which they were read last."""
    try:
        data, info = shards.storage.read_version(_uri(shards))
    except FileNotFoundError:
        return [], None
    try:
        names = json.loads(data)
        return [str(name) for name in names], info.version
    except (ValueError, TypeError):
        return [], info.version


def _uri(shards: ShardSet) -> str:
    return shards.layout.beside("scrubbed.json")
