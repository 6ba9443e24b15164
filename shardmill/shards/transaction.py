"""Committing a partition: what waits is moved in, `index.json` is replaced, what is superseded goes.

On a store with locks the three are one section. Elsewhere the precondition on `index.json` decides between runs, nobody
removes what he does not know to be superseded, and who has committed looks again at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections.abc import Iterable, Iterator

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import ConflictError
from shardmill.shards.commit import Commit, ShardEntry, read_commit
from shardmill.shards.index import read_report
from shardmill.shards.layout import Layout, is_data_name
from shardmill.shards.report import Reject
from shardmill.shards.retention import expire, kept_commit_name
from shardmill.shards.standing import Listing, list_files
from shardmill.storage import Storage

_UNCLAIMED_SECONDS = 3600.0
"""Nobody takes so long between moving data in and committing them."""


def publish_commit(
    storage: Storage,
    layout: Layout,
    commit: Commit,
    previous: Commit | None,
    expected: str | None,
    keep_seconds: float = 0.0,
) -> Commit | None:
    """Make `commit` the state of the partition, and remove what it supersedes, or keep that for a time.

    `previous` is the commit at version `expected`; if the new one says the same, `index.json` is left untouched.
    Returns it as it stands; None if a file that it names is not there, so that its shard has to be made again. Raises
    ConflictError if `index.json` is no longer at version `expected`: nothing is changed then.
    """
    locked = storage.excludes(layout.side)
    with storage.exclusive(layout.side):
        # First of all, so that nobody moves data in for a commit that is lost already.
        present = storage.stat(layout.commit)
        if (present.version if present else None) != expected:
            _settle_rejects(storage, layout)  # in the place of a run that died before it did
            raise ConflictError(f"another run committed {commit.name} while this one was at work; its result stands")
        files = list_files(storage, layout)
        if not all(files.has(entry) for entry in commit.shards):
            return None
        waiting = [entry for entry in commit.shards if entry.data and not _is_in_place(storage, layout, entry, files)]
        if not _move_in(storage, layout, waiting, files):
            return None
        same = previous is not None and commit.says_the_same_as(previous)
        gone = _superseded(commit, previous, files, locked, keep_seconds)
        version, table = expected, None
        if same and previous is not None:
            commit = previous
            # Whoever committed may be removing them himself.
            gone = gone if locked or _is_old(files, "index.json") else []
        else:
            try:
                table = _table(rejects_of(storage, layout, commit.shards))
            except FileNotFoundError:  # removed since it was listed
                return None
            digest = hashlib.sha256(table).hexdigest()
            commit = commit.model_copy(update={"superseded": gone, "rejects_sha256": digest})
            if previous is not None and keep_seconds:
                _keep_commit(storage, layout, previous)
            try:
                version = storage.replace(layout.commit, commit.to_json(), expected)
            except ConflictError:
                _withdraw(storage, layout, waiting)
                _settle_rejects(storage, layout)
                raise
        if not same or _may_be_behind(files):
            _settle_rejects(storage, layout, table)
        left = [f"staged/{name}" for name in commit.files if f"staged/{name}" in files.side and name in files.data]
        _retire(storage, layout, gone, left, version, keep_seconds)
        expire(storage, layout, commit, files.side, keep_seconds)
    if locked or same:
        return commit
    present = storage.stat(layout.commit)
    if present is None or present.version != version:
        return commit  # superseded already
    files = list_files(storage, layout)
    whole = all(files.has(entry) and (entry.data is None or entry.data in files.data) for entry in commit.shards)
    return commit if whole else None


def _may_be_behind(files: Listing) -> bool:
    """Whether the table of rejects may be older than the commit: a run may have died between the two."""
    table, commit = files.side.get("rejects.parquet"), files.side.get("index.json")
    return table is None or commit is None or table.modified <= commit.modified


def _is_in_place(storage: Storage, layout: Layout, entry: ShardEntry, files: Listing) -> bool:
    """Whether a shard's data are among the data. Where they wait as well, they were made again, and it is read why."""
    name = entry.data or ""
    if name not in files.data or files.data[name].size != entry.filesize:
        return False
    if f"staged/{name}" not in files.side:
        return True
    digest = hashlib.sha256()
    with contextlib.suppress(FileNotFoundError):
        stream, _ = storage.open(layout.data(name))
        with stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest() == entry.sha256


def _move_in(storage: Storage, layout: Layout, entries: Iterable[ShardEntry], files: Listing) -> bool:
    """Move data that wait, or that were kept, among the data. False if one has vanished."""

    def move(entry: ShardEntry) -> bool:
        name = entry.data or ""
        place = files.elsewhere(name) or f"staged/{name}"
        try:
            storage.move(layout.beside(place), layout.data(name))
        except FileNotFoundError:  # a run that commits the same was faster
            info = storage.stat(layout.data(name))
            return info is not None and info.size == entry.filesize
        return True

    return all(list(bounded_map(move, entries, REQUESTS_AT_ONCE)))


