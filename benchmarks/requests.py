"""Requests and bytes that the format costs: a first run, a run with nothing to do, an update, on each kind of store.

    python -m benchmarks.requests [--stores local gcs s3] [--samples 256] [--max-samples 16]

The source is local, so that only what is stored is counted: on buckets by a proxy in front of the server, on a local
disk as calls of the storage's verbs. Figures are for list, pack, transform and embed together.
"""

import argparse
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.library import declared, make_all
from shardmill.storage import GCSCredentials, S3Credentials, Storage
from tests.servers import GCSServer, S3Server
from tests.servers.faults import FaultProxy

VERBS = ("list", "stat", "open", "read_version", "read_range", "publish", "replace", "move", "delete")
Count = Callable[[], Counter[str]]


def main(given: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stores = {"local": local, "gcs": gcs, "s3": s3}
    parser.add_argument("--stores", nargs="+", choices=list(stores), default=list(stores))
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--max-samples", type=int, default=16)
    arguments = parser.parse_args(given)
    for name in arguments.stores:
        with tempfile.TemporaryDirectory() as folder, stores[name](Path(folder)) as (root, storage, count):
            measure(name, Path(folder) / "raw", root, storage, count, arguments.samples, arguments.max_samples)


def measure(name: str, raw: Path, root: str, storage: Storage, count: Count, samples: int, max_samples: int) -> None:
    """The three runs on one store."""
    raw.mkdir()
    for number in range(samples):
        write_photograph(raw / f"{number:06}.jpg", number)
    spec = {
        "name": "d",
        "source": {"uri": str(raw)},
        "partitions": ["p"],
        "root": root,
        "shards": {"max_samples": max_samples},
        "embedder": {},
        "transform": {"operations": [{"operation": "CenterCrop", "arguments": {"size": 128}}]},
    }
    dataset = declared(spec, storage)
    for run in ("first run", "nothing to do", "one image added"):
        if run == "one image added":
            write_photograph(raw / "one.jpg", 10**6)
        before = count()
        made = total = 0
        for shards in make_all(dataset, "p", workers=1):
            made, total = made + shards.made, total + len(shards.commit.shards)
        used = count() - before
        up, down = (used.pop(f"bytes {way}", 0) for way in ("up", "down"))
        each = sum(used.values()) / max(made, 1)
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(used.items()))
        print(
            f"{name:6} {run:16} {sum(used.values()):5} requests ({kinds}); {up / 1e6:.2f} MB up, "
            f"{down / 1e6:.2f} MB down; {made} of {total} shards made" + (f", {each:.1f} requests each" if made else "")
        )


def write_photograph(file: Path, seed: int) -> None:
    """A JPEG of about 20 kB."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC).save(data, "JPEG", quality=95)
    file.write_bytes(data.getvalue())


@contextmanager
def local(folder: Path) -> Iterator[tuple[str, Storage, Count]]:
    """A local disk; its verbs are counted."""
    counts: Counter[str] = Counter()

    class Counting(Storage):
        pass

    def counted(verb: str) -> Any:
        def call(self: Storage, uri: str, *arguments: Any, **options: Any) -> Any:
            counts[verb] += "/root/" in f"{uri} {arguments}"
            return getattr(Storage, verb)(self, uri, *arguments, **options)

        return call

    for verb in VERBS:
        setattr(Counting, verb, counted(verb))
    yield str(folder / "root"), Counting(), lambda: Counter(counts)


@contextmanager
def gcs(_: Path) -> Iterator[tuple[str, Storage, Count]]:
    """fake-gcs-server behind its gate, and a proxy before both."""
    with GCSServer() as server, FaultProxy(server.url) as proxy:
        key = server.account("bench", {server.make_bucket("bench"): "rw"})
        credentials = GCSCredentials(prefix="gs://bench", endpoint=proxy.url, service_account_json=json.dumps(key))
        yield "gs://bench/root", Storage((credentials,)), lambda: counted_by(proxy)


@contextmanager
def s3(_: Path) -> Iterator[tuple[str, Storage, Count]]:
    """SeaweedFS, and a proxy before it."""
    with S3Server() as server, FaultProxy(server.url) as proxy:
        server.make_bucket("bench")
        credentials = S3Credentials(
            prefix="s3://bench",
            endpoint=proxy.url,
            region=server.region,
            access_key_id=server.admin.access_key_id,
            secret_access_key=server.admin.secret_access_key,
        )
        yield "s3://bench/root", Storage((credentials,)), lambda: counted_by(proxy)


def counted_by(proxy: FaultProxy) -> Counter[str]:
    """Requests by method, copies apart, and bytes."""
    methods = Counter(exchange.method for exchange in proxy.log if "/token" not in exchange.target)
    return methods + Counter({name: proxy.counts[name] for name in ("bytes up", "bytes down")})


if __name__ == "__main__":
    main()
