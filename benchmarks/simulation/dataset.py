"""A dataset over the simulated bucket: one partition is made in earnest, the others stand as if they had been."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from typing_extensions import override

from benchmarks.library import declared
from benchmarks.simulation.store import BUCKET, Names, Photographs, SimulatedStorage
from shardmill import Dataset
from shardmill.concurrency import usable_cores
from shardmill.engines.making import MakeShard, PlannedShard, make_one
from shardmill.graph import Planner, run
from shardmill.shards.commit import Commit, ShardEntry
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.index import IndexWriter
from shardmill.shards.publish import MadeShard, publish_shard
from shardmill.shards.report import ShardReport
from shardmill.stages import Stage
from shardmill.storage import Storage

NAME = "d"
RAW = "raw_images"
_ROW_BYTES = 5_370


class NothingMade:
    """An engine that publishes shards of the right sizes and names, without their bytes. Only listings are made."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def check(self, stage: Stage[Any], task: str) -> None:
        """It needs nothing of a machine."""

    def run(
        self, make: MakeShard, shards: Sequence[PlannedShard], storage: Storage, advance: Callable[[int], None]
    ) -> Generator[ShardEntry]:
        """As an engine does."""
        for shard in shards:
            if make.stage.name == "list":
                yield make_one(make, shard, storage, usable_cores(), advance)
            else:
                yield self._pretend(make, shard, storage)

    def _pretend(self, make: MakeShard, shard: PlannedShard, storage: Storage) -> ShardEntry:
        samples = shard.input.samples
        size = samples * _ROW_BYTES if make.stage.suffix == "parquet" else shard.input.size
        report = ShardReport(
            samples_in=samples,
            kept=samples,
            samples=samples,
            bytes_in=shard.input.size,
            bytes=size,
            sha256=hashlib.sha256(shard.fingerprint.encode()).hexdigest(),
            components={"jpg": samples},
            objects=samples,
        )
        with storage.scratch(make.layout.side_of_all) as scratch:
            data = scratch / "data"
            with data.open("wb") as file:
                file.truncate(size)
            made = MadeShard(
                shard.id, shard.input.start, shard.fingerprint, make.stage.suffix, report, IndexWriter(), data
            )
            return publish_shard(storage, make.layout, made, scratch)


class Standing(Names):
    """The files of one asset's other partitions, in one of its two trees: like those of the partition that was made."""

    def __init__(self, made: Committed, asset: str, tree: str, first: int, count: int) -> None:
        self._made, self._asset, self._first, self._count = made, asset, first, count
        self.prefix = f"made/{NAME}/{tree}{asset}/"
        self._is_side = bool(tree)

    @override
    def __len__(self) -> int:
        return self._count * len(self._files(0))

    @override
    def name(self, number: int) -> str:
        partition, file = divmod(number, len(self._files(0)))
        return f"{self.prefix}{self._made.partitions[self._first + partition]}/{self._files(partition)[file][0]}"

    @override
    def size(self, number: int) -> int:
        partition, file = divmod(number, len(self._files(0)))
        return self._files(partition)[file][1]

    @override
    def read(self, name: str) -> bytes | None:
        partition, _, file = name.removeprefix(self.prefix).partition("/")
        if file != "index.json" or not name.startswith(self.prefix) or not self._is_side:
            return None
        stands = self._made.numbers.get(partition, -1)
        if not self._first <= stands < self._first + self._count or not self._made.stands(partition):
            return None
        return self._made.commit(self._asset, partition)

    @lru_cache(maxsize=4)  # noqa: B019
    def _files(self, partition: int) -> list[tuple[str, int]]:
        key = self._made.partitions[self._first + partition]
        entries = self._made.entries(self._asset, key)
        if not self._is_side:
            return sorted((entry["url"].rpartition("/")[2], entry["filesize"]) for entry in entries)
        rest = ["index.json", "rejects.parquet", *(["left_out.parquet"] if self._asset == RAW else [])]
        indexes = [(entry["index"], entry["index_bytes"]) for entry in entries]
        return sorted([*indexes, *((name, 2_000) for name in rest)])


