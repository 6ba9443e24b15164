"""Which sample is handed out when, and to whom: every one once, in an order that seed, epoch and topology decide."""

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill.loading.order import (
    Lane,
    Topology,
    cut,
    draws,
    joined,
    lane_bounds,
    lanes_of,
    left,
    length,
    line_of,
    mixed,
    rank_run,
)

SIZES = st.lists(st.integers(0, 40), max_size=12)
TOPOLOGIES = st.builds(
    Topology, st.sampled_from([1, 2, 8]), st.sampled_from([1, 2, 8]), st.integers(1, 9), st.just(False)
)
MANY = 3 * 4096 + 17
"""More than what is mixed together."""


def samples_of(pieces) -> list[tuple[int, int]]:
    return [(shard, number) for shard, first, stop, _ in pieces.tolist() for number in range(first, stop)]


def placed(count: int, buffer: int, seeds=(1,), start: int = 0) -> list[int]:
    return [position for block in mixed(count, buffer, seeds, start) for position in block.tolist()]


# The line.


@given(SIZES, st.booleans(), st.integers(0, 3))
def test_a_line_has_every_sample_once(sizes, shuffle, epoch) -> None:
    line = samples_of(line_of(sizes, shuffle, 0, epoch))
    assert sorted(line) == [(shard, number) for shard, size in enumerate(sizes) for number in range(size)]


def test_shards_come_in_another_order_in_another_epoch_and_with_another_seed() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return line_of([1] * 50, True, seed, epoch)[:, 0].tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert line_of([1] * 50, False, 0, 5)[:, 0].tolist() == list(range(50))


def test_the_order_is_the_same_with_every_version_of_numpy() -> None:
    assert line_of([1] * 8, True, 7, 2)[:, 0].tolist() == [0, 3, 5, 1, 4, 2, 6, 7]
    assert placed(10, 4, (7, 2)) == [0, 4, 1, 2, 3, 7, 5, 9, 6, 8]


@given(SIZES, st.data())
def test_a_part_of_a_line_is_what_lies_there(sizes, data) -> None:
    line = line_of(sizes, True, 0, 0)
    start = data.draw(st.integers(0, sum(sizes)))
    stop = data.draw(st.integers(0, sum(sizes)))
    assert samples_of(cut(line, start, stop)) == samples_of(line)[start:stop]


@given(SIZES, st.sets(st.integers(0, 300)))
def test_pieces_that_follow_each_other_become_one(sizes, cuts) -> None:
    line = line_of(sizes, True, 0, 0)
    bounds = [0, *sorted(cuts), length(line)]
    parts = np.concatenate([line[:0], *(cut(line, low, high) for low, high in pairwise(bounds))])
    assert joined(parts).tolist() == line.tolist()


# Ranks and workers.


@given(SIZES, TOPOLOGIES)
def test_every_sample_is_in_one_lane_of_one_rank(sizes, topology) -> None:
    line = line_of(sizes, True, 0, 0)
    lanes = [lane for rank in range(topology.ranks) for lane in lanes_of(line, rank, topology, 5, (0,))]
    assert [each for lane in lanes for each in samples_of(lane.pieces)] == samples_of(line)


@given(st.integers(0, 200), TOPOLOGIES)
def test_ranks_differ_by_one_sample_and_only_the_last_batch_of_a_rank_is_short(total, topology) -> None:
    runs = [rank_run(total, rank, topology) for rank in range(topology.ranks)]
    sizes = [stop - start for start, stop in runs]
    assert max(sizes) - min(sizes) <= 1
    for size in sizes:
        lanes = np.diff(lane_bounds(size, topology)).tolist()
        in_turn = [
            min(topology.batch_size, lane - batch * topology.batch_size)
            for batch in range(size)
            for lane in lanes
            if lane > batch * topology.batch_size
        ]
        assert sum(in_turn) == size
        assert all(each == topology.batch_size for each in in_turn[:-1])


