"""A loader's epochs: every sample once, for any ranks, workers and interruptions; what is skipped, mixed and repeated.

The lanes of workers are read in this process, in turn, as worker processes would: `test_workers` has real ones.
"""

import json
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardmill.errors import ConfigurationError, CorruptionError, Rejected
from shardmill.loading.loader import Loader
from shardmill.loading.mixture import Mixture
from shardmill.loading.order import Topology
from shardmill.loading.sources import Source
from shardmill.loading.stream import ShardStream
from tests.shardmill.loading.stand_ins import ListShard, Several, Spelled, handed_out, keys, shards, stream

SIZES = (7, 30, 1, 0, 12, 25)


class InTurn(Loader):
    """A loader of so many lanes, which take turns in this process."""

    def __init__(self, read: Any, batch_size: int = 4, *, lanes: int = 0, **arguments: Any) -> None:
        super().__init__(read, batch_size, **arguments)
        self.lanes = max(1, lanes)

    def _place(self):
        rank, topology = super()._place()
        return rank, Topology(topology.ranks, self.lanes, topology.batch_size, topology.equal)

    def _made(self, batches):
        waiting = [batches.of_lane((lane + batches.first) % self.lanes) for lane in range(self.lanes)]
        while waiting:
            lane = waiting.pop(0)
            batch = next(lane, None)
            if batch is not None:
                waiting.append(lane)
                yield batch


def ranks_of(read: Any, ranks: int, lanes: int = 0, **arguments: Any) -> list[InTurn]:
    return [InTurn(read, rank=rank, ranks=ranks, lanes=lanes, **arguments) for rank in range(ranks)]


def some(loader: Loader, batches: int) -> list[str]:
    """Take so many batches and leave."""
    return handed_out(islice(loader, batches))


def resumed(states: Any, read: Any, ranks: int, lanes: int = 0, **arguments: Any) -> list[InTurn]:
    loaders = ranks_of(read, ranks, lanes, **arguments)
    for loader in loaders:
        loader.load_state_dict(json.loads(json.dumps(states)))
    return loaders


# Every sample once.


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("lanes", [0, 2, 8])
@pytest.mark.parametrize("interrupted", ["start", "middle", "end", "behind it"])
@pytest.mark.parametrize("then", [(1, 0), (2, 8), (8, 2)])
@pytest.mark.parametrize("states", ["all", "one"])
def test_every_sample_comes_once_whatever_ranks_and_workers_go_on(
    ranks: int, lanes: int, interrupted: str, then: tuple[int, int], states: str
) -> None:
    read = stream(*SIZES, shuffle=True, buffer=20)
    before = ranks_of(read, ranks, lanes)
    steps = max(map(len, before))
    taken = {"start": 0, "middle": steps // 2, "end": steps - 1, "behind it": steps}[interrupted]
    first = [key for loader in before for key in some(loader, taken)]
    state = [loader.state_dict() for loader in before]
    after = resumed(state if states == "all" else state[0], read, *then)
    rest = [handed_out(loader) for loader in after]
    assert sorted([*first, *chain(*rest)]) == sorted(keys(*SIZES))
    assert max(map(len, rest)) - min(map(len, rest)) <= (1 if then != (ranks, max(1, lanes)) else 4)


@settings(max_examples=60)
@given(st.data())
def test_every_sample_comes_once_for_any_shards_and_any_interruptions(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=8))
    several = {key: data.draw(st.sampled_from([0, 2, 3])) for key in keys(*sizes)[::5]}
    rejected = frozenset(keys(*sizes)[3::7])
    prepare = Several(several, rejected)
    read = stream(
        *sizes,
        prepare=prepare,
        shuffle=data.draw(st.booleans()),
        buffer=data.draw(st.sampled_from([1, 5, 50])),
        on_reject="skip",
    )
    expected = Counter(name for key in keys(*sizes) if key not in rejected for name in children(key, several))
    given_out: Counter[str] = Counter()
    state = None
    for _ in range(data.draw(st.integers(0, 4))):
        topology = data.draw(st.sampled_from([1, 2, 3])), data.draw(st.sampled_from([0, 2, 3]))
        loaders = resumed(state, read, *topology) if state else ranks_of(read, *topology)
        for loader in loaders:
            given_out.update(some(loader, data.draw(st.integers(0, 3))))
        state = [loader.state_dict() for loader in loaders]
        if len({each["epoch"] for each in state}) > 1 or state[0]["epoch"]:
            return  # one of them had come to the end
    loaders = resumed(state, read, 2, 2) if state else ranks_of(read, 2, 2)
    given_out.update(key for loader in loaders for key in handed_out(loader))
    assert given_out == expected
    assert (
        sum((loader.skipped for loader in loaders), Counter()) == Counter({"broken image": len(rejected)}) + Counter()
    )


