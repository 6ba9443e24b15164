import hashlib
import itertools
import random
import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shardmill.shards import slicing
from shardmill.shards.slicing import TRIE_DEPTH, Slice, slice_by_hash, slice_by_key

SliceUp = Callable[[pa.StringArray, NDArray[np.int64], int, int], list[Slice]]
BOTH = pytest.mark.parametrize("slice_up", [slice_by_hash, slice_by_key])

SIZES = st.dictionaries(st.text("abc/0", min_size=1, max_size=8), st.integers(0, 100), max_size=80)
LIMITS = st.tuples(st.integers(1, 20), st.integers(1, 500))


def cut(
    slice_up: SliceUp, sizes: dict[str, int], max_samples: int, max_bytes: int
) -> list[tuple[str, tuple[str, ...]]]:
    """Each shard's id and keys."""
    keys = sorted(sizes)
    figures = np.array([sizes[key] for key in keys], np.int64)
    slices = slice_up(pa.array(keys, pa.string()), figures, max_samples, max_bytes)
    return [(piece.id, tuple(keys[index] for index in piece.members)) for piece in slices]


def many(count: int, seed: int = 0) -> dict[str, int]:
    numbers = random.Random(seed).sample(range(10**6), count)
    return {f"{number:06d}": 1 for number in numbers}


@BOTH
@given(sizes=SIZES, limits=LIMITS)
def test_every_sample_is_in_exactly_one_shard(
    slice_up: SliceUp, sizes: dict[str, int], limits: tuple[int, int]
) -> None:
    members = [key for _, keys in cut(slice_up, sizes, *limits) for key in keys]
    assert sorted(members) == sorted(sizes)


@BOTH
@given(sizes=SIZES, limits=LIMITS)
def test_limits_hold_unless_one_sample_alone_is_over_them(
    slice_up: SliceUp, sizes: dict[str, int], limits: tuple[int, int]
) -> None:
    max_samples, max_bytes = limits
    for _, keys in cut(slice_up, sizes, *limits):
        assert 0 < len(keys) <= max_samples
        assert len(keys) == 1 or sum(sizes[key] for key in keys) <= max_bytes


@BOTH
@given(sizes=SIZES, limits=LIMITS)
def test_ids_are_six_hexadecimal_digits_and_unique(
    slice_up: SliceUp, sizes: dict[str, int], limits: tuple[int, int]
) -> None:
    ids = [shard for shard, _ in cut(slice_up, sizes, *limits)]
    assert all(re.fullmatch("[0-9a-f]{6}", shard) for shard in ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("slice_up", "max_samples"), [(slice_by_hash, 10), (slice_by_key, 100)])
def test_ids_of_thousands_of_shards_are_unique(slice_up: SliceUp, max_samples: int) -> None:
    ids = [shard for shard, _ in cut(slice_up, many(60_000), max_samples, 10**9)]
    assert len(ids) > 2000
    assert len(set(ids)) == len(ids)


def test_ids_are_unique_even_where_their_hashes_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicing, "_hash", lambda _: 2**64 - 1)
    ids = [shard for shard, _ in cut(slice_by_key, many(10), 1, 10)]
    assert len(set(ids)) == 10


@BOTH
def test_shards_of_nothing_are_none(slice_up: SliceUp) -> None:
    assert cut(slice_up, {}, 10, 10) == []


# By hash


@settings(max_examples=300)
@given(
    st.sets(st.text("abc/0", min_size=1, max_size=8), min_size=1, max_size=80),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_a_change_of_one_sample_touches_at_most_two_shards_of_uniform_samples(
    keys: set[str], max_samples: int, max_bytes: int
) -> None:
    with_it = dict.fromkeys(sorted(keys), 1)
    without = dict(list(with_it.items())[1:])
    before = {members for _, members in cut(slice_by_hash, without, max_samples, max_bytes)}
    after = {members for _, members in cut(slice_by_hash, with_it, max_samples, max_bytes)}
    assert len(before - after) <= 2
    assert len(after - before) <= 2


def test_shards_that_a_change_does_not_touch_keep_their_ids() -> None:
    sizes = many(5000)
    before = dict(map(reversed, cut(slice_by_hash, sizes, 100, 10**9)))
    after = dict(map(reversed, cut(slice_by_hash, sizes | {"new": 1}, 100, 10**9)))
    common = before.keys() & after.keys()
    assert len(common) >= len(before) - 2
    assert all(before[members] == after[members] for members in common)


def test_an_id_stays_while_the_shard_neither_splits_nor_merges() -> None:
    sizes = many(5000)
    for number in range(20):
        changed = cut(slice_by_hash, sizes | {f"new {number}": 1}, 100, 10**9)
        before = cut(slice_by_hash, sizes, 100, 10**9)
        if len(changed) == len(before):
            assert [shard for shard, _ in changed] == [shard for shard, _ in before]


def test_hash_order_is_a_shuffle_within_and_across_shards() -> None:
    order = [key for _, members in cut(slice_by_hash, many(2000), 100, 10**9) for key in members]
    ups = sum(one < two for one, two in itertools.pairwise(order))
    assert 900 < ups < 1100


def test_ids_of_hash_shards_are_in_the_order_of_the_shards() -> None:
    ids = [shard for shard, _ in cut(slice_by_hash, many(2000), 50, 10**9)]
    assert ids == sorted(ids)


def test_a_trie_as_deep_as_its_ids_splits_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicing, "_hash", lambda _: 12345)
    [(shard, members)] = cut(slice_by_hash, many(10), 3, 10**9)
    assert (shard, list(members)) == ("000000", sorted(members))
    assert TRIE_DEPTH == 24


