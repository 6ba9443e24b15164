"""The commit of a partition: `index.json`, a WebDataset shard index with fields of our own, replaced as a whole."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import ConflictError, CorruptionError
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.index import read_report
from shardmill.shards.layout import Layout, Suffix
from shardmill.shards.report import Reject, ShardReport
from shardmill.storage import Storage, join_uri, relative_to

DELETES_AT_ONCE = 8


class ShardEntry(BaseModel):
    """One shard of a committed partition. `url`, `nsamples` and `filesize` are WebDataset's names."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    url: str | None
    """Relative to `index.json`; None if no sample was left, so that there is no data file."""
    nsamples: int
    filesize: int
    """Bytes of the data file."""
    id: str
    fingerprint: str
    sha256: str
    """Of the data file; empty if there is none."""
    index: str
    """The shard's index, relative to `index.json`."""
    index_bytes: int
    index_sha256: str
    samples_in: int
    kept: int
    filtered: int
    rejects: int
    bytes_in: int
    seconds: float
    """Time that the stage took to make the shard."""
    runtime: str = ""
    """What computed the shard, where there is a choice and the run that committed it also made it."""
    picture: str | None = None
    """A picture of the shard, relative to `index.json`."""
    summary: dict[str, float | str] = {}
    """Figures of the stage's own, for people."""


class Commit(BaseModel):
    """What `index.json` holds. Shards without samples are listed apart, since readers of `shardlist` expect a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ser_json_inf_nan="strings")

    kind: Literal["wids-shard-index-v1"] = Field("wids-shard-index-v1", alias="__kind__")
    wids_version: Literal[1] = 1
    name: str
    """`<dataset>/<asset>/<partition>`."""
    shardlist: list[ShardEntry]
    emptylist: list[ShardEntry] = []
    stage: str
    stage_version: int
    suffix: Suffix
    parameters: dict[str, Any] = {}
    """What the stage was told; part of every fingerprint."""
    made_from: str = ""
    """Digest of what decided which samples went into which shard, where that is more than the asset before."""
    versions: dict[str, str] = {}
    """Of the software that made it; for the reader, part of no fingerprint."""
    total_samples_in: int = 0
    total_samples: int = 0
    total_bytes: int = 0
    total_filtered: int = 0
    total_rejects: int = 0
    rejects_by_reason: dict[str, int] = {}

    @property
    def shards(self) -> list[ShardEntry]:
        """All shards, those without samples too."""
        return [*self.shardlist, *self.emptylist]

    @property
    def digest(self) -> str:
        """Digest over the names and digests of all shards and their indexes: equal digests, equal data and lineage."""
        return fingerprint(shards=[(e.id, e.fingerprint, e.sha256, e.index_sha256) for e in self.shards])

    def says_the_same_as(self, other: Commit) -> bool:
        """Whether the two differ in nothing but times and versions of software."""
        mine, theirs = ((c.digest, c.name, c.stage_version, c.parameters, c.made_from) for c in (self, other))
        return mine == theirs

    def to_json(self) -> bytes:
        """The bytes of `index.json`."""
        return self.model_dump_json(by_alias=True, indent=1).encode()


def read_commit(storage: Storage, folder: str, suffix: Suffix) -> tuple[Commit | None, str | None]:
    """The commit of the partition in `folder` and its version; (None, None) if none. Raises CorruptionError."""
    uri = join_uri(folder, Layout(suffix).commit)
    try:
        data, info = storage.read_version(uri)
    except FileNotFoundError:
        return None, None
    try:
        return Commit.model_validate_json(data), info.version
    except ValidationError as error:
        raise CorruptionError(
            f"{uri} is damaged, or of another version of Shardmill. Delete it and run again: shards that stand are "
            f"found again. {error.errors()[0]['msg']}"
        ) from error


def publish_commit(
    storage: Storage,
    folder: str,
    commit: Commit,
    rejects: Callable[[], Iterator[Reject]],
    expected: str | None,
    previous: Commit | None = None,
) -> Sequence[str]:
    """Make `commit` the state of the partition and remove every shard file that it does not name.

    `previous` is the commit at version `expected`; if the new one says the same, the index is left untouched.
    Returns the names of shard files that are gone, or an index of a shard that is no longer the one that the commit
    means, because somebody else was at work meanwhile: then nothing was committed, and their shards have to be looked
    for and made again. Raises ConflictError if the index is no longer at version `expected`.
    """
    layout = Layout(commit.suffix)
    lost = ConflictError(
        f"another run committed {commit.name} while this one was at work; its result stands and nothing of this run is "
        "in the index. Run again to bring the partition up to date"
    )
    # One section over look, commit and clean-up: nobody can remove, between our look and our commit, what we name.
    # Scratch space where the index stands: asking for it also sweeps what a killed run left there.
    side = join_uri(folder, layout.side).rstrip("/")
    with storage.exclusive(folder), storage.scratch(folder), storage.scratch(side):
        # First of all, so that nobody makes shards again for a commit that is lost already.
        present = storage.stat(join_uri(folder, layout.commit))
        if (present.version if present else None) != expected:
            raise lost
        standing = {relative_to(folder, info.uri) for info in storage.list(folder)}
        named = {name for entry in commit.shards for name in file_names(entry, layout)}
        if missing := sorted(named - standing):
            return missing
        if not storage.excludes(folder):
            known = {(entry.fingerprint, entry.index_sha256) for entry in previous.shards} if previous else set()
            new = [entry for entry in commit.shards if (entry.fingerprint, entry.index_sha256) not in known]
            if changed := _changed_indexes(storage, folder, new, layout):
                return changed
        table = _table(rejects())
        version = expected
        if previous is None or not commit.says_the_same_as(previous):
            try:
                version = storage.replace(join_uri(folder, layout.commit), commit.to_json(), expected)
            except ConflictError:
                raise lost from None
        _settle_rejects(storage, folder, commit, table)
        superseded = {name for name in standing - named if layout.is_shard_file(name)}
        if not storage.excludes(folder):
            # Another run may have published files for a commit of its own: only what the last commit named is ours to
            # remove. `shardmill gc` finds the rest.
            superseded &= (
                {name for entry in previous.shards for name in file_names(entry, layout)} if previous else set()
            )
        _remove(storage, folder, superseded, layout, version)
    return []


def _changed_indexes(storage: Storage, folder: str, entries: Sequence[ShardEntry], layout: Layout) -> list[str]:
    """Names of shards' indexes that another run has replaced with one that says something else."""

    def digest(entry: ShardEntry) -> str:
        try:
            data = storage.read(join_uri(folder, layout.index(entry.id, entry.fingerprint)))
        except FileNotFoundError:
            return ""
        return hashlib.sha256(data).hexdigest()

    digests = bounded_map(digest, entries, REQUESTS_AT_ONCE)
    return [
        layout.index(entry.id, entry.fingerprint)
        for entry, found in zip(entries, digests, strict=True)
        if found != entry.index_sha256
    ]


