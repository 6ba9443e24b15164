"""A million objects: the figures that a sensor has to keep to, whatever the machine."""

import re
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from shardmill.dataset import Dataset, DatasetSpec
from shardmill.storage import GCSCredentials, Storage
from shardmill.watch import look
from tests.servers.listing import BUCKET, FIRST_DAY, ListingServer

OBJECTS = 1_000_000
TICK_SECONDS = 45
STEADY_SECONDS = 2
CURSOR_BYTES = 10_000
MEBIBYTES = 200


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_objects_are_listed_over_looks_that_fit_a_tick_and_later_ones_are_short(tmp_path: Path) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of this test
    before = peak_mebibytes()
    today = datetime.now(UTC).date()
    days = (today - date.fromisoformat(FIRST_DAY)).days + 1
    with ListingServer(OBJECTS, days) as server:
        spec = {
            "name": "d",
            "root": str(tmp_path),
            "source": {"uri": f"gs://{BUCKET}/raw/%Y-%m-%d"},
            "partitions": {"by": "time", "start": FIRST_DAY},
            "sensor": {"quiet_seconds": 0},
        }
        storage = Storage((GCSCredentials(endpoint=server.url, anonymous=True),))
        dataset = Dataset(DatasetSpec.model_validate(spec), storage)
        looks = [look(dataset, None, most=days)]
        while looks[-1].listing:
            looks.append(look(dataset, looks[-1].cursor, most=days))
        assert len(looks) > 1
        assert max(each.seconds for each in looks) < TICK_SECONDS
        assert sum(each.scanned for each in looks) >= OBJECTS // days * days
        assert looks[-1].known == days

        assert peak_mebibytes() - before < MEBIBYTES

        cursor = looks[-1].cursor
        for number in range(100):
            server.put(f"raw/{today}/new-{number:03}.jpg")
        found = look(dataset, cursor, most=days)
        assert found.changed == 1
        assert found.seconds < STEADY_SECONDS
        assert len(found.cursor) < CURSOR_BYTES


def peak_mebibytes() -> float:
    """Most memory that this process has held since its peak was reset."""
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1024