def children(key: str, several: dict[str, int]) -> list[str]:
    count = several.get(key, 1)
    return [key] if count == 1 else [f"{key}~{number}" for number in range(count)]


# Order.


@pytest.mark.parametrize("lanes", [0, 3])
@pytest.mark.parametrize("taken", [1, 4, 7])
def test_with_the_same_ranks_and_workers_the_order_is_that_of_no_interruption(lanes: int, taken: int) -> None:
    read = stream(*SIZES, shuffle=True, buffer=20)
    whole = [handed_out(loader) for loader in ranks_of(read, 2, lanes)]
    before = ranks_of(read, 2, lanes)
    first = [some(loader, taken) for loader in before]
    for states in ([loader.state_dict() for loader in before], before[0].state_dict()):
        after = [handed_out(loader) for loader in resumed(states, read, 2, lanes)]
        assert [one + two for one, two in zip(first, after, strict=True)] == whole
    again = InTurn(read, rank=1, ranks=2, lanes=lanes)
    again.load_state_dict(before[1].state_dict())
    assert first[1] + handed_out(again) == whole[1]


def test_the_order_is_a_function_of_seed_epoch_and_topology() -> None:
    def order(seed: int = 0, epoch: int = 0, lanes: int = 0) -> list[str]:
        loader = InTurn(stream(*SIZES, shuffle=True, seed=seed, buffer=20), lanes=lanes)
        loader.set_epoch(epoch)
        return handed_out(loader)

    assert order() == order()
    assert len({tuple(each) for each in (order(), order(seed=1), order(epoch=1), order(lanes=2))}) == 4
    in_order = stream(*SIZES)
    assert handed_out(InTurn(in_order)) == keys(*SIZES)


def test_each_iteration_reads_the_next_epoch_and_what_is_left_begins_anew() -> None:
    loader = Loader(stream(*SIZES, shuffle=True), 8)
    epochs = [handed_out(loader) for _ in range(2)]
    assert loader.epoch == 2
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    loader.set_epoch(1)
    assert some(loader, 2) == epochs[1][:16]
    assert loader.epoch == 1
    assert handed_out(loader) == epochs[1]


def test_a_loop_that_another_one_cuts_off_does_not_end_as_if_it_were_whole() -> None:
    loader = Loader(stream(*SIZES), 4)
    outer = 0
    with pytest.raises(ConfigurationError, match="a Loader of its own"):  # noqa: PT012
        for _ in loader:
            outer += 1
            inner = handed_out(loader)
    assert (outer, sorted(inner)) == (1, sorted(keys(*SIZES)))
    with pytest.raises(ConfigurationError, match="a Loader of its own"):
        list(zip(loader, loader, strict=False))
    iterator = iter(loader)
    next(iterator)
    loader.set_epoch(7)
    with pytest.raises(ConfigurationError, match="a Loader of its own"):
        next(iterator)
    ended = iter(loader)
    assert len(list(ended)) == len(loader)
    assert handed_out(loader)
    assert list(ended) == []


def test_the_epoch_reaches_what_is_made_of_the_samples() -> None:
    loader = Loader(stream(5), 5)
    assert [batch["epoch"].tolist() for _ in range(2) for batch in loader] == [[0] * 5, [1] * 5]


def test_a_batch_is_what_a_function_of_ones_own_makes_of_a_list() -> None:
    batches = list(Loader(stream(5), 2, collate_fn=lambda samples: samples))
    assert [[sample["__key__"] for sample in batch] for batch in batches] == [["0/0", "0/1"], ["0/2", "0/3"], ["0/4"]]


