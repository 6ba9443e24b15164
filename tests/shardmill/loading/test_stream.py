"""Streams of committed shards: in a loader, in torchdata's own, and what they ask of the storage."""

import gc
import pickle
import subprocess
import sys
import weakref
from itertools import islice
from typing import Any

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from shardmill import Loader, ShardStream
from shardmill.errors import ConfigurationError
from shardmill.loading.stream import StreamIterator, rank_and_ranks
from shardmill.shards.reader import ShardSet
from tests.counting import CountingStorage
from tests.servers.places import BUCKETS, Kind, NewPlace
from tests.shardmill.loading.stand_ins import Spelled, handed_out, keys, stream
from tests.spelling import NAME, spell, write

IN_ORDER: dict[str, Any] = {"collate_fn": list, "batch_size": 4}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, images, make_dataset, run_chain) -> ShardSet:
    """Sixty photographs in several shards."""
    base = tmp_path_factory.mktemp("stream")
    images(base / "raw", 60, size=16)
    made = run_chain(make_dataset(base / "raw", base / "root"), last="webdataset_shards")
    return made["webdataset_shards"]


def test_a_loader_gives_batches_of_tensors_of_what_is_committed(packed: ShardSet) -> None:
    loader = Loader(ShardStream(packed.folder, shuffle=True, buffer=10), 16)
    batches = list(loader)
    assert sorted(handed_out(batches)) == sorted(sample.key for sample in packed.samples())
    assert batches[0]["jpg"].shape == (16, 3, 16, 16)
    assert batches[0]["cls"].dtype == torch.int64
    [few] = list(Loader(ShardStream(packed.folder, components=["cls"]), 60))
    assert few.keys() == {"__key__", "__url__", "cls"}


def test_going_on_reads_the_indexes_and_the_ranges_that_are_left(packed: ShardSet) -> None:
    before = Loader(ShardStream(packed, shuffle=True, buffer=5), 4)
    taken = handed_out(islice(before, 12))
    storage = CountingStorage()
    loader = Loader(ShardStream(packed.folder, shuffle=True, buffer=5, storage=storage), 4)
    opened = len(storage.reads)
    assert opened == 1 + len(packed.shards)
    loader.load_state_dict(before.state_dict())
    assert len(storage.reads) == opened
    left = set(handed_out(loader))
    assert left == {sample.key for sample in packed.samples()} - set(taken)
    holds = {
        packed.layout.data(shard.file_name): {key for key, _ in shard.rows(packed.storage)} for shard in packed.shards
    }
    assert sorted(url for verb, url in storage.reads[opened:]) == sorted(url for url in holds if holds[url] & left)


@pytest.mark.parametrize("kind", BUCKETS)
def test_worker_processes_read_from_a_bucket_that_this_process_reads_from(place: NewPlace, kind: Kind) -> None:
    bucket = place(kind)
    write(bucket.storage, f"{bucket.uri}/{NAME}", spell("abcdef"))
    read = ShardStream(f"{bucket.uri}/{NAME}", shuffle=True, storage=bucket.storage)
    assert sorted(handed_out(Loader(read, 2))) == [*"abcdef"]
    loader = Loader(read, 2, workers=2)
    first = handed_out(islice(loader, 1))
    state = loader.state_dict()
    loader.load_state_dict(state)
    assert sorted(first + handed_out(loader)) == [*"abcdef"]


def test_a_buffer_of_large_samples_holds_fewer_of_them(packed: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = max(shard.size / shard.samples for shard in packed.shards)
    monkeypatch.setattr("shardmill.loading.stream._BUFFER_BYTES", 8 * largest)
    assert ShardStream(packed, shuffle=True).line.buffer == 8
    assert ShardStream(packed, shuffle=True, buffer=3).line.buffer == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"buffer": 0}, "buffer is 0"),
        ({"on_reject": "ignore"}, "'raise' or 'skip'"),
    ],
)
def test_arguments_that_cannot_be_are_refused(packed: ShardSet, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        ShardStream(packed, shuffle=True, **arguments)


# In torchdata's own loader.


@pytest.mark.parametrize("taken", [0, 1, 3, 10])
def test_a_loader_of_torchdatas_goes_on_where_its_state_was_taken(taken: int) -> None:
    read = stream(7, 30, 12, shuffle=True, buffer=10)
    read.set_epoch(3)
    whole = list(StatefulDataLoader(read, **IN_ORDER))
    loader = StatefulDataLoader(read, **IN_ORDER)
    first = list(islice(loader, taken))
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    other = stream(7, 30, 12, shuffle=True, buffer=10)
    again = StatefulDataLoader(other, **IN_ORDER)
    again.load_state_dict(state)
    assert first + list(again) == whole
    assert {sample["epoch"] for batch in whole for sample in batch} == {3}


def test_a_stream_alone_is_iterable_and_has_a_length() -> None:
    read = stream(7, 30, shuffle=True)
    assert sorted(sample["__key__"] for sample in read) == sorted(keys(7, 30))
    assert len(read) == 37
    assert repr(read) == "<ShardStream: 37 samples in 2 shards, shuffled>"


FORKS = """
from torch.utils.data import DataLoader
from tests.shardmill.loading.stand_ins import stream

list(DataLoader(stream(9), num_workers=1, multiprocessing_context="fork"))
"""


def test_a_fork_is_refused_where_it_would_hang() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert "ConfigurationError: " in done.stderr
    assert "multiprocessing_context='forkserver'" in done.stderr


def test_a_state_of_another_stream_or_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    iterator = StreamIterator(stream(9, shuffle=True))
    next(iterator)
    state = iterator.state_dict()
    with pytest.raises(ConfigurationError, match="seed=0, and now it is 1"):
        StreamIterator(stream(9, shuffle=True, seed=1)).load_state_dict(state)
    with pytest.raises(ConfigurationError, match="no state that can be resumed"):
        StreamIterator(stream(9)).load_state_dict({})
    for wrong in ({"position": [10, 0]}, {"position": "x"}, {"place": [0]}, {"stream": None}, {"epoch": -1}):
        with pytest.raises(ConfigurationError, match="the state is damaged"):
            StreamIterator(stream(9, shuffle=True)).load_state_dict({**state, **wrong})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match=r"'ranks': 1, .* 'ranks': 2.*Loader"):
        StreamIterator(stream(9, shuffle=True)).load_state_dict(state)


def test_its_iterator_counts_what_it_skips() -> None:
    read = stream(9, prepare=Spelled(rejected=frozenset(["0/1", "0/7"])), on_reject="skip")
    iterator = iter(read)
    for _ in range(4):
        next(iterator)
    again = iter(read)
    again.load_state_dict(iterator.state_dict())
    assert [sample["__key__"] for sample in again] == ["0/5", "0/6", "0/8"]
    assert again.state_dict()["skipped"] == {"broken image": 2}


def test_an_iterator_that_is_left_is_gone_at_once_and_what_it_reads_by() -> None:
    """A collection of garbage would join its threads, in whatever thread and under whatever lock it comes."""
    iterator = iter(stream(1000))
    next(iterator)
    left, results = weakref.ref(iterator), weakref.ref(iterator._results)
    gc.disable()
    try:
        del iterator
        assert (left(), results()) == (None, None)
    finally:
        gc.enable()


@pytest.mark.parametrize(("rank", "ranks"), [(0, None), (None, 2), (2, 2), (-1, 2)])
def test_ranks_that_cannot_be_are_refused(rank: int | None, ranks: int | None) -> None:
    with pytest.raises(ConfigurationError):
        rank_and_ranks(rank, ranks)
