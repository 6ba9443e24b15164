"""What becomes of files that the commit does not name: superseded ones that are kept for a time, and orphans."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.shards.commit import Commit, read_commit
from shardmill.shards.layout import Layout, index_beside, is_data_name, is_shard_file
from shardmill.shards.standing import Listing, list_files
from shardmill.storage import ObjectInfo, Storage

_KEPT = "superseded/"


def kept_commit_name(digest: str) -> str:
    """Of a superseded commit that is kept."""
    return f"{digest[:16]}.json"


def expire(
    storage: Storage, layout: Layout, commit: Commit, side: Mapping[str, ObjectInfo], keep_seconds: float
) -> None:
    """Remove what was superseded more than `keep_seconds` ago, with the indexes and pictures that belong to it."""
    old = [name for name in side if name.startswith(_KEPT) and _is_older(side[name], keep_seconds)]
    stems = {index_beside(name.removeprefix(_KEPT)) for name in old if is_data_name(name.removeprefix(_KEPT))}
    beside = [n for n in side if is_shard_file(n) and index_beside(n) in stems and n not in commit.files]
    for _ in bounded_map(storage.delete, [layout.beside(name) for name in (*beside, *old)], REQUESTS_AT_ONCE):
        pass


def remove_orphans(
    storage: Storage, layout: Layout, grace_seconds: float, keep_seconds: float = 0.0, dry_run: bool = False
) -> Iterator[ObjectInfo]:
    """Delete the files that the commit does not name and that are older than the grace time; yields each.

    A run that is at work publishes shards before it commits them: the grace time has to be longer than any run; one
    that resumes makes again what it finds gone. Files that are kept go `keep_seconds` after they were superseded.
    `index.json` is read after the listing, and again whenever it changed meanwhile. Raises CorruptionError for one
    that cannot be read: any of the files may be named by it.
    """
    with nullcontext() if dry_run else storage.exclusive(layout.side):
        files = list_files(storage, layout)
        commit, version = read_commit(storage, layout)
        old = [info for info in _may_go(files, keep_seconds) if _is_older(info, grace_seconds)]
        for info in [info for info in old if not _is_named(info, commit, files)]:
            present = storage.stat(layout.commit)
            if (present.version if present else None) != version:
                commit, version = read_commit(storage, layout)
            if _is_named(info, commit, files):
                continue
            if not dry_run:
                storage.delete(info.uri)
            yield info


def _may_go(files: Listing, keep_seconds: float) -> Iterator[ObjectInfo]:
    """Every file that the commit alone saves: neither those that are kept, nor those of other kinds."""
    kept = {
        index_beside(name.removeprefix(_KEPT))
        for name, info in files.side.items()
        if is_data_name(name.removeprefix(_KEPT)) and not _is_older(info, keep_seconds)
    }
    yield from (info for name, info in files.data.items() if is_data_name(name))
    for name, info in files.side.items():
        if name.startswith(_KEPT):
            if _is_older(info, keep_seconds):
                yield info
        elif name.startswith("staged/") or (is_shard_file(name) and index_beside(name) not in kept):
            yield info


def _is_named(info: ObjectInfo, commit: Commit | None, files: Listing) -> bool:
    """Whether the commit names the file, and it is not one that still waits to be moved where it stands already."""
    name = info.uri.rpartition("/")[2]
    waits = info.uri.endswith((f"/staged/{name}", f"/{_KEPT}{name}"))
    return commit is not None and name in commit.files and not (waits and name in files.data)


def _is_older(info: ObjectInfo, seconds: float) -> bool:
    return time.time() - info.modified > seconds
