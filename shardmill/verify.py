"""Verification of stored partitions: are the bytes what the index says, and can others read them?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import BinaryIO

from shardmill.errors import CorruptionError, ShardmillError
from shardmill.shards.commit import ShardEntry, file_names
from shardmill.shards.index import IndexRow, read_index
from shardmill.shards.layout import Layout
from shardmill.stages.shard_set import ShardSet
from shardmill.stages.stored import StoredShard
from shardmill.storage import join_uri, relative_to
from shardmill.tables import read_parquet


def verify(shards: ShardSet) -> Iterator[str]:
    """Problems of a committed partition, one a sentence; none if all is well. Reads every byte."""
    layout = Layout(shards.commit.suffix)
    for entry in shards.commit.shards:
        try:
            yield from _verify_shard(shards, entry, layout)
        except (FileNotFoundError, ShardmillError) as error:
            yield f"shard {entry.id}: {error}"
    try:
        yield from _verify_totals(shards)
    except (FileNotFoundError, ShardmillError) as error:
        yield str(error)
    if not shards.storage.excludes(shards.folder):
        return  # what is named by no index there may be of a run that is at work; `shardmill gc` knows by its age
    named = {name for entry in shards.commit.shards for name in file_names(entry, layout)}
    for info in shards.storage.list(shards.folder):
        name = relative_to(shards.folder, info.uri)
        if layout.is_shard_file(name) and name not in named:
            yield f"{info.uri} is named by no index: a run that failed or was killed left it; the next run removes it"


def _verify_shard(shards: ShardSet, entry: ShardEntry, layout: Layout) -> Iterator[str]:
    uri = join_uri(shards.folder, layout.index(entry.id, entry.fingerprint))
    data = shards.storage.read(uri)
    if hashlib.sha256(data).hexdigest() != entry.index_sha256:
        yield f"{uri} is not what index.json says: its SHA-256 differs. Delete it and materialize again"
    if entry.samples_in != entry.kept + entry.filtered + entry.rejects:
        yield f"shard {entry.id}: of {entry.samples_in} samples some are unaccounted for"
    if entry.url is None:
        return
    rows = list(read_index(data, uri))
    if shards.commit.suffix == "tar":
        yield from _verify_tar(shards, entry, rows)
    else:
        yield from _verify_table(shards, entry, layout)


def _verify_tar(shards: ShardSet, entry: ShardEntry, rows: Sequence[IndexRow]) -> Iterator[str]:
    stored = StoredShard(shards.folder, entry)
    samples = 0
    for sample, components in stored.read(shards.storage):
        samples += 1
        for component, row in components.items():
            if hashlib.sha256(sample.components[component]).hexdigest() != row.sha256:
                yield f"{stored.file_name}: {row.key}.{component} is not what its index says"
    if samples != entry.nsamples:
        yield f"{stored.file_name} holds {samples} samples, index.json says {entry.nsamples}"
    stream, _ = shards.storage.open(join_uri(shards.folder, stored.file_name))
    with stream:
        for row in rows[:: max(1, len(rows) // 100)]:
            if hashlib.sha256(_range(stream, row)).hexdigest() != row.sha256:
                yield f"{stored.file_name}: the offset of {row.key}.{row.component} is wrong"


def _verify_table(shards: ShardSet, entry: ShardEntry, layout: Layout) -> Iterator[str]:
    import pyarrow as pa

    uri = join_uri(shards.folder, layout.data(entry.id, entry.fingerprint))
    with shards.open_table(entry) as stream:
        try:
            table = read_parquet(stream, ["key"])
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CorruptionError(f"{uri} is not a table: {error}") from error
    samples = len(set(table["key"].to_pylist()))
    if samples != entry.nsamples:
        yield f"{uri} holds {samples} samples, index.json says {entry.nsamples}"
    picture = join_uri(shards.folder, layout.picture(entry.id, entry.fingerprint))
    if entry.picture is not None and shards.storage.stat(picture) is None:
        yield f"{picture} does not exist, and index.json names it"


def _verify_totals(shards: ShardSet) -> Iterator[str]:
    commit = shards.commit
    if commit.total_samples != sum(entry.nsamples for entry in commit.shards):
        yield "index.json: total_samples is not the sum over the shards"
    if commit.total_rejects != sum(commit.rejects_by_reason.values()):
        yield "index.json: total_rejects is not the sum over the reasons"
    listed = sum(1 for _ in shards.rejects())
    if listed != commit.total_rejects:
        yield f"index.json says {commit.total_rejects} rejects, the shards' reports list {listed}"
    uri = join_uri(shards.folder, Layout(commit.suffix).rejects)
    tabled = _rows(shards.storage.read(uri), uri)
    if tabled != commit.total_rejects:
        yield f"index.json says {commit.total_rejects} rejects, {uri} lists {tabled}"


def _rows(data: bytes, uri: str) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(BytesIO(data)).num_rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptionError(f"{uri} is not a table: {error}") from error


def _range(stream: BinaryIO, row: IndexRow) -> bytes:
    stream.seek(row.offset)
    return stream.read(row.size)


def read_with_webdataset(shards: ShardSet) -> tuple[int, int]:
    """Read every shard with the webdataset library itself: (samples, bytes of their components).

    Raises whatever the library raises for a shard that it cannot read.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    # Its own expander and grouping, over our streams: the library's own openers know neither bucket nor credentials.
    streams = ({"url": url, "stream": shards.storage.open(url)[0]} for url in shards.urls)
    samples = size = 0
    for sample in group_by_keys(tar_file_expander(streams)):
        samples += 1
        size += sum(len(value) for name, value in sample.items() if not name.startswith("__"))
    return samples, size