def test_the_length_is_that_of_the_rank_and_of_what_is_left() -> None:
    read = stream(*SIZES, shuffle=True)
    for ranks, lanes in ((1, 0), (2, 3), (8, 8)):
        for loader in ranks_of(read, ranks, lanes):
            assert len(loader) == len(list(loader))
    loader = InTurn(read, lanes=3)
    whole = len(loader)
    some(loader, 5)
    assert len(loader) == whole
    for lanes in (3, 2):
        [after] = resumed(loader.state_dict(), read, 1, lanes)
        assert len(after) == whole - 5
        iterator = iter(after)
        next(iterator)
        assert len(after) == whole - 5
        assert len(list(iterator)) == whole - 6
    [after] = resumed(loader.state_dict(), read, 1, 3)
    some(after, 1)
    assert len(after) == len(list(after)) == whole  # it was left, and begins anew


# Equal numbers.


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_equal_ranks_give_equally_many_and_say_what_they_repeat(ranks: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    loaders = ranks_of(stream(*SIZES, shuffle=True), ranks, 2, equal=True)
    assert len({len(loader) for loader in loaders}) == 1
    given_out = [handed_out(loader) for loader in loaders]
    assert len({len(each) for each in given_out}) == 1
    counts = Counter(chain(*given_out))
    assert set(counts) == set(keys(*SIZES))
    assert sum(loader.padded for loader in loaders) == counts.total() - len(counts) == -sum(SIZES) % ranks
    assert ("a second time" in caplog.text) == (sum(SIZES) % ranks > 0)


@pytest.mark.parametrize("states", ["all", "one"])
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_equal_ranks_that_become_others_repeat_nothing_but_what_they_say(taken: int, states: str) -> None:
    read = stream(*SIZES, shuffle=True)
    before = ranks_of(read, 7, 2, equal=True, batch_size=3)
    first = [key for loader in before for key in some(loader, taken)]
    state = [loader.state_dict() for loader in before]
    after = resumed(state if states == "all" else state[2], read, 2, equal=True)
    rest = [handed_out(loader) for loader in after]
    assert len({len(each) for each in rest}) == 1
    counts = Counter([*first, *chain(*rest)])
    assert set(counts) == set(keys(*SIZES))
    assert counts.total() - len(counts) <= sum(loader.padded for loader in [*before, *after]) <= 3


@pytest.mark.parametrize("rejected", ["1/4 1/5", "0/0", "5/24", "0/0 5/24"])
def test_what_equal_ranks_skip_another_sample_takes_the_place_of(rejected: str) -> None:
    read = stream(*SIZES, prepare=Spelled(rejected=frozenset(rejected.split())), on_reject="skip")
    loaders = ranks_of(read, 5, 2, equal=True)
    given_out = [handed_out(loader) for loader in loaders]
    assert [len(each) for each in given_out] == [15] * 5
    skipped = sum((loader.skipped for loader in loaders), Counter())
    assert skipped == Counter({"broken image": len(rejected.split())})
    assert sum(loader.padded for loader in loaders) == skipped.total()
    for taken in range(4):
        before = ranks_of(read, 5, 2, equal=True)
        first = [some(loader, taken) for loader in before]
        after = resumed([loader.state_dict() for loader in before], read, 5, 2, equal=True)
        assert [one + handed_out(loader) for one, loader in zip(first, after, strict=True)] == given_out
        assert sum((loader.skipped for loader in after), Counter()) == skipped


def test_equal_numbers_need_one_result_of_each_sample() -> None:
    loader = Loader(stream(5, prepare=Several({"0/3": 2})), 5, equal=True)
    with pytest.raises(ConfigurationError, match="'0/3' of 0 gave 2 samples"):
        list(loader)


def test_a_lane_of_which_all_is_skipped_has_nothing_to_give_again() -> None:
    loader = Loader(stream(2, prepare=Spelled(rejected=frozenset(keys(2))), on_reject="skip"), 5, equal=True)
    with pytest.raises(ConfigurationError, match="broken image"):
        list(loader)


# Samples that are bad.


def test_a_bad_sample_is_raised_with_its_name_and_its_shard() -> None:
    loader = Loader(stream(3, 4, prepare=Spelled(rejected=frozenset(["1/2"]))), 2)
    with pytest.raises(
        Rejected, match=r"broken image: the sample '1/2' of 1: the letters are smudged.*on_reject"
    ) as raised:
        list(loader)
    assert raised.value.reason == "broken image"
    damaged = ShardStream.of(Source([ListShard("here", 3, frozenset([1]))], "x"), Spelled())
    with pytest.raises(CorruptionError, match="here/1 is damaged"):
        list(Loader(damaged, 2))


def test_bad_samples_are_skipped_and_counted_by_reason_also_after_an_interruption(caplog) -> None:
    source = Source([ListShard("a", 10, frozenset([2, 7])), ListShard("b", 10)], "x")
    read = ShardStream.of(source, Spelled(rejected=frozenset(["a/0", "b/9"])), on_reject="skip")  # type: ignore[arg-type]
    loader = Loader(read, 3)
    assert len(handed_out(loader)) == 16
    assert loader.skipped == {"damaged": 2, "broken image": 2}
    assert "4 samples were skipped: {" in caplog.text
    first = some(loader, 1)
    state = loader.state_dict()
    assert loader.skipped == {"damaged": 1, "broken image": 1}
    again = Loader(read, 3)
    again.load_state_dict(state)
    assert again.skipped == {"damaged": 1, "broken image": 1}
    assert len(first + handed_out(again)) == 16
    assert again.skipped == {"damaged": 2, "broken image": 2}
    ranks = resumed([state], read, 2)
    for each in ranks:
        list(each)
    assert sum((each.skipped for each in ranks), Counter()) == {"damaged": 2, "broken image": 2}


def test_an_error_of_a_transform_names_the_sample() -> None:
    class Fails(Spelled):
        def __call__(self, *_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("of the user's own")

    with pytest.raises(ZeroDivisionError) as raised:
        list(Loader(stream(3, prepare=Fails()), 2))
    assert raised.value.__notes__ == ["It was raised for the sample '0/0' of 0."]


def test_a_stop_iteration_over_a_sample_is_no_end_of_the_epoch() -> None:
    class Stops(Spelled):
        def __call__(self, sample: Any, *arguments: Any) -> list[dict[str, Any]]:
            return super().__call__(sample, *arguments) if sample.key != "0/5" else [next(iter(()))]

    with pytest.raises(RuntimeError, match="StopIteration"):
        handed_out(Loader(stream(20, prepare=Stops()), 4))


def test_threads_of_the_loader_are_the_parallelism() -> None:
    class Tells(Spelled):
        decode = True

        def __call__(self, *arguments: Any, **named: Any) -> Any:
            [made] = super().__call__(*arguments, **named)
            return [{**made, "thread": threading.current_thread().name, "threads": torch.get_num_threads()}]

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        [batch] = Loader(stream(40, prepare=Tells()), 40)
        assert "MainThread" not in batch["thread"]
        assert set(batch["threads"].tolist()) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# Samples that become none or several.


@pytest.mark.parametrize("taken", range(1, 9))
def test_the_children_of_one_sample_are_neither_lost_nor_doubled(taken: int) -> None:
    several = {"0/1": 5, "0/2": 0, "0/4": 7, "0/9": 3}
    read = stream(12, prepare=Several(several))
    expected = [name for key in keys(12) for name in children(key, several)]
    loader = Loader(read, 3)
    first = some(loader, taken)
    for then in (resumed(loader.state_dict(), read, 1), resumed([loader.state_dict()], read, 1, batch_size=2)):
        assert first + handed_out(then[0]) == expected


# Mixtures.


def test_a_mixture_gives_each_sample_of_each_stream_once_by_weight() -> None:
    parts = [named(200, "a", shuffle=True), named(600, "b", seed=1)]
    drawn = handed_out(Loader(Mixture(parts, [1, 1]), 10))
    assert sorted(drawn) == sorted([*(f"a/{n}" for n in range(200)), *(f"b/{n}" for n in range(600))])
    assert 70 < sum(key.startswith("a") for key in drawn[:200]) < 130
    assert drawn[-100:] == [f"b/{n}" for n in range(500, 600)]


def test_a_mixture_that_ends_with_the_first_keeps_the_proportions() -> None:
    parts = [named(100, "a"), named(600, "b", shuffle=True)]
    loader = Loader(Mixture(parts, [1, 3], until="first"), 10)
    epochs = [handed_out(loader) for _ in range(2)]
    for drawn in epochs:
        assert Counter(key[0] for key in drawn) == {"a": 100, "b": 300}
        assert len(set(drawn)) == 400
    assert set(epochs[0]) == set(epochs[1])  # of one shard always the beginning


def test_streams_without_weights_end_together() -> None:
    drawn = handed_out(Loader(Mixture([named(100, "a"), named(900, "b")]), 10))
    assert {key[0] for key in drawn[-100:]} == {"a", "b"}


@pytest.mark.parametrize("then", [(1, 0), (2, 3), (3, 2)])
@pytest.mark.parametrize("until", ["all", "first"])
def test_a_mixture_goes_on_with_any_ranks_and_workers(then: tuple[int, int], until: Any) -> None:
    mixture = Mixture([named(50, "a", shuffle=True), named(70, "b", shuffle=True)], [1, 2], until=until)
    whole = [handed_out(loader) for loader in ranks_of(mixture, 2, 3)]
    before = ranks_of(mixture, 2, 3)
    first = [some(loader, 4) for loader in before]
    states = [loader.state_dict() for loader in before]
    after = [handed_out(loader) for loader in resumed(states, mixture, *then)]
    assert sorted(chain(*first, *after)) == sorted(chain(*whole))
    if then == (2, 3):
        assert [one + two for one, two in zip(first, after, strict=True)] == whole
    with pytest.raises(ConfigurationError, match="list of the states of all ranks"):
        resumed(states[0], mixture, 3)


@pytest.mark.parametrize("weights", [None, [1, 2, 3]])
@pytest.mark.parametrize("until", ["all", "first"])
@pytest.mark.parametrize("taken", [0, 2])
def test_equal_ranks_of_a_mixture_give_equally_many_also_when_they_become_others(
    weights: Any, until: Any, taken: int
) -> None:
    prepare = Spelled(rejected=frozenset(["b/3", "b/16"]))
    skips = ShardStream.of(Source([ListShard("b", 17)], "b"), prepare, on_reject="skip")  # type: ignore[arg-type]
    mixture = Mixture([named(31, "a", shuffle=True), skips, named(5, "c")], weights, until)
    before = ranks_of(mixture, 3, 2, equal=True)
    first = [some(loader, taken) for loader in before]
    after = resumed([loader.state_dict() for loader in before], mixture, 4, 3, equal=True)
    rest = [handed_out(loader) for loader in after]
    assert len({len(each) for each in first}) == len({len(each) for each in rest}) == 1
    if until == "all" or weights is None:
        sizes = {"a": 31, "b": 17, "c": 5}
        everything = {f"{name}/{number}" for name, size in sizes.items() for number in range(size)}
        assert {*chain(*first, *rest)} == everything - prepare.rejected


def named(size: int, name: str, **order: Any) -> ShardStream:
    return ShardStream.of(Source([ListShard(name, size)], name), Spelled(), **order)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [[1], [0, 1], [1, float("inf")], [-1, 2]])
def test_weights_that_cannot_be_are_refused(weights: Sequence[float]) -> None:
    with pytest.raises(ConfigurationError, match="weights"):
        Mixture([stream(1), stream(2)], weights)


# States that do not fit.


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (stream(*SIZES, 1, shuffle=True), "taken of other samples"),
        (stream(*SIZES, shuffle=True, seed=1), "seed=0, and now it is 1"),
        (stream(*SIZES, shuffle=True, buffer=7), "buffer=1000, and now it is 7"),
        (stream(*SIZES), "shuffle"),
        (Mixture([stream(*SIZES, shuffle=True), stream(3)]), "1 streams, and here are 2"),
        (Mixture([stream(*SIZES, shuffle=True)]), "mixture"),
    ],
)
def test_a_state_of_other_samples_or_another_order_is_refused(other: Any, said: str) -> None:
    state = Loader(stream(*SIZES, shuffle=True), 4).state_dict()
    with pytest.raises(ConfigurationError, match=said):
        Loader(other, 4).load_state_dict(state)