def _settle_rejects(storage: Storage, folder: str, commit: Commit, table: bytes) -> None:
    """Make the table of rejects that of the index which stands now: `commit`'s, `table`, or that of a later one.

    Whoever writes the table looks at the index again afterwards, so that of two runs that commit one after the other
    the earlier cannot leave its table beside the index of the later.
    """
    layout = Layout(commit.suffix)
    uri = join_uri(folder, layout.rejects)
    while True:
        try:
            present, info = storage.read_version(uri)
            expected: str | None = info.version
        except FileNotFoundError:
            present, expected = b"", None
        now, _ = read_commit(storage, folder, commit.suffix)
        if now is None:
            return
        if now.digest != commit.digest:
            try:
                table = _table(rejects_of(storage, folder, now.suffix, now.shards))
            except FileNotFoundError:  # superseded meanwhile, by a run that writes the table itself
                return
            commit = now
        if present == table:
            return
        with contextlib.suppress(ConflictError):
            storage.replace(uri, table, expected)


def _remove(storage: Storage, folder: str, names: Iterable[str], layout: Layout, version: str | None) -> None:
    """Remove superseded files, those first without which nobody takes the others for a shard that stands.

    Where the store excludes nobody, only while the index is at `version`: a run that began after our commit may have
    found one of them, and may commit it again. It looks after its commit whether all is there.
    """
    ordered = sorted(names, key=lambda name: (not name.endswith(".index.parquet"), name))
    for start in range(0, len(ordered), DELETES_AT_ONCE):
        if not storage.excludes(folder):
            now = storage.stat(join_uri(folder, layout.commit))
            if now is None or now.version != version:
                return
        uris = [join_uri(folder, name) for name in ordered[start : start + DELETES_AT_ONCE]]
        for _ in bounded_map(storage.delete, uris, DELETES_AT_ONCE):
            pass


def rejects_of(storage: Storage, folder: str, suffix: Suffix, entries: Iterable[ShardEntry]) -> Iterator[Reject]:
    """The rejects in the reports of these shards. Raises FileNotFoundError, CorruptionError."""
    layout = Layout(suffix)
    for entry in entries:
        if entry.rejects:
            uri = join_uri(folder, layout.index(entry.id, entry.fingerprint))
            yield from read_report(storage.read(uri), uri).rejects


def file_names(entry: ShardEntry, layout: Layout) -> list[str]:
    """The files of a shard, relative to the partition's folder."""
    data = [layout.data(entry.id, entry.fingerprint)] if entry.url is not None else []
    picture = [layout.picture(entry.id, entry.fingerprint)] if entry.picture is not None else []
    return [*data, *picture, layout.index(entry.id, entry.fingerprint)]


def file_sizes(entry: ShardEntry, layout: Layout) -> dict[str, int]:
    """Bytes of a shard's data and index, by the files' names."""
    sizes = {layout.index(entry.id, entry.fingerprint): entry.index_bytes}
    return sizes if entry.url is None else {**sizes, layout.data(entry.id, entry.fingerprint): entry.filesize}


def entry_of(
    report: ShardReport, shard: str, digest: str, layout: Layout, index_sha256: str, index_bytes: int
) -> ShardEntry:
    """The entry of a shard with fingerprint `digest`, from its report."""
    data = layout.data(shard, digest)
    return ShardEntry(
        url=("../" + data if layout.side else data) if report.samples else None,
        nsamples=report.samples,
        filesize=report.bytes,
        id=shard,
        fingerprint=digest,
        sha256=report.sha256,
        index=layout.index(shard, digest).removeprefix(layout.side),
        index_bytes=index_bytes,
        index_sha256=index_sha256,
        samples_in=report.samples_in,
        kept=report.kept,
        filtered=report.filtered,
        rejects=len(report.rejects),
        bytes_in=report.bytes_in,
        seconds=report.seconds,
        runtime=report.runtime,
        picture=layout.picture(shard, digest).removeprefix(layout.side) if report.picture else None,
        summary=report.summary,
    )


def count_reasons(rejects: Iterator[Reject]) -> dict[str, int]:
    """How many rejects there are of each reason, most frequent first."""
    return dict(Counter(reject.reason for reject in rejects).most_common())


def _table(rejects: Iterator[Reject]) -> bytes:
    """The bytes of `rejects.parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(Reject.model_fields)
    rows = list(rejects)
    columns = {name: [getattr(reject, name) for reject in rows] for name in names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=pa.schema([(name, pa.string()) for name in names])), buffer)
    return buffer.getvalue()
