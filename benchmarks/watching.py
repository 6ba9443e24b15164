"""`python -m benchmarks.watching`: a bucket of a million objects, watched.

How fast everything is listed, over how many looks, in how much memory; how long a look takes when all but 100 objects
are known; and the listing rate beside `dagster_gcp`'s `get_gcs_keys` on the same bucket, which is listed by the two in
turn. Both read a listing server on this machine that is a process of its own (tests/servers/listing.py).
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from benchmarks.library import Dataset, declared, moved
from shardmill.storage import GCSCredentials, Storage
from shardmill.watch import Found, look
from tests.servers.listing import BUCKET, FIRST_DAY, ListingServer

MOST = 100_000
"""Partitions that one look may find due: so many that no listing stops for them."""


def main(given: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(given)
    days = (datetime.now(UTC).date() - date.fromisoformat(FIRST_DAY)).days + 1  # the last is today
    with ListingServer(options.objects, days) as server, tempfile.TemporaryDirectory() as folder:
        for by, template in (("time", "%Y-%m-%d"), ("prefix", "{partition}")):
            partitions = {"by": "time", "start": FIRST_DAY} if by == "time" else {"by": "prefix"}
            dataset = watched(server, Path(folder) / by, partitions, template)
            first_and_steady(by, dataset, server)
        beside_get_gcs_keys(server, dataset, options.rounds)


def watched(server: ListingServer, root: Path, partitions: dict[str, Any], template: str) -> Dataset:
    """A dataset over the bucket, partitioned by day."""
    spec = {
        "name": "watched",
        "root": str(root),
        "source": {"uri": f"gs://{BUCKET}/raw/{template}"},
        "partitions": partitions,
        "sensor": {"quiet_seconds": 0},
    }
    storage = Storage((GCSCredentials(endpoint=server.url, anonymous=True),))
    return declared(spec, storage)


def first_and_steady(by: str, dataset: Dataset, server: ListingServer) -> None:
    """Everything is listed once; then a hundred objects come."""
    looks: list[Found] = []
    cursor: str | None = None
    while not looks or looks[-1].listing:
        looks.append(look(dataset, cursor, most=MOST))
        cursor = looks[-1].cursor
    seconds = [each.seconds for each in looks]
    scanned = sum(each.scanned for each in looks)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{by}: first listing of {scanned:,} objects in {len(looks)} looks, {sum(seconds):.1f} s, the longest "
        f"{max(seconds):.1f} s ({scanned / sum(seconds):,.0f}/s); cursor {len(cursor or '')} characters; at most "
        f"{peak:.0f} MiB in the process"
    )
    day = max(day for each in looks for day in each.partitions)
    steady = []
    for number in range(5):
        for name in range(100):
            server.put(f"raw/{day}/new-{number}-{name:03}.jpg")
        found = look(dataset, cursor, most=MOST)
        cursor = found.cursor
        steady.append(found)
    middle = statistics.median(each.seconds for each in steady)
    print(f"{by}: a look with 100 new objects: median {middle:.2f} s, {steady[-1].scanned:,} objects listed")


def beside_get_gcs_keys(server: ListingServer, dataset: Dataset, rounds: int) -> None:
    """The two in turn, each over the whole bucket."""
    from dagster_gcp.gcs.sensor import get_gcs_keys
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    client = storage.Client(
        project="none", credentials=AnonymousCredentials(), client_options={"api_endpoint": server.url}
    )
    ours, theirs = [], []
    for number in range(rounds):
        started = time.perf_counter()
        cursor, scanned = None, 0
        fresh = moved(dataset, f"{dataset.spec.root}-{number}")
        while True:
            found = look(fresh, cursor, most=MOST)
            cursor, scanned = found.cursor, scanned + found.scanned
            if not found.listing:
                break
        ours.append(scanned / (time.perf_counter() - started))
        started = time.perf_counter()
        keys = get_gcs_keys(BUCKET, prefix="raw/", gcs_session=client)
        theirs.append(len(keys) / (time.perf_counter() - started))
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(f"listing and comparing: {mine:,.0f} objects/s; get_gcs_keys {other:,.0f}/s; ratio {mine / other:.1f}")


if __name__ == "__main__":
    main()
