"""What becomes of files that the commit does not name: superseded ones that are kept for a time, and orphans."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext

from shardmill.shards.commit import Commit, parse_commit, read_commit
from shardmill.shards.layout import RUNS, Layout, index_beside, is_data_name, is_shard_file
from shardmill.shards.standing import Listing, list_files
from shardmill.storage import ObjectInfo, Storage

_KEPT = "superseded/"


def kept_commit_name(digest: str) -> str:
    """Name of a superseded commit that is kept."""
    return f"{digest[:16]}.json"


def keep_commit(storage: Storage, layout: Layout, commit: Commit) -> None:
    """Keep a commit that is about to be superseded; its time begins now, also where it was kept before."""
    uri = layout.superseded(kept_commit_name(commit.digest))
    present = storage.stat(uri)
    storage.replace(uri, commit.to_json(), present.version if present else None)


def expire(storage: Storage, layout: Layout, commit: Commit, files: Listing, keep_seconds: float) -> list[str]:
    """What has been kept for `keep_seconds` or more, by its names in the side folder.

    Those are commits, and the files that they name and no other commit that is kept, nor the one that stands.
    """
    old = [name for name in _kept_commits(files) if is_older(files.side[name], keep_seconds)]
    if not old:
        return []
    spared = commit.files | _named_by(storage, layout, [name for name in _kept_commits(files) if name not in old])
    names = _named_by(storage, layout, old) - spared
    places = [f"{_KEPT}{name}" if is_data_name(name) else name for name in sorted(names)]
    return [name for name in (*places, *old) if name in files.side]


def remove_orphans(
    storage: Storage, layout: Layout, grace_seconds: float, keep_seconds: float = 0.0, dry_run: bool = False
) -> Iterator[ObjectInfo]:
    """Delete the files that no commit names and that are older than the grace time; yields each.

    A run that is at work publishes shards before it commits them: the grace time has to be longer than any run; one
    that resumes makes again what it finds gone. Commits that are kept go `keep_seconds` after they were superseded.
    Without a commit, shards that stand whole among the data are spared: the next run finds them. `index.json` is read
    after the listing, and again whenever it changed meanwhile.

    Raises:
        CorruptionError: `index.json` cannot be read: it may name any of the files.
    """
    with nullcontext() if dry_run else storage.exclusive(layout.side):
        files = list_files(storage, layout)
        commit, version = read_commit(storage, layout)
        young = [name for name in _kept_commits(files) if not is_older(files.side[name], keep_seconds)]
        kept = _named_by(storage, layout, young)
        if commit is None:
            kept |= _found_again(files)
        old = [info for info in _may_go(files, young, kept) if is_older(info, grace_seconds)]
        for info in [info for info in old if not _is_named(info, commit, files)]:
            present = storage.stat(layout.commit)
            if (present.version if present else None) != version:
                commit, version = read_commit(storage, layout)
            if _is_named(info, commit, files):
                continue
            if not dry_run:
                storage.delete(info.uri)
            yield info


def may_be_removed(name: str) -> bool:
    """Whether a file is one that may be an orphan, by its name in the data folder or in the side folder."""
    return is_shard_file(name.rpartition("/")[2]) or name.startswith((_KEPT, RUNS))


def is_older(info: ObjectInfo, seconds: float) -> bool:
    """Whether the file has stood for more than so many seconds."""
    return time.time() - info.modified > seconds


def _kept_commits(files: Listing) -> list[str]:
    return [name for name in files.side if name.startswith(_KEPT) and name.endswith(".json")]


def _named_by(storage: Storage, layout: Layout, commits: list[str]) -> set[str]:
    """Names of all files of kept commits."""
    found: set[str] = set()
    for name in commits:
        try:
            found |= parse_commit(storage.read(layout.beside(name)), layout.beside(name)).files
        except FileNotFoundError:  # expired meanwhile, by another run
            continue
    return found


def _found_again(files: Listing) -> set[str]:
    """Names of what a run finds standing where there is no commit: somebody may have deleted `index.json`."""
    whole = {index_beside(name) for name in files.data if is_data_name(name)} & files.side.keys()
    names = [*files.data, *files.side]
    return {name for name in names if is_shard_file(name) and index_beside(name) in whole}


def _may_go(files: Listing, young: list[str], kept: set[str]) -> Iterator[ObjectInfo]:
    """Every file that the commit alone saves: neither those that are kept, nor those of other kinds.

    Data that are kept may be in another place: a roll-back to them was killed, or failed. One copy of them stays.
    """
    for name, info in files.data.items():
        if is_data_name(name) and (name not in kept or f"{_KEPT}{name}" in files.side):
            yield info
    for name, info in files.side.items():
        plain = name.rpartition("/")[2]
        ours = may_be_removed(name)
        elsewhere = name.startswith("staged/") and (f"{_KEPT}{plain}" in files.side or plain in files.data)
        if ours and name not in young and (plain not in kept or elsewhere):
            yield info


def _is_named(info: ObjectInfo, commit: Commit | None, files: Listing) -> bool:
    """Whether the commit names the file, and it is not one that still waits to be moved where it stands already."""
    name = info.uri.rpartition("/")[2]
    waits = info.uri.endswith((f"/staged/{name}", f"/{_KEPT}{name}"))
    return commit is not None and name in commit.files and not (waits and name in files.data)
