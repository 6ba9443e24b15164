"""The index that DALI's reader of WebDataset shards takes: a text file a tar.

    v1.2 <number of samples>
    <component> <offset of the data> <size> <name> …         a line a sample, a group a component

DALI splits lines on white space, and names in shards have none.
"""

from collections.abc import Iterator

from shardmill.shards.stored import StoredShard
from shardmill.storage import Storage


def dali_index(shard: StoredShard, storage: Storage) -> str:
    """The index of a tar, from Shardmill's own: no byte of the tar is read.

    Raises:
        CorruptionError: The shard's index is damaged.
        SupersededError: It is gone, because another commit stands by now.
    """
    return "".join(_lines(shard, storage))


def _lines(shard: StoredShard, storage: Storage) -> Iterator[str]:
    yield f"v1.2 {shard.samples}\n"
    for key, rows in shard.rows(storage):
        ordered = sorted(rows.values(), key=lambda row: row.offset)
        yield " ".join(f"{row.component} {row.offset} {row.size} {key}.{row.component}" for row in ordered) + "\n"
