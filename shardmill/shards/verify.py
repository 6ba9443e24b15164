"""Verification of stored partitions: are the bytes what the commit says, and can others read them?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from shardmill.errors import ShardmillError
from shardmill.shards.index import IndexRow
from shardmill.shards.layout import is_data_name, picture_name
from shardmill.shards.left_out import read_left_out
from shardmill.shards.reader import ShardSet
from shardmill.shards.rejects import read_table, rejects_digest
from shardmill.shards.standing import list_files
from shardmill.shards.stored import StoredShard
from shardmill.storage import join_uri

_RUN = "Run the partition again"


def verify(shards: ShardSet) -> Iterator[str]:
    """Problems of a committed partition, one a sentence, with what to do; none if all is well. Reads every byte."""
    keys: Counter[str] = Counter()
    for shard in map(StoredShard, [shards.layout] * len(shards.commit.shards), shards.commit.shards):
        try:
            yield from _verify_shard(shards, shard, keys)
        except (FileNotFoundError, ShardmillError) as error:
            yield f"shard {shard.id}: {error}"
    twice = [key for key, count in keys.items() if count > 1]
    if twice:
        yield f"{len(twice)} keys are in two shards or more, {twice[0]} among them: look at the transform"
    try:
        yield from _verify_totals(shards)
        yield from _verify_left_out(shards)
    except (FileNotFoundError, ShardmillError) as error:
        yield str(error)
    yield from _verify_folder(shards)


def _verify_shard(shards: ShardSet, shard: StoredShard, keys: Counter[str]) -> Iterator[str]:
    entry = shard.entry
    rows = list(shard.index(shards.storage))
    if entry.samples_in != entry.kept + entry.filtered + entry.total_rejects:
        yield f"shard {entry.id}: of {entry.samples_in} samples some are unaccounted for"
    if entry.data is None:
        return
    if entry.url != shards.layout.url(entry.data):
        yield f"shard {entry.id}: index.json has the url {entry.url}, which is not that of its file. {_RUN}"
    if shards.storage.stat(shards.layout.data(entry.data)) is None:
        yield f"{shards.layout.data(entry.data)} is gone, and index.json names it. {_RUN}"
    elif shards.commit.suffix == "tar":
        yield from _verify_tar(shards, shard, rows, keys)
    else:
        yield from _verify_table(shards, shard, keys)
    if entry.picture is not None:
        uri = shards.layout.beside(entry.picture)
        try:
            whole = picture_name(entry.id, entry.fingerprint, hashlib.sha256(shards.storage.read(uri)).hexdigest())
        except FileNotFoundError:
            yield f"{uri} is gone, and index.json names it. {_RUN}"
        else:
            if whole != entry.picture:
                yield f"{uri} is not what its name says. Delete it. {_RUN}"


def _verify_tar(shards: ShardSet, shard: StoredShard, rows: Sequence[IndexRow], keys: Counter[str]) -> Iterator[str]:
    samples = 0
    for sample, _ in shard.read(shards.storage):
        samples += 1
        keys[sample.key] += 1
    if samples != shard.samples:
        yield f"{shard.file_name} holds {samples} samples, index.json says {shard.samples}"
    with shard.open(shards.storage) as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
        if digest.hexdigest() != shard.entry.sha256:
            yield f"{shard.file_name} is not what index.json says: its SHA-256 differs"
        for row in rows[:: max(1, len(rows) // 100)]:
            if hashlib.sha256(_range(stream, row)).hexdigest() != row.sha256:
                yield f"{shard.file_name}: the offset of {row.key}.{row.component} is wrong"


def _verify_table(shards: ShardSet, shard: StoredShard, keys: Counter[str]) -> Iterator[str]:
    read = [key for batch in shard.batches(shards.storage, ["key"]) for key in batch["key"].to_pylist()]
    if len(read) != shard.entry.rows:
        yield f"{shard.file_name} holds {len(read)} rows, index.json says {shard.entry.rows}"
    found = set(read)
    if len(found) != shard.samples:
        yield f"{shard.file_name} holds {len(found)} samples, index.json says {shard.samples}"
    keys.update(found)


def _verify_totals(shards: ShardSet) -> Iterator[str]:
    commit = shards.commit
    if commit.total_samples != sum(entry.nsamples for entry in commit.shards):
        yield "index.json: total_samples is not the sum over the shards"
    listed = list(shards.rejects())
    if Counter(reject.reason for reject in listed) != commit.rejects_by_reason:
        yield "index.json: rejects_by_reason is not what the shards' reports say"
    if len(listed) != commit.total_rejects:
        yield f"index.json says {commit.total_rejects} rejects, the shards' reports list {len(listed)}"
    uri = shards.layout.rejects
    table, _ = read_table(shards.storage, shards.layout)
    if table != listed or rejects_digest(listed) != commit.rejects_sha256:
        yield f"{uri} is not the table of this commit: a run was killed before it wrote that, or it is damaged. {_RUN}"


def _verify_left_out(shards: ShardSet) -> Iterator[str]:
    commit = shards.commit
    if not commit.left_out_sha256:
        return
    table, _ = read_left_out(shards.storage, shards.layout)
    if table is None or table.digest != commit.left_out_sha256 or table.by_rule != commit.left_out:
        yield f"{shards.layout.left_out} is not what the commit left out: a run was killed, or it is damaged. {_RUN}"
    rows, left_out = sum(entry.rows for entry in commit.shards), sum(commit.left_out.values())
    if commit.listed != rows + left_out:
        yield f"index.json: {commit.listed} objects were listed, {rows} are rows and {left_out} were left out"


def _verify_folder(shards: ShardSet) -> Iterator[str]:
    """Other tools that are handed the folder read all that is in it."""
    named = shards.commit.files
    for name in sorted(list_files(shards.storage, shards.layout).data.keys() - named):
        uri = join_uri(shards.folder, name)
        if not is_data_name(name):
            yield f"{uri} is none of Shardmill's files, and readers of the folder stumble over it. Move it elsewhere"
        else:
            yield f"{uri} is named by no commit: a run that failed or was killed left it. {_RUN}, or `shardmill gc`"


def _range(stream: BinaryIO, row: IndexRow) -> bytes:
    stream.seek(row.offset)
    return stream.read(row.size)


def read_with_webdataset(shards: ShardSet, only: Sequence[StoredShard] | None = None) -> tuple[int, int]:
    """Read every shard, or these, with the webdataset library itself: (samples, bytes of their components).

    Raises:
        Exception: The library cannot read a shard: whatever it raises then.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    samples = size = 0
    for shard in shards.shards if only is None else only:
        with shard.open(shards.storage) as stream:
            # Its own expander and grouping, over our streams: its openers know neither bucket nor credentials.
            for sample in group_by_keys(tar_file_expander([{"url": shard.file_name, "stream": stream}])):
                samples += 1
                size += sum(len(value) for name, value in sample.items() if not name.startswith("__"))
    return samples, size
