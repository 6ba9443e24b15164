"""Which partitions the schedule takes: those with samples that are quiet, and no neighbour of one that fails."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from orchestration.backlog import Deadline, first_that, has_samples
from tests.orchestration.dataset_operator import NewOperator
from tests.servers.places import NewPlace, Place

SENSOR = {"quiet_seconds": 60}


@pytest.fixture
def where(place: NewPlace) -> Place:
    return place("file")


def put(where: Place, partition: str, first: int, last: int, age: float) -> None:
    """Objects named by their numbers, `age` seconds old."""
    folder = Path(where.uri.removeprefix("file://"), "raw", partition)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, last):
        file = folder / f"{number:05}.jpg"
        file.touch()
        os.utime(file, (time.time() - age, time.time() - age))


def test_a_partition_is_quiet_only_if_the_last_names_are_too(where: Place, new_operator: NewOperator) -> None:
    dataset = new_operator(where, sensor=SENSOR).dataset
    put(where, "a", 0, 205, age=600)
    assert has_samples(dataset, "a", Deadline(60))
    put(where, "a", 205, 210, age=1)
    assert has_samples(dataset, "a", Deadline(60)) is False


@pytest.mark.parametrize("sensor", [None, SENSOR])
@pytest.mark.parametrize(
    ("source", "other"),
    [({"marker": "_SUCCESS"}, "_SUCCESS"), ({"components": {"jpg": "{key}.jpg"}}, "notes.txt")],
)
def test_what_is_no_sample_makes_no_partition(
    where: Place, new_operator: NewOperator, source: dict[str, Any], other: str, sensor: Any
) -> None:
    source = {"uri": f"{where.uri}/raw/{{partition}}", **source}
    dataset = new_operator(where, source=source, sensor=sensor).dataset
    where.put(f"raw/a/{other}", b"")
    assert has_samples(dataset, "a", Deadline(60)) is False
    put(where, "a", 0, 1, age=600)
    assert has_samples(dataset, "a", Deadline(60)), "the other object is young, and does not count"


def test_where_there_is_no_time_to_read_a_folder_nobody_knows_whether_it_is_quiet(
    where: Place, new_operator: NewOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = new_operator(where, sensor=SENSOR).dataset
    put(where, "a", 0, 2, age=600)
    assert has_samples(dataset, "a", Deadline(0)) is None
    put(where, "b", 0, 1, age=1)
    assert has_samples(dataset, "b", Deadline(0)) is False, "one young object says it"
    found = first_that(lambda key: has_samples(dataset, key, Deadline(0)), ["a", "b"], 10, Deadline(60), 0)
    assert found == ([], 1)
    monkeypatch.setattr("orchestration.backlog._SECONDS_EACH", 0)
    assert has_samples(dataset, "a", Deadline(60)) is None
    dataset = new_operator(where, sensor=None).dataset
    assert has_samples(dataset, "a", Deadline(0)), "without a sensor one sample is enough"