def test_what_is_no_state_is_refused() -> None:
    loader = Loader(stream(*SIZES), 4)
    state = loader.state_dict()
    for wrong, said in (
        ({}, "no version"),
        ({**state, "version": 2}, "version 2"),
        ({**state, "parts": "x"}, "damaged at parts"),
        ({**state, "parts": []}, "damaged at parts"),
        ({**state, "parts": [{**state["parts"][0], "done": [[[[-1, 0]]]]}]}, "damaged at parts"),
        ({**state, "parts": [{**state["parts"][0], "done": [[[[0, 0]], [[0, 0]]]]}]}, "damaged at parts"),
        ([], "state_dict"),
        ("x", "state_dict"),
        ([state, state], "of ranks"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            loader.load_state_dict(wrong)  # type: ignore[arg-type]


def test_a_state_that_was_edited_is_refused_wherever_it_says_what_cannot_be() -> None:
    read = stream(*SIZES, shuffle=True, buffer=20)
    first = ranks_of(read, 3)
    for loader in first:
        some(loader, 2)
    second = resumed([loader.state_dict() for loader in first], read, 2, 2)
    for loader in second:
        some(loader, 1)
    whole = json.loads(json.dumps([loader.state_dict() for loader in second]))
    for place, wrong in (
        (("rank",), 7),
        (("turn",), 2),
        (("batches",), 10**30),
        (("epoch",), 10**30),
        (("parts", 0, "done"), []),
        (("parts", 0, "done", 1, 0), []),
        (("parts", 0, "done", 1, 0), [[0, 0], [0, 0]]),
        (("parts", 0, "done", 1, 0, 0, 0), 1000),
        (("parts", 0, "batch_size"), 10**30),
        (("parts", 1, "done"), []),
        (("parts", 1, "done", 0, 0, 0, 0), 1000),
        (("streams", 0, "commits"), 5),
    ):
        for other in (2, 3):
            states = json.loads(json.dumps(whole))
            for state in states:
                part = state
                for name in place[:-1]:
                    part = part[name]
                part[place[-1]] = wrong
            with pytest.raises(ConfigurationError, match=r"damaged|other samples|not those|are of ranks"):
                resumed(states, read, other)
    resumed(whole, read, 3)


def test_states_that_were_not_taken_together_are_refused() -> None:
    one, two = ranks_of(stream(*SIZES), 2)
    list(two)
    with pytest.raises(ConfigurationError, match="of epochs 0 and 1"):
        one.load_state_dict([one.state_dict(), two.state_dict()])


def test_one_state_is_not_enough_where_the_others_do_not_follow_from_it() -> None:
    read = stream(*SIZES, on_reject="skip")
    state = ranks_of(read, 2)[0].state_dict()
    with pytest.raises(ConfigurationError, match="all_gather_object"):
        resumed(state, read, 3)
    resumed(state, read, 3, equal=True) if state["in_step"] else None


# What is read.


def test_a_consumed_shard_is_not_opened_again_and_of_another_only_the_rest_is_read() -> None:
    read = shards(*[10] * 20)
    state = Loader(of_shards(read), 10)
    some(state, 12)
    again = [ListShard(shard.url, shard.samples) for shard in read]
    loader = Loader(of_shards(again), 10)
    loader.load_state_dict(state.state_dict())
    rest = handed_out(loader)
    assert sorted(f"{shard.url}/{number}" for shard in again for number in shard.opened) == sorted(rest)
    assert sum(not shard.opened for shard in again) >= 10


def of_shards(read: list[ListShard]) -> ShardStream:
    return ShardStream.of(Source(read, "x"), Spelled(), shuffle=True, buffer=15)  # type: ignore[arg-type]


def test_little_is_read_ahead_of_what_is_handed_out() -> None:
    [shard] = read = shards(100_000)
    loader = Loader(ShardStream.of(Source(read, "x"), Spelled()), 10)  # type: ignore[arg-type]
    some(loader, 2)
    assert len(shard.opened) < 2000


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"batch_size": True},
        {"batch_size": 4, "workers": -1},
        {"batch_size": 4, "rank": 1},
        {"batch_size": 4, "rank": 2, "ranks": 2},
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Loader(stream(3), **arguments)
    with pytest.raises(ConfigurationError):
        Loader([1, 2], 3)  # type: ignore[arg-type]


def test_rank_and_ranks_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    loader = Loader(stream(10), 4)
    assert "rank 1 of 2" in repr(loader)
    assert handed_out(loader) == keys(10)[5:]
    assert len(stream(10)) == 5
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigurationError, match="WORLD_SIZE"):
        list(loader)