@dataclass
class Committed:
    """Commits of partitions, put together from those of the one that was made."""

    partitions: Sequence[str]
    of_one: Mapping[str, Commit]
    """Asset → the commit that is like them."""

    def __post_init__(self) -> None:
        self.numbers = {key: number for number, key in enumerate(self.partitions)}
        self._plain = {
            asset: json.loads(commit.model_dump_json(by_alias=True)) for asset, commit in self.of_one.items()
        }
        self.contents: dict[str, str] | None = None
        """Of each partition that stands, what the source held when it was listed; None: all stand, of whatever."""

    def stands(self, partition: str) -> bool:
        """Whether it is committed."""
        return self.contents is None or partition in self.contents

    def entries(self, asset: str, partition: str) -> list[dict[str, Any]]:
        """The shards of a commit, with digests of their own."""
        return [self._entry(asset, partition, entry) for entry in self._plain[asset]["shardlist"]]

    def commit(self, asset: str, partition: str) -> bytes:
        """A commit, made of the partition's commits of the assets before."""
        plain = {
            **self._plain[asset],
            "name": f"{NAME}/{asset}/{partition}",
            "shardlist": self.entries(asset, partition),
        }
        plain["made_of"] = {name: self._digest(name, partition) for name in plain["made_of"]}
        return json.dumps({**plain, "checksum": fingerprint(content=plain)}).encode()

    def _digest(self, asset: str, partition: str) -> str:
        """As `Commit.digest`."""
        if self.of_one[asset].name.endswith("/all"):
            return self.of_one[asset].digest
        entries = self.entries(asset, partition)
        return fingerprint(shards=[(e["id"], e["fingerprint"], e["sha256"], e["index_sha256"]) for e in entries])

    def _entry(self, asset: str, partition: str, entry: dict[str, Any]) -> dict[str, Any]:
        digest = hashlib.sha256(f"{asset} {partition} {entry['id']}".encode()).hexdigest()
        old, new = entry["fingerprint"][:12], digest[:12]
        before = self.of_one[asset].name.rpartition("/")[2]
        found = {**entry, "fingerprint": digest, "sha256": digest, "index": entry["index"].replace(old, new)}
        found["url"] = (entry["url"] or "").replace(f"/{before}/", f"/{partition}/").replace(old, new)
        if asset == RAW:
            found["summary"] = {**entry["summary"], "content": (self.contents or {}).get(partition, "")}
        return found


def simulated(
    folders: Sequence[str], each: int, partitions: Any = None, template: str = "{partition}", **fields: Any
) -> Dataset:
    """A dataset over these folders of the source, `each` objects in each; nothing of it is made."""
    storage = SimulatedStorage()
    storage.simulated.formulas = [Photographs(folders, each)]
    spec = {
        "name": NAME,
        "root": f"{BUCKET}/made",
        "source": {"uri": f"{BUCKET}/raw/{template}"},
        "partitions": {"by": "prefix"} if partitions is None else partitions,
        "embedder": {},
        "sensor": {"quiet_seconds": 0},
        **fields,
    }
    return declared(spec, storage)


def store_of(dataset: Dataset) -> Any:
    """The simulated store of a dataset."""
    assert isinstance(dataset.storage, SimulatedStorage)
    return dataset.storage.simulated


def made(dataset: Dataset, partition: str) -> dict[str, Commit]:
    """Plan and commit a partition, in earnest but for the bytes."""
    return {asset: shards.commit for asset, shards in run(Planner(dataset), partition, NothingMade())}


def stand(dataset: Dataset, keys: Sequence[str], commits: Mapping[str, Commit], first: int, count: int) -> Committed:
    """Have `count` partitions from number `first` on stand as if they had been made like that of these commits."""
    committed = Committed(keys, commits)
    for asset, commit in commits.items():
        if not commit.name.endswith("/all"):
            for tree in ("", "_shardmill/"):
                store_of(dataset).formulas.append(Standing(committed, asset, tree, first, count))
    return committed
