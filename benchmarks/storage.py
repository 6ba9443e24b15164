"""Reading from and writing to GCS and S3 on loopback: ours beside what people use, in turns within a round.

    python -m benchmarks.storage [--stores gcs s3] [--objects 2000] [--large 10] [--rounds 3]

Small objects are 110 kB, large ones 100 MB. Wall time, and CPU time of the client's process alone. The servers are
those of the tests; GCS is read without the gate that checks tokens (it is Python, and would be what is measured) and
written through it. Medians over the rounds.
"""

import argparse
import json
import os
import secrets
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.storage import Credentials, GCSCredentials, S3Credentials, Storage
from tests.servers.gcs import GCSServer
from tests.servers.processes import CLIENT_ENVIRONMENT
from tests.servers.seaweedfs import S3Server

SMALL, LARGE = 110_000, 100_000_000
BUCKET = "benchmark"
THREADS = 16

Contender = Callable[[list[str]], int]
"""Reads objects by name, or writes them; returns the bytes."""


class Bench:
    """A store with its contenders."""

    def __init__(self, scheme: str, read: Credentials, write: Credentials) -> None:
        self.scheme = scheme
        self.reader, self.writer = Storage((read,)), Storage((write,))
        self.down: dict[str, Contender] = {"shardmill": self._ours}
        self.stream: dict[str, Contender] = {"shardmill open": self._ours_streaming}
        self.up: dict[str, Contender] = {"shardmill": self._ours_up}

    def uri(self, name: str) -> str:
        """Of an object in the bucket."""
        return f"{self.scheme}://{BUCKET}/{name}"

    def _ours(self, names: list[str]) -> int:
        return sum(map(len, bounded_map(self.reader.read, map(self.uri, names), REQUESTS_AT_ONCE)))

    def _ours_streaming(self, names: list[str]) -> int:
        total = 0
        for name in names:
            with self.reader.open(self.uri(name))[0] as stream:
                while chunk := stream.read(1 << 20):
                    total += len(chunk)
        return total

    def _ours_up(self, names: list[str]) -> int:
        def put(name: str) -> int:
            with tempfile.NamedTemporaryFile(delete=False) as file:
                file.write(DATA)
            self.writer.publish(Path(file.name), self.uri(name))
            return len(DATA)

        return sum(bounded_map(put, names, REQUESTS_AT_ONCE))

    def add_fsspec(self, label: str, filesystem: Any, writing: Any) -> None:
        """The loops that people write over a file system, and its bulk call."""
        fs, up = filesystem, writing

        def loop(names: list[str]) -> int:
            total = 0
            for name in names:
                with fs.open(f"{BUCKET}/{name}", "rb") as file:
                    total += len(file.read())
            return total

        def stream(names: list[str]) -> int:
            total = 0
            for name in names:
                with fs.open(f"{BUCKET}/{name}", "rb") as file:
                    while chunk := file.read(1 << 20):
                        total += len(chunk)
            return total

        def cat(names: list[str]) -> int:
            return sum(map(len, fs.cat([f"{BUCKET}/{name}" for name in names]).values()))

        def pipe(names: list[str]) -> int:
            up.pipe({f"{BUCKET}/{name}": DATA for name in names})
            return len(DATA) * len(names)

        self.down |= {f"{label} open and read": loop, f"{label} cat": cat}
        self.stream |= {f"{label} open": stream, f"{label} cat, all in memory": cat}
        self.up[f"{label} pipe"] = pipe


DATA = secrets.token_bytes(SMALL)


