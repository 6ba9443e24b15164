"""Two runs of one partition at once leave one consistent partition."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shardmill import graph
from shardmill.engines import LocalEngine
from shardmill.errors import ConflictError
from shardmill.shards.reader import ShardSet
from shardmill.shards.verify import verify
from tests.small import ASSETS, BASIS, make, plan

ROUNDS = 12


def run_both(datasets, run_chain) -> list[ShardSet]:
    """What two simultaneous runs of list and pack gave: neither fails."""
    barrier = threading.Barrier(2)

    def run(dataset) -> ShardSet:
        barrier.wait()
        return run_chain(dataset, last="webdataset_shards")["webdataset_shards"]

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, datasets))


def assert_consistent(dataset, keys: set[str]) -> None:
    for asset in ("raw_images", "webdataset_shards"):
        shards = dataset.stored(asset, "p")
        assert shards is not None
        assert list(verify(shards)) == []
    found = [sample.key for shard in shards.shards for sample, _ in shard.read(dataset.storage)]
    assert len(found) == len(set(found))
    assert set(found) == keys


def test_two_equal_runs_at_once_leave_one_partition_and_both_succeed(
    tmp_path: Path, images, make_dataset, run_chain
) -> None:
    keys = set(images(tmp_path / "raw", 24))
    for number in range(ROUNDS):
        dataset = make_dataset(tmp_path / "raw", tmp_path / f"root{number}", shards={"max_samples": 8})
        first, second = run_both([dataset, dataset], run_chain)
        assert first.commit.digest == second.commit.digest
        assert_consistent(dataset, keys)


def test_two_different_runs_at_once_leave_the_whole_of_one_and_the_next_run_mends_the_rest(
    tmp_path: Path, images, make_dataset, run_chain
) -> None:
    """They pack differently, so each one's shards are rubbish to the other."""
    keys = set(images(tmp_path / "raw", 24))
    for number in range(ROUNDS):
        root = tmp_path / f"root{number}"
        datasets = [make_dataset(tmp_path / "raw", root, shards={"max_samples": limit}) for limit in (4, 9)]
        run_chain(datasets[0], last="raw_images")
        run_both(datasets, run_chain)
        committed = datasets[0].stored("webdataset_shards", "p")
        assert committed is not None
        found = [sample.key for shard in committed.shards for sample, _ in shard.read(datasets[0].storage)]
        assert sorted(found) == sorted(keys)  # whole before anyone tidies up
        run_chain(datasets[1], last="webdataset_shards")
        assert_consistent(datasets[1], keys)


def test_a_run_that_comes_second_changes_nothing(tmp_path: Path, images, make_dataset, snapshot, run_chain) -> None:
    """It looked before the other committed, and commits after it."""
    images(tmp_path / "raw", 24)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root")
    raw = run_chain(dataset, last="raw_images")["raw_images"]
    root = tmp_path / "root"

    class SlowEngine(LocalEngine):
        def run(self, *arguments):
            yield from super().run(*arguments)
            nonlocal between
            run_chain(dataset, last="webdataset_shards")
            between = snapshot(root)

    between = None
    lazy = plan(dataset, "webdataset_shards", "p", {"raw_images": raw})
    later = make(dataset, "webdataset_shards", "p", lazy, SlowEngine(1))
    assert snapshot(root) == between
    assert later.commit == dataset.stored("webdataset_shards", "p").commit


def test_a_run_that_lost_its_commit_plans_again_with_what_stands(
    tmp_path: Path, images, make_dataset, run_chain
) -> None:
    """An image that came while it was at work is in what it leaves, too."""
    keys = images(tmp_path / "raw", 24)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", shards={"max_samples": 8})

    class OvertakenEngine(LocalEngine):
        def run(self, make, *arguments):
            yield from super().run(make, *arguments)
            if make.stage.name == "pack" and len(keys) == 24:
                keys.extend(images(tmp_path / "raw", 1, first=500))
                run_chain(dataset, last="webdataset_shards")

    made = dict(graph.run(dataset, "p", OvertakenEngine(1)))
    assert {sample.key for sample in made["webdataset_shards"].samples()} == set(keys)
    assert made["embeddings"].commit.total_samples == 25
    assert_consistent(dataset, set(keys))


@pytest.mark.parametrize("keep", [0.0, 3600.0])
@pytest.mark.parametrize(
    "asset", ["raw_images", "webdataset_shards", "transformed_shards", "embeddings", "embedding_map"]
)
def test_a_run_that_was_overtaken_puts_nothing_older_in_the_place_of_what_is_newer(
    tmp_path: Path, images, make_dataset, run_chain, asset: str, keep: float
) -> None:
    """Stopped right after it had planned, while another run saw more images and went to the end."""
    keys = images(tmp_path / "raw", 24)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", keep_superseded=keep)
    made = run_chain(dataset)
    order = [*ASSETS[:-1], BASIS, ASSETS[-1]]
    number = order.index(asset)
    images(tmp_path / "raw", 2, first=500)
    made = run_chain(dataset, last=order[number - 1]) if number else made
    overtaken = plan(dataset, asset, "p", made)
    keys += ["image_00500", "image_00501", *images(tmp_path / "raw", 3, first=700)]
    newer = run_chain(dataset)
    with pytest.raises(ConflictError) as caught:
        make(dataset, asset, "p", overtaken, LocalEngine(1))
    assert not caught.value.final
    standing = {each: dataset.stored(each, "p").commit.digest for each in ASSETS}
    assert standing == {each: newer[each].commit.digest for each in ASSETS}
    assert {found.state for found in graph.states(dataset, "p")} == {"up to date"}
    assert_consistent(dataset, set(keys))