@given(SIZES, TOPOLOGIES)
def test_equal_ranks_have_equally_many_and_what_is_repeated_is_told(sizes, topology) -> None:
    topology = Topology(topology.ranks, topology.lanes, topology.batch_size, True)
    line = line_of(sizes, True, 0, 0)
    ranks = [lanes_of(line, rank, topology, 5, (0,)) for rank in range(topology.ranks)]
    assert len({sum(map(len, lanes)) for lanes in ranks}) == 1
    counts = Counter(each for lanes in ranks for lane in lanes for each in samples_of(lane.pieces))
    assert set(counts) == set(samples_of(line))
    repeated = sum(lane.repeats for lanes in ranks for lane in lanes)
    assert repeated == counts.total() - sum(sizes)
    assert repeated < topology.ranks
    unread = np.concatenate([line[:0], *(lane.unread() for lanes in ranks for lane in lanes)])
    assert samples_of(joined(unread)) == samples_of(line)  # what would be repeated is not left over


# The buffer.


@pytest.mark.parametrize("buffer", [1, 2, 100, 5000, 100_000])
def test_a_buffer_gives_every_sample_once_and_holds_no_more_than_it_may(buffer: int) -> None:
    order = placed(MANY, buffer)
    assert sorted(order) == list(range(MANY))
    read = np.maximum.accumulate(order) + 1
    assert (read - np.arange(MANY)).max() <= buffer


def test_a_buffer_mixes_well() -> None:
    """Samples that were neighbours come out far from each other, as far as the buffer is large."""
    buffer = 1000
    order = np.array(placed(MANY, buffer))
    places = np.argsort(order)
    moved = np.abs(places - np.arange(MANY))
    assert moved.mean() > buffer / 5
    apart = np.abs(np.diff(places[buffer:-buffer]))
    assert apart.mean() > buffer / 4  # of two independent places in a window, a third
    assert (apart == 1).mean() < 0.01
    first_shard = places[:4000]  # and of samples that lay together, the first half is not handed out first
    assert 0.1 < (np.diff(first_shard) < 0).mean() < 0.9


@given(st.integers(0, MANY), st.sampled_from([1, 3, 700, 6000]))
def test_the_order_goes_on_at_any_place_as_if_it_had_not_been_left(start, buffer) -> None:
    whole = ORDERS.setdefault(buffer, placed(MANY, buffer))
    assert placed(MANY, buffer, start=start) == whole[start:]
    some, rest = left(MANY, buffer, (1,), start)
    assert sorted([*some.tolist(), *range(rest, MANY)]) == sorted(whole[start:])
    assert [*some.tolist(), *range(rest, MANY)][:1] == whole[start : start + 1]
    assert len(some) <= 3 * max(buffer, 4096)


ORDERS: dict[int, list[int]] = {}


def test_lanes_are_mixed_each_in_its_own_way() -> None:
    assert len({tuple(placed(50, 20, seeds)) for seeds in ((1, 0), (1, 1), (2, 0))}) == 3


# Mixtures.


def lane(count: int, seed: int = 0, inputs: int = 0) -> Lane:
    return Lane(line_of([count], False, 0, 0), 1, (seed,), inputs)


def test_streams_are_drawn_from_by_weight_until_all_are_read() -> None:
    drawn = list(draws([3, 1], [lane(20_000), lane(20_000, 1)]))
    assert Counter(drawn) == {0: 20_000, 1: 20_000}
    assert 0.73 < 1 - np.mean(drawn[:20_000]) < 0.77
    assert set(drawn[-10_000:]) == {1}


@given(st.integers(0, 60))
def test_a_mixture_goes_on_as_if_it_had_not_been_left(start: int) -> None:
    whole = list(draws([2, 1, 1], [lane(10), lane(20), lane(30)]))
    done = Counter(islice(whole, start))
    assert list(draws([2, 1, 1], [lane(10, 0, done[0]), lane(20, 0, done[1]), lane(30, 0, done[2])])) == whole[start:]