@contextmanager
def gcs() -> Iterator[Bench]:
    """Google Cloud Storage, as fake-gcs-server."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage
    from google.oauth2 import service_account

    with GCSServer() as server:
        server.make_bucket(BUCKET)
        key = server.account("benchmark", {BUCKET: "rw"})
        bench = Bench(
            "gs",
            GCSCredentials(anonymous=True, endpoint=server.upstream_url),
            GCSCredentials(service_account_json=json.dumps(key), endpoint=server.url),
        )
        import gcsfs

        bench.add_fsspec(
            "gcsfs",
            gcsfs.GCSFileSystem(token="anon", endpoint_url=server.upstream_url),
            gcsfs.GCSFileSystem(token=key, endpoint_url=server.url),
        )
        client = storage.Client(
            "lab", credentials=AnonymousCredentials(), client_options={"api_endpoint": server.upstream_url}
        ).bucket(BUCKET)
        writing = storage.Client(
            "lab",
            credentials=service_account.Credentials.from_service_account_info(key),
            client_options={"api_endpoint": server.url},
        ).bucket(BUCKET)
        threads = ThreadPoolExecutor(THREADS)

        def read(name: str) -> int:
            return len(client.blob(name).download_as_bytes())

        def write(name: str) -> int:
            writing.blob(name).upload_from_string(DATA)
            return len(DATA)

        bench.down[f"google-cloud-storage, {THREADS} threads"] = lambda names: sum(threads.map(read, names))
        bench.stream["google-cloud-storage, threads, in memory"] = lambda names: sum(threads.map(read, names))
        bench.up[f"google-cloud-storage, {THREADS} threads"] = lambda names: sum(threads.map(write, names))
        yield bench


@contextmanager
def s3() -> Iterator[Bench]:
    """S3, as SeaweedFS."""
    import boto3
    import s3fs
    from botocore.config import Config

    with S3Server() as server:
        server.make_bucket(BUCKET)
        keys = server.writer
        ours = S3Credentials(
            endpoint=server.url,
            region=server.region,
            access_key_id=keys.access_key_id,
            secret_access_key=keys.secret_access_key,
        )
        bench = Bench("s3", ours, ours)
        fs = s3fs.S3FileSystem(
            key=keys.access_key_id,
            secret=keys.secret_access_key,
            endpoint_url=server.url,
            client_kwargs={"region_name": server.region},
        )
        bench.add_fsspec("s3fs", fs, fs)
        client = boto3.client(
            "s3",
            endpoint_url=server.url,
            region_name=server.region,
            aws_access_key_id=keys.access_key_id,
            aws_secret_access_key=keys.secret_access_key,
            config=Config(max_pool_connections=THREADS),
        )
        threads = ThreadPoolExecutor(THREADS)

        def read(name: str) -> int:
            return len(client.get_object(Bucket=BUCKET, Key=name)["Body"].read())

        def write(name: str) -> int:
            client.put_object(Bucket=BUCKET, Key=name, Body=DATA)
            return len(DATA)

        bench.down[f"boto3, {THREADS} threads"] = lambda names: sum(threads.map(read, names))
        bench.stream["boto3, threads, in memory"] = lambda names: sum(threads.map(read, names))
        bench.up[f"boto3, {THREADS} threads"] = lambda names: sum(threads.map(write, names))
        yield bench


def measure(title: str, contenders: dict[str, Contender], names: list[str], size: int, rounds: int) -> None:
    """Each contender in turn, `rounds` times, after one that is not counted; prints the table."""
    wall: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    for contender in contenders.values():
        contender(names[:2])
    for _ in range(rounds):
        for label, contender in contenders.items():
            started, used = time.perf_counter(), time.process_time()
            done = contender(names)
            wall[label].append(time.perf_counter() - started)
            cpu[label].append(time.process_time() - used)
            assert done == size * len(names), (label, done)
    table = Table("", "objects/s", "MB/s", "CPU s", "wall, ours = 1", "CPU, ours = 1", title=title)
    first = next(iter(contenders))
    for label in contenders:
        seconds, used = statistics.median(wall[label]), statistics.median(cpu[label])
        table.add_row(
            label,
            f"{len(names) / seconds:,.0f}",
            f"{size * len(names) / seconds / 1e6:,.0f}",
            f"{used:.2f}",
            f"{seconds / statistics.median(wall[first]):.2f}",
            f"{used / statistics.median(cpu[first]):.2f}",
        )
    Console(width=110).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", nargs="+", choices=["gcs", "s3"], default=["gcs", "s3"])
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--large", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    os.environ.update(CLIENT_ENVIRONMENT)
    for store in given.stores:
        with {"gcs": gcs, "s3": s3}[store]() as bench:
            small = [f"small/{number:05d}.jpg" for number in range(given.objects)]
            measure(f"{store} up, {SMALL / 1e3:.0f} kB", bench.up, small, SMALL, given.rounds)
            measure(f"{store} down, {SMALL / 1e3:.0f} kB", bench.down, small, SMALL, given.rounds)
            large = [f"large/{number}.tar" for number in range(given.large)]
            with tempfile.TemporaryDirectory() as folder:
                for name in large:
                    file = Path(folder, "large")
                    file.write_bytes(secrets.token_bytes(LARGE))
                    bench.writer.publish(file, bench.uri(name))
            measure(f"{store} down, {LARGE / 1e6:.0f} MB, streamed", bench.stream, large, LARGE, given.rounds)


if __name__ == "__main__":
    main()