def _withdraw(storage: Storage, layout: Layout, entries: Iterable[ShardEntry]) -> None:
    """Move data back that were moved in for a commit that is lost, but for those that the winner names too.

    A third run that is about to name one looks again after its commit, and moves it in.
    """
    now, _ = read_commit(storage, layout)
    for name in (entry.data or "" for entry in entries):
        if now is None or name not in now.files:
            with contextlib.suppress(FileNotFoundError):
                storage.move(layout.data(name), layout.staged(name))


def _superseded(
    commit: Commit,
    previous: Commit | None,
    files: Listing,
    locked: bool,
    keep_seconds: float,
) -> list[str]:
    """Names of the files that are to go: those that commits before named, and data of which nobody knows."""
    known = {*previous.files, *previous.superseded} if previous else set()
    unclaimed = {
        name for name, info in files.data.items() if is_data_name(name) and (locked or _age(info.modified) > 0)
    }
    candidates = (known | unclaimed) - commit.files
    # The index and the picture of data that are kept stay where they are.
    return sorted(n for n in candidates if n in files.data or (n in files.side and not keep_seconds))


def _age(modified: float) -> float:
    """Seconds for which a file has been too old to be of a run that commits."""
    return time.time() - modified - _UNCLAIMED_SECONDS


def _is_old(files: Listing, name: str) -> bool:
    return name in files.side and _age(files.side[name].modified) > 0


def _keep_commit(storage: Storage, layout: Layout, commit: Commit) -> None:
    with contextlib.suppress(ConflictError):  # kept already: it was the state before
        storage.replace(layout.superseded(kept_commit_name(commit.digest)), commit.to_json(), None)


def _retire(
    storage: Storage, layout: Layout, gone: Iterable[str], left: Iterable[str], version: str | None, keep: float
) -> None:
    """Remove superseded files, or move the data of them aside; of a shard the index first, that names the others.

    Where nobody can be kept out, only while `index.json` is at `version`: a later commit may name one of them again.
    """

    def remove(uri: str) -> None:
        name = uri.rpartition("/")[2]
        if keep and uri == layout.data(name):
            with contextlib.suppress(FileNotFoundError):
                storage.move(uri, layout.superseded(name))
        else:
            storage.delete(uri)

    ordered = sorted(gone, key=lambda name: (is_data_name(name), name))
    uris = [layout.data(name) if is_data_name(name) else layout.beside(name) for name in ordered]
    uris += [layout.beside(name) for name in left]
    for start in range(0, len(uris), REQUESTS_AT_ONCE):
        if not storage.excludes(layout.side):
            now = storage.stat(layout.commit)
            if now is None or now.version != version:
                return
        for _ in bounded_map(remove, uris[start : start + REQUESTS_AT_ONCE], REQUESTS_AT_ONCE):
            pass


def rejects_of(storage: Storage, layout: Layout, entries: Iterable[ShardEntry]) -> Iterator[Reject]:
    """The rejects in the reports of these shards, in order. Raises FileNotFoundError, CorruptionError."""

    def read(entry: ShardEntry) -> list[Reject]:
        uri = layout.beside(entry.index)
        return read_report(storage.read(uri), uri).rejects

    for rejects in bounded_map(read, (entry for entry in entries if entry.rejects), REQUESTS_AT_ONCE):
        yield from rejects


def _settle_rejects(storage: Storage, layout: Layout, table: bytes | None = None) -> None:
    """Make the table of rejects that of the commit that stands now; `table` is one that may be it.

    Whoever has written the table looks at the commit again afterwards, so that of two runs that commit one after the
    other the earlier cannot leave its table beside the commit of the later.
    """
    while True:
        commit, version = read_commit(storage, layout)
        try:
            present, info = storage.read_version(layout.rejects)
            expected: str | None = info.version
        except FileNotFoundError:
            present, expected = b"", None
        if commit is None or hashlib.sha256(present).hexdigest() == commit.rejects_sha256:
            return
        with contextlib.suppress(FileNotFoundError, ConflictError):  # superseded meanwhile, or written by others
            if table is None or hashlib.sha256(table).hexdigest() != commit.rejects_sha256:
                table = _table(rejects_of(storage, layout, commit.shards))
            storage.replace(layout.rejects, table, expected)
            now = storage.stat(layout.commit)
            if now is not None and now.version == version:
                return


def _table(rejects: Iterator[Reject]) -> bytes:
    """The bytes of `rejects.parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(rejects)
    columns = {name: [getattr(reject, name) for reject in rows] for name in Reject.model_fields}
    types = {"may_pass": pa.bool_()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer)
    return buffer.getvalue()
