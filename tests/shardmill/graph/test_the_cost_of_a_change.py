"""What each kind of change to a partition costs, by counting; the result is always that of a build from nothing."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from shardmill import graph
from shardmill.errors import ShardmillError, StorageError
from shardmill.graph.orphans import remove_orphans
from tests.changes import Changing, Cost, Instruments, counting, photograph
from tests.servers.places import Kind, NewPlace
from tests.small_embedder import SMALL

__all__ = ["counting"]

COUNT = 40
CROP = {"operations": [{"operation": "CenterCrop", "arguments": {"size": 16}}]}
OTHER_CROP = {"operations": [{"operation": "CenterCrop", "arguments": {"size": 12}}]}
RANDOM = {"operations": [{"operation": "RandomCrop", "arguments": {"size": 14}}], "seed": 3}
FIELDS: dict[str, Any] = {
    "shards": {"max_samples": 16},
    "transform": CROP,
    "embedder": SMALL,
    "max_reject_ratio": 1.0,
}
NewChanging = Callable[..., Changing]


@pytest.fixture(params=["file", "s3"])
def changing(
    request: pytest.FixtureRequest, place: NewPlace, counting: Instruments, embedder_of_tests: dict[str, str]
) -> Changing:
    """Forty samples of an image and a class, made once."""
    kind: Kind = request.param
    made = Changing(place(kind), counting, dict(FIELDS))
    for number in range(COUNT):
        made.put(f"image_{number:03}.jpg", photograph(number))
        made.put(f"image_{number:03}.cls", str(number % 3).encode())
    cost, _ = made.run()
    assert cost == Cost(COUNT, COUNT, 2 * COUNT)
    return made


def check(changing: Changing, expected: Cost) -> None:
    """The next run costs so much, its plan foretells it, and what stands then is what a build from nothing gives."""
    foreseen = {state.asset: state.to_compute for state in graph.states(changing.dataset(), "p")}
    cost, made = changing.run()
    assert cost == expected
    assert foreseen["embeddings"] >= made["embeddings", "p"].computed >= cost.embedded
    assert foreseen["transformed_shards"] >= made["transformed_shards", "p"].computed >= cost.transformed
    assert foreseen["webdataset_shards"] == made["webdataset_shards", "p"].computed
    assert changing.files() == changing.files_from_nothing()


def test_one_added(changing: Changing) -> None:
    changing.put("new.jpg", photograph(1000))
    check(changing, Cost(1, 1, 1))


def test_one_deleted(changing: Changing) -> None:
    changing.delete("image_007.jpg")
    changing.delete("image_007.cls")
    check(changing, Cost(0, 0, 0))


def test_one_replaced(changing: Changing) -> None:
    changing.put("image_007.jpg", photograph(1000))
    check(changing, Cost(1, 1, 1))


@pytest.mark.parametrize("shards", [{"max_samples": 8}, {"max_samples": 32}, {"max_samples": 16, "order": "key"}])
def test_shards_cut_otherwise(changing: Changing, shards: dict[str, Any]) -> None:
    changing.fields["shards"] = shards
    check(changing, Cost(0, 0, 0))


def test_touched(changing: Changing) -> None:
    for number in range(5):
        changing.put(f"image_{number:03}.jpg", photograph(number))
    # S3's version of an object is the digest of its bytes: there it has not changed.
    check(changing, Cost(0, 0, 5 if changing.place.kind == "file" else 0))


def test_the_source_moved(changing: Changing) -> None:
    changing.source = "raw-elsewhere"
    for number in range(COUNT):
        changing.put(f"image_{number:03}.jpg", photograph(number))
        changing.put(f"image_{number:03}.cls", str(number % 3).encode())
    check(changing, Cost(0, 0, 2 * COUNT))


def test_rejects_that_are_mended(changing: Changing) -> None:
    for number in range(8):
        changing.put(f"image_{number:03}.jpg", b"no image")
    cost, made = changing.run()
    assert cost == Cost(0, 0, 8)
    assert made["webdataset_shards", "p"].commit.total_rejects == 8
    for number in range(3):
        changing.put(f"image_{number:03}.jpg", photograph(2000 + number))
    check(changing, Cost(3, 3, 6))  # of a sample that was rejected nothing is kept: its class is fetched again


def test_a_component_is_added_to_every_sample(changing: Changing) -> None:
    for number in range(COUNT):
        changing.put(f"image_{number:03}.txt", f"photograph {number}".encode())
    check(changing, Cost(0, 0, COUNT))


def test_a_mask_is_added_to_every_sample(changing: Changing) -> None:
    """The crop is told to see images, and a mask is one."""
    for number in range(COUNT):
        changing.put(f"image_{number:03}.mask.png", photograph(number, "PNG"))
    changing.fields["embedder"] = {**SMALL, "component": "jpg"}
    changing.fields["transform"] = {"operations": [{**CROP["operations"][0], "components": ["jpg"]}]}
    cost, _ = changing.run()
    assert cost == Cost(0, COUNT, COUNT)  # it is another transform, whose results are the same
    changing.fields["transform"] = CROP
    check(changing, Cost(0, COUNT, 0))


def test_a_mask_that_the_transform_does_not_read(changing: Changing) -> None:
    changing.fields["embedder"] = {**SMALL, "component": "jpg"}
    changing.fields["transform"] = {"operations": [{**CROP["operations"][0], "components": ["jpg"]}]}
    assert changing.run()[0] == Cost(0, COUNT, 0)
    for number in range(COUNT):
        changing.put(f"image_{number:03}.mask.png", photograph(number, "PNG"))
    check(changing, Cost(0, 0, COUNT))


def test_a_mask_is_taken_from_every_sample(changing: Changing) -> None:
    """Nothing is fetched for it, and yet all that reads masks is made anew."""
    for number in range(COUNT):
        changing.put(f"image_{number:03}.mask.png", photograph(number, "PNG"))
    changing.fields["embedder"] = {**SMALL, "component": "jpg"}
    changing.run()
    for number in range(COUNT):
        changing.delete(f"image_{number:03}.mask.png")
    check(changing, Cost(0, COUNT, 0))


def test_another_transform_of_what_is_not_embedded(changing: Changing) -> None:
    changing.fields["embedder"] = {**SMALL, "of": "webdataset_shards"}
    assert changing.run()[0] == Cost(COUNT, 0, 0)
    changing.fields["transform"] = OTHER_CROP
    check(changing, Cost(0, COUNT, 0))


def test_a_random_transform_is_drawn_anew_only_for_a_new_key(changing: Changing) -> None:
    changing.fields["transform"] = RANDOM
    assert changing.run()[0] == Cost(COUNT, COUNT, 0)
    changing.delete("image_003.jpg")
    changing.put("image_renamed.jpg", photograph(3))
    check(changing, Cost(1, 1, 1))


def test_nothing_to_do_costs_nothing(changing: Changing) -> None:
    check(changing, Cost(0, 0, 0))


def test_a_shard_of_another_order_does_not_stand_for_one_of_the_same_samples(
    place: NewPlace, counting: Instruments
) -> None:
    """Even where a run that broke off has made the one that is to be committed."""

    def break_off() -> NoReturn:
        raise StorageError("the store fails")

    changing = Changing(place("file"), counting, {"shards": {"order": "hash"}})
    changing.put("alone.jpg", photograph(1))
    orders, call, is_broken = itertools.cycle(["key", "hash"]), 0, True
    changing.run()
    while is_broken:
        call += 1
        changing.fields["shards"] = {"order": next(orders)}
        counting.break_at(call, break_off)
        with contextlib.suppress(ShardmillError):
            changing.run()
        is_broken = counting.is_broken
        counting.mend()
        _, made = changing.run()
        commit = made["webdataset_shards", "p"].commit
        assert [entry.start for entry in commit.shardlist] == ["alone" if commit.order == "key" else "000000"]
        list(remove_orphans(changing.dataset(), 0.0))
        assert changing.files() == changing.files_from_nothing()