def test_shards_are_filled_between_half_and_whole_on_average() -> None:
    lengths = [len(members) for _, members in cut(slice_by_hash, many(20_000), 100, 10**9)]
    assert 50 <= sum(lengths) / len(lengths) <= 100


def test_a_sample_as_large_as_a_shard_may_split_more_than_one() -> None:
    """What the docstring admits; were it not so, this says that the docstring can be stricter."""
    sizes = many(64)
    before = {members for _, members in cut(slice_by_hash, sizes, 100, 100)}
    after = {members for _, members in cut(slice_by_hash, sizes | {"huge": 1000}, 100, 100)}
    assert len(before) == 1
    assert len(after) > 2


@pytest.mark.parametrize(("max_samples", "max_bytes"), [(64, 10**9), (10**9, 64)])
def test_a_shard_by_hash_holds_as_much_as_its_limits_say_and_no_more(max_samples: int, max_bytes: int) -> None:
    assert len(cut(slice_by_hash, many(64), max_samples, max_bytes)) == 1
    assert len(cut(slice_by_hash, many(65), max_samples, max_bytes)) == 2


# By key


def hashed(low: float, high: float, count: int) -> list[str]:
    """Keys, in order, whose hashes are so far between the least and the greatest."""
    keys = (f"{number:06d}" for number in itertools.count())
    shares = ((key, int(hashlib.blake2b(key.encode(), digest_size=8).hexdigest(), 16) / 2**64) for key in keys)
    return list(itertools.islice((key for key, share in shares if low <= share < high), count))


@pytest.mark.parametrize(("max_samples", "max_bytes"), [(8, 10**9), (10**9, 80)])
def test_a_shard_by_key_holds_as_much_as_its_limits_say_and_no_more(max_samples: int, max_bytes: int) -> None:
    """Of samples of an eighth of a shard, those whose hash is in the upper half cut nothing."""
    keys = hashed(0.5, 1.0, 20)
    shards = cut(slice_by_key, dict.fromkeys(keys, 10), max_samples, max_bytes)
    assert [len(members) for _, members in shards] == [8, 8, 4]


def test_a_large_sample_cuts_by_its_content_more_often_than_a_small_one() -> None:
    """Of an eighth of a shard: where its hash is in the lower half."""
    keys = hashed(0.1, 0.5, 20)
    assert len(cut(slice_by_key, dict.fromkeys(keys, 10), 10**9, 80)) == 20
    assert len(cut(slice_by_key, dict.fromkeys(keys, 1), 10**9, 80)) == 1


@given(SIZES, LIMITS)
def test_key_order_is_kept(sizes: dict[str, int], limits: tuple[int, int]) -> None:
    members = [key for _, keys in cut(slice_by_key, sizes, *limits) for key in keys]
    assert members == sorted(sizes)


def test_a_change_of_one_sample_touches_few_shards_in_key_order() -> None:
    sizes = many(5000)
    before = {members for _, members in cut(slice_by_key, sizes, 100, 10**9)}
    changes = []
    for number in range(100):
        after = {members for _, members in cut(slice_by_key, sizes | {f"{number * 9999:06d}x": 1}, 100, 10**9)}
        changes.append(len(after ^ before))
    assert max(changes) <= 8
    assert sum(changes) / len(changes) < 3


def test_shards_that_a_change_does_not_touch_keep_their_ids_in_key_order() -> None:
    sizes = many(5000)
    before = dict(map(reversed, cut(slice_by_key, sizes, 100, 10**9)))
    after = dict(map(reversed, cut(slice_by_key, sizes | {"500000x": 1}, 100, 10**9)))
    assert all(before[members] == after[members] for members in before.keys() & after.keys())


def test_key_shards_are_filled_to_a_quarter_on_average_and_rarely_cut_by_the_limit() -> None:
    lengths = [len(members) for _, members in cut(slice_by_key, many(60_000), 400, 10**9)]
    assert 80 <= sum(lengths) / len(lengths) <= 120
    assert max(lengths) == 400
    assert sum(length == 400 for length in lengths) / len(lengths) < 0.05
