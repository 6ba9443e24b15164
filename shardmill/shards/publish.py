"""Publishing a shard: its data wait in the side tree, and its index, created once, says which bytes are the shard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shardmill.errors import ConflictError, CorruptionError
from shardmill.shards.commit import ShardEntry
from shardmill.shards.fingerprint import file_sha256, fingerprint
from shardmill.shards.index import IndexWriter, Owner, read_owner, read_report
from shardmill.shards.layout import Layout, Suffix, data_name, index_name, picture_name
from shardmill.shards.report import ShardReport
from shardmill.storage import Storage


@dataclass(frozen=True)
class MadeShard:
    """A finished shard, in a scratch directory."""

    id: str
    start: str
    """Where its range of positions begins; `Commit.position` says what they are."""
    fingerprint: str
    """Of what it was planned from."""
    suffix: Suffix
    report: ShardReport
    index: IndexWriter
    data: Path | None
    """None if no sample was left."""
    picture: Path | None = None

    @property
    def published_fingerprint(self) -> str:
        """It differs from the planned one where a reject may pass, so that nobody takes the shard for finished."""
        passing = [(reject.key, reject.reason, reject.source_uri) for reject in self.report.may_pass]
        return fingerprint(planned=self.fingerprint, may_pass=passing) if passing else self.fingerprint


def publish_shard(storage: Storage, layout: Layout, made: MadeShard, scratch: Path) -> ShardEntry:
    """Publish a shard for a commit to come, and return its entry. `scratch` is a directory for its index.

    The first index of a fingerprint decides: a run that comes later, perhaps with other bytes (vectors of another
    processor), adopts the shard that it names. If this is killed at any moment, it leaves a whole shard, or files that
    no index names.
    """
    digest = made.published_fingerprint
    owner = Owner(
        shard=made.id,
        start=made.start,
        fingerprint=digest,
        data=made.data and data_name(made.id, digest, made.report.sha256, made.suffix),
        picture=made.picture and picture_name(made.id, digest, file_sha256(made.picture)),
    )
    file = scratch / "index.parquet"
    made.index.write(file, made.report, owner)
    index = file.read_bytes()
    if made.data is not None and owner.data is not None:
        storage.publish(made.data, layout.staged(owner.data))
    if made.picture is not None and owner.picture is not None:
        storage.publish(made.picture, layout.beside(owner.picture))
    mine = ShardEntry.of(owner, made.report, index, layout)
    uri, expected = layout.beside(index_name(made.id, digest)), None
    while True:
        try:
            storage.replace(uri, index, expected)
        except ConflictError:
            try:
                theirs, expected = read_entry(storage, layout, made.id, digest)
            except FileNotFoundError:
                expected = None
                continue
            if theirs is None or not _data_stand(storage, layout, theirs):
                continue  # damaged, or an index without data: this one takes its place
            return mine if theirs.index_sha256 == mine.index_sha256 else theirs
        return mine


def read_entry(storage: Storage, layout: Layout, shard: str, digest: str) -> tuple[ShardEntry | None, str]:
    """The entry of a shard from its own index, and the index's version; no entry if that is damaged or another's.

    Raises:
        FileNotFoundError: There is no index.
    """
    uri = layout.beside(index_name(shard, digest))
    data, info = storage.read_version(uri)
    try:
        owner, report = read_owner(data, uri), read_report(data, uri)
    except CorruptionError:
        return None, info.version
    whose = owner.shard == shard and owner.fingerprint == digest
    entry = ShardEntry.of(owner, report, data, layout) if whose else None
    return entry, info.version


def published_entry(storage: Storage, layout: Layout, shard: str, digest: str) -> ShardEntry | None:
    """The entry of a shard that stands, its data too; else None."""
    try:
        entry, _ = read_entry(storage, layout, shard, digest)
    except FileNotFoundError:
        return None
    return entry if entry is not None and _data_stand(storage, layout, entry) else None


def _data_stand(storage: Storage, layout: Layout, entry: ShardEntry) -> bool:
    """Whether the data file stands, waiting or committed. One whose name holds its digest needs no other look."""
    if entry.data is None:
        return True
    places = (layout.staged(entry.data), layout.data(entry.data), layout.superseded(entry.data))
    for uri in (*places, *places):  # twice: it may be moved from one to the other between two looks
        info = storage.stat(uri)
        if info is not None and info.size == entry.filesize:
            return True
    return False
