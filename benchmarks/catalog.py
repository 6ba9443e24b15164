"""Whether it pays to look for samples in other partitions: what a catalog costs as it grows.

    python -m benchmarks.catalog [--rows 10000000] [--partition 10000] [--store local s3]

Partitions of so many samples are added until there are so many rows. Then a partition is looked up of which nothing is
known (as every day's is that brings new images), one of which everything is known, and a single image; medians of five.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from shardmill.shards.catalog import Catalog, ShardPlace
from shardmill.storage import S3Credentials, Storage
from tests.servers import S3Server


def main(given: Sequence[str] | None = None) -> None:
    """Print seconds and bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stores = {"local": local, "s3": s3}
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--partition", type=int, default=10_000)
    parser.add_argument("--store", choices=list(stores), default="local")
    arguments = parser.parse_args(given)
    with stores[arguments.store]() as (root, storage):
        measure(Catalog(root, "c" * 64), storage, arguments.rows, arguments.partition)


def measure(catalog: Catalog, storage: Storage, rows: int, partition: int) -> None:
    """Fill the catalog, and look up."""
    random = np.random.default_rng(0)
    taken = []
    known = random.integers(0, 2**64, partition, np.uint64)
    for number in range(max(1, rows // partition)):
        numbers = known if number == 0 else random.integers(0, 2**64, partition, np.uint64)
        shards = {
            ShardPlace(f"d/embeddings/{number:06}", f"{n:06x}"): each
            for n, each in enumerate(np.array_split(numbers, 8))
        }
        started = time.perf_counter()
        catalog.add(storage, shards)
        taken.append(time.perf_counter() - started)
    files = list(storage.list(catalog.folder))
    print(
        f"{rows:,} rows in {len(files)} files, {sum(info.size for info in files) / 1e6:.1f} MB; a partition of "
        f"{partition:,} is added in {statistics.median(taken):.3f} s, {max(taken):.2f} at most, {sum(taken):.1f} in all"
    )
    for name, numbers in (
        ("nothing is known", random.integers(0, 2**64, partition, np.uint64)),
        ("everything is known", known),
        ("a single image", random.integers(0, 2**64, 1, np.uint64)),
    ):
        fingerprints = [f"{number:016x}{0:016x}" for number in numbers.tolist()]
        seconds = [timed(partial(look_up, catalog, storage, fingerprints)) for _ in range(5)]
        print(f"  {name:22} {statistics.median(seconds):.3f} s")


def look_up(catalog: Catalog, storage: Storage, fingerprints: list[str]) -> None:
    """As a run does for a shard, its listing included."""
    catalog.opened(storage).find(storage, fingerprints)


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def local() -> Iterator[tuple[str, Storage]]:
    """A local disk."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"file://{folder}", Storage()


@contextmanager
def s3() -> Iterator[tuple[str, Storage]]:
    """SeaweedFS."""
    with S3Server() as server:
        server.make_bucket("bench")
        credentials = S3Credentials(
            prefix="s3://bench",
            endpoint=server.url,
            region=server.region,
            access_key_id=server.admin.access_key_id,
            secret_access_key=server.admin.secret_access_key,
        )
        yield "s3://bench/root", Storage((credentials,))


if __name__ == "__main__":
    main()
