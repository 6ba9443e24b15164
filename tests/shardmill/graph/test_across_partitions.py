"""A sample that another partition or dataset below the root holds is found there by content, and not made again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardmill import graph
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.engines import LocalEngine
from shardmill.shards.catalog import catalogs_below
from shardmill.shards.reader import ShardSet
from tests.changes import Cost, Instruments, counting, photograph
from tests.servers.places import NewPlace, Place
from tests.small_embedder import SMALL

__all__ = ["counting"]

COUNT = 20
CROP = {"operations": [{"operation": "CenterCrop", "arguments": {"size": 16}}]}
NewDataset = Callable[..., Dataset]


@pytest.fixture(params=["file", "s3"])
def somewhere(request: pytest.FixtureRequest, place: NewPlace, counting: Instruments) -> Place:
    """A year's photographs, of two months."""
    made = place(request.param)
    counting.source = f"{made.uri}/raw"
    for number in range(COUNT):
        made.put(f"raw/2026/{1 + number % 2}/image_{number:03}.jpg", photograph(number))
    return made


@pytest.fixture
def new_dataset(somewhere: Place, embedder_of_tests: dict[str, str]) -> NewDataset:
    def make(partitions: list[str], folder: str = "raw", **fields: Any) -> Dataset:
        given = {
            "name": "d",
            "root": f"{somewhere.uri}/root",
            "source": {"uri": f"{somewhere.uri}/{folder}/{{partition}}"},
            "partitions": partitions,
            "shards": {"max_samples": 8},
            "transform": CROP,
            "embedder": SMALL,
        }
        return Dataset(DatasetSpec.model_validate({**given, **fields}), somewhere.storage)

    return make


def run(dataset: Dataset) -> list[dict[str, ShardSet]]:
    planner = graph.Planner(dataset)
    with LocalEngine(1) as engine:
        return [dict(graph.run(planner, partition, engine)) for partition in planner.dataset.partitions()]


def rows(made: list[dict[str, ShardSet]]) -> list[dict[str, Any]]:
    """Those of the embeddings, by the raw object that they come from."""
    found = [row for each in made for row in each["embeddings"].table().to_pylist()]
    return sorted(found, key=lambda row: row["source_uri"])


def test_a_partition_split_in_two(new_dataset: NewDataset, counting: Instruments) -> None:
    """The keys lose the folder that names the partition then; neither stage reads them."""
    whole = run(new_dataset(["2026"]))
    assert counting.taken() == Cost(COUNT, COUNT, COUNT)
    halves = run(new_dataset(["1", "2"], "raw/2026"))
    assert counting.taken() == Cost(0, 0, 0)
    assert [each["embeddings"].copied for each in halves] == [COUNT // 2] * 2
    assert {row["key"] for row in rows(whole)} == {f"{1 + n % 2}/image_{n:03}" for n in range(COUNT)}
    assert {row["key"] for row in rows(halves)} == {f"image_{n:03}" for n in range(COUNT)}
    for before, now in zip(rows(whole), rows(halves), strict=True):
        assert now["embedding"] == before["embedding"]


def test_two_partitions_made_one(new_dataset: NewDataset, counting: Instruments) -> None:
    run(new_dataset(["1", "2"], "raw/2026"))
    assert counting.taken() == Cost(COUNT, COUNT, COUNT)
    run(new_dataset(["2026"]))
    assert counting.taken() == Cost(0, 0, 0)


def test_a_prefix_renamed(new_dataset: NewDataset, counting: Instruments, somewhere: Place) -> None:
    """Of new objects nothing is known before they are fetched; then the rest is there."""
    run(new_dataset(["2026"]))
    for number in range(COUNT):
        somewhere.put(f"raw/renamed/{1 + number % 2}/image_{number:03}.jpg", photograph(number))
    counting.taken()
    run(new_dataset(["renamed"]))
    assert counting.taken() == Cost(0, 0, COUNT)


def test_what_another_dataset_has_embedded(new_dataset: NewDataset, counting: Instruments) -> None:
    of = {**SMALL, "of": "webdataset_shards"}
    run(new_dataset(["2026"], embedder=of))
    counting.taken()
    run(new_dataset(["1", "2"], "raw/2026", name="other", transform=None, embedder=of, shards={"max_samples": 3}))
    assert counting.taken() == Cost(0, 0, 0)


def test_another_root_is_another_world(new_dataset: NewDataset, counting: Instruments, somewhere: Place) -> None:
    run(new_dataset(["2026"]))
    counting.taken()
    run(new_dataset(["2026"], root=f"{somewhere.uri}/elsewhere"))
    assert counting.taken() == Cost(COUNT, COUNT, COUNT)


@pytest.mark.parametrize("harm", ["lost", "damaged", "misleading"])
def test_a_catalog_is_lost_without_harm(
    harm: str, new_dataset: NewDataset, counting: Instruments, somewhere: Place
) -> None:
    """Where it leads nowhere, samples are made as if there were none."""
    before = rows(run(new_dataset(["2026"])))
    files = [info.uri for info in somewhere.storage.list(catalogs_below(f"{somewhere.uri}/root"))]
    assert len(files) == 3
    for uri in files:
        if harm == "lost":
            somewhere.storage.delete(uri)
        elif harm == "damaged":
            somewhere.put(uri.removeprefix(f"{somewhere.uri}/"), b"PAR1 no table")
    if harm == "misleading":  # the partition that it leads to is of another transform by now
        run(new_dataset(["2026"], transform={**CROP, "jpeg_quality": 50}, embedder={**SMALL, "normalize": True}))
    counting.taken()
    made = rows(run(new_dataset(["1", "2"], "raw/2026")))
    expected = Cost(COUNT, COUNT, COUNT) if harm != "misleading" else Cost(COUNT, COUNT, 0)
    assert counting.taken() == expected
    assert [row["embedding"] for row in made] == [row["embedding"] for row in before]


@pytest.mark.parametrize("somewhere", ["file"], indirect=True)
def test_a_store_that_refuses_the_catalog_fails_nothing(
    new_dataset: NewDataset, counting: Instruments, somewhere: Place
) -> None:
    blocked = Path(catalogs_below(f"{somewhere.uri}/root").removeprefix("file://"))
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    made = run(new_dataset(["2026"]))
    assert counting.taken() == Cost(COUNT, COUNT, COUNT)
    assert made[0]["embeddings"].commit.total_samples == COUNT
