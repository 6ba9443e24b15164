"""The local engine: threads, processes, what fails in them, and what cancels them."""

import contextlib
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import psutil
import pytest

from shardmill import graph
from shardmill.concurrency import bounded_map
from shardmill.devices import GPUSpec
from shardmill.engines import LocalEngine, local
from shardmill.errors import ConfigurationError, CorruptionError, EngineError, Rejected, ShardmillError
from shardmill.graph import LazyShardSet
from shardmill.progress import Progress
from shardmill.shards.layout import Layout
from shardmill.stages import Resources
from shardmill.storage import Storage
from tests.small import plan

DIES = """
    import multiprocessing, os, pathlib, time

    def transform(sample):
        if sample.key == "image_00007" and pathlib.Path({flag!r}).exists():
            assert multiprocessing.parent_process(), "it would kill the tests"
            while not list(pathlib.Path({root!r}).glob("d/_shardmill/transformed_shards/p/*.index.parquet")):
                time.sleep(0.02)
            os.kill(os.getpid(), 9)
        return sample
"""
SLOW = """
    import pathlib, time

    def transform(sample):
        pathlib.Path({folder!r}, sample.key).touch()
        time.sleep({seconds})
        return sample
"""
WRONG = """
    def transform(sample):
        if sample.key == "image_00033":
            return "no sample"
        return sample
"""


@pytest.fixture
def packed(tmp_path: Path, images, make_dataset, run_chain, write_module):
    """`packed(source)`: 64 images, packed, and the dataset with a custom transform of this source code."""
    images(tmp_path / "raw", 64)

    def make(source: str):
        operation = {"operation": f"{write_module(source)}:transform"}
        dataset = make_dataset(tmp_path / "raw", tmp_path / "root", transform={"operations": [operation]})
        return dataset, run_chain(dataset, last="webdataset_shards")["webdataset_shards"]

    return make


@pytest.mark.parametrize(
    ("resources", "workers", "shards", "processes"),
    [
        (Resources(), 4, 9, 1),
        (Resources(), 5, 9, 2),
        (Resources(), 16, 3, 3),
        (Resources(threads=1), 5, 9, 5),
        (Resources(model=True), 64, 9, 1),
        (Resources(memory=3 << 30), 64, 99, 3),
        (Resources(memory=100 << 30), 64, 99, 1),
        (Resources(gpus=GPUSpec(count=4)), 1, 9, 4),
        (Resources(gpus=GPUSpec(count=4)), 64, 2, 2),
        (Resources(gpus=GPUSpec(count=4)), 64, 99, 4),
        (Resources(gpus=GPUSpec()), 7, 99, 3),
        (Resources(gpus=GPUSpec()), 64, 99, 3),
    ],
)
def test_as_many_processes_share_the_work_as_cores_memory_and_devices_allow(
    monkeypatch: pytest.MonkeyPatch, resources: Resources, workers: int, shards: int, processes: int
) -> None:
    monkeypatch.setattr(local, "available_bytes", lambda: 10 << 30)
    assert local._processes(resources, workers, shards) == processes


HUNGRY = """
    import os, pathlib, time
    from dataclasses import dataclass
    from shardmill.shards.index import IndexWriter
    from shardmill.shards.report import ShardReport
    from shardmill.stages import OutputFiles, Resources, Stage

    @dataclass(frozen=True)
    class Number:
        id: str
        start = ""
        samples = size = 1

        def identity(self):
            return self.id

    @dataclass(frozen=True)
    class Hungry(Stage):
        folder: str
        memory: int
        name = "hungry"
        suffix = "tar"

        @property
        def resources(self):
            return Resources(threads=1, memory=self.memory)

        def parameters(self):
            return {"memory": self.memory}

        def __call__(self, shard, work):
            mark = pathlib.Path(self.folder, str(os.getpid()))
            mark.touch()
            time.sleep(0.2)
            together = len(list(mark.parent.iterdir()))
            mark.unlink()
            counts = {"samples_in": 1, "kept": 0, "filtered": 1, "samples": 0}
            return OutputFiles(None, IndexWriter()), ShardReport(**counts, summary={"together": together})
"""


def test_a_stage_that_needs_more_memory_gets_fewer_processes_of_an_open_engine(
    tmp_path: Path, write_module, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(write_module(HUNGRY))
    (tmp_path / "at work").mkdir()
    monkeypatch.setattr(local, "available_bytes", lambda: 10)
    together = []
    with LocalEngine(4) as engine:
        for memory, partition in ((1, "a"), (5, "b")):
            shards = [module.Number(f"{number:06x}") for number in range(12)]
            lazy = LazyShardSet(module.Hungry(str(tmp_path / "at work"), memory), shards)
            made = lazy.write(Storage(), f"file://{tmp_path}/d/hungry/{partition}", f"d/hungry/{partition}", engine)
            together.append(max(int(entry.summary["together"]) for entry in made.commit.shards))
    assert together[1] <= 2


def transform(dataset, shards, workers: int, progress=lambda _: None):
    lazy = plan(dataset, "transformed_shards", "p", {"webdataset_shards": shards})
    asset = graph.Planner(dataset).graph["transformed_shards"]
    return graph.write(dataset, asset, "p", lazy, LocalEngine(workers), progress)


def workers_of_this_process() -> list[psutil.Process]:
    """Workers, and what the fork server started, but not the fork server and the resource tracker themselves."""
    children = psutil.Process().children(recursive=True)
    workers = []
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie's command line included
            if child.ppid() != os.getpid() and "multiprocessing" in " ".join(child.cmdline()):
                workers.append(child)
    return workers


def test_a_worker_that_dies_is_an_engine_error_that_names_the_stage_and_finished_shards_stay(
    packed, tmp_path: Path, snapshot
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    dataset, shards = packed(DIES.format(flag=str(flag), root=str(tmp_path / "root")))
    folder = Path(Layout.at(dataset.folder("transformed_shards", "p")).side.removeprefix("file://"))
    with pytest.raises(EngineError, match=r"a worker process died while transform ran on .*/transformed_shards/p"):
        transform(dataset, shards, workers=8)
    assert workers_of_this_process() == []
    assert dataset.stored("transformed_shards", "p") is None
    assert not list(folder.glob("index.json"))
    kept = {name: found for name, found in snapshot(folder).items() if name.endswith(".index.parquet")}
    assert kept
    flag.unlink()
    made = transform(dataset, shards, workers=8)
    assert made.commit.total_samples == 64
    assert 0 < made.made < len(made.commit.shards)
    after = snapshot(folder)
    assert {name: after[name] for name in kept} == kept
    assert not list(folder.parents[1].rglob(".shardmill-scratch/*"))


def test_a_temporary_folder_too_long_for_sockets_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 100)
    folder.mkdir()
    code = "from shardmill.engines.local import _start_fork_server; _start_fork_server()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | {"TMPDIR": str(folder)}, capture_output=True, text=True)
    assert f"cannot start worker processes: AF_UNIX path too long; TMPDIR is {folder}" in done.stderr


@pytest.mark.parametrize("workers", [1, 8])
def test_an_error_of_the_stage_names_the_shard(packed, workers: int) -> None:
    dataset, shards = packed(WRONG)
    [faulty] = [
        shard.id for shard in shards.shards for sample, _ in shard.read(shards.storage) if sample.key == "image_00033"
    ]
    with pytest.raises(EngineError, match=f"transform failed on shard {faulty} of .*return a DecodedSample") as caught:
        transform(dataset, shards, workers)
    assert isinstance(caught.value.__cause__, ConfigurationError) or workers > 1
    assert workers_of_this_process() == []


def test_a_full_disk_names_the_shard(packed, monkeypatch: pytest.MonkeyPatch) -> None:
    from shardmill.shards.ustar import TarWriter

    def full(*_):
        raise OSError(28, "No space left on device")

    dataset, shards = packed("def transform(sample): return sample")
    monkeypatch.setattr(TarWriter, "write", full)
    with pytest.raises(EngineError, match=r"transform failed on shard [0-9a-f]{6} .*No space left"):
        transform(dataset, shards, workers=1)


@pytest.mark.parametrize("workers", [1, 8])
def test_what_the_progress_sink_raises_cancels_the_run_at_once(packed, tmp_path: Path, workers: int) -> None:
    class Enough(Exception):
        pass

    def sink(_: Progress) -> None:
        raise Enough

    begun = tmp_path / "begun"
    begun.mkdir()
    dataset, shards = packed(SLOW.format(folder=str(begun), seconds=0.2 * workers))
    from shardmill.progress import ProgressMeter

    original = ProgressMeter.__init__.__defaults__
    ProgressMeter.__init__.__defaults__ = (0.0,)
    try:
        with pytest.raises(Enough):
            transform(dataset, shards, workers, sink)
    finally:
        ProgressMeter.__init__.__defaults__ = original
    assert workers_of_this_process() == []
    assert len(list(begun.iterdir())) < shards.commit.total_samples * 3 / 4
    assert not list(Path(dataset.home.removeprefix("file://")).rglob(".shardmill-scratch/*"))


def test_workers_see_variables_that_were_set_after_the_fork_server_started(
    packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("one", "two"):
        monkeypatch.setenv("LATE", value)
        source = f"import os\n\ndef transform(sample):\n    return sample if os.environ['LATE'] == {value!r} else 1"
        dataset, shards = packed(source)
        assert transform(dataset, shards, workers=8).commit.total_samples == shards.commit.total_samples


@pytest.mark.parametrize("workers", [2, 8])
def test_progress_counts_every_sample_once(packed, workers: int) -> None:
    seen: list[Progress] = []
    dataset, shards = packed("def transform(sample): return sample")
    transform(dataset, shards, workers, seen.append)
    assert seen[-1].done == seen[-1].total == 64
    assert seen[-1].task == "transform d/transformed_shards/p"


@pytest.mark.parametrize("damage", ["flip", "remove", "flip index"])
def test_a_damaged_shard_is_never_transformed(packed, damage: str) -> None:
    dataset, shards = packed("def transform(sample): return sample")
    tar = Path(shards.urls[1].removeprefix("file://"))
    index = Path(shards.layout.beside(shards.shards[1].entry.index).removeprefix("file://"))
    file = index if damage == "flip index" else tar
    if damage == "remove":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        place = data.index(b"\xff\xd8\xff") + 700 if damage == "flip" else data.index(b"file://") + 9
        data[place] ^= 1
        file.write_bytes(data)
    with pytest.raises(EngineError, match=file.name) as caught:
        transform(dataset, shards, workers=1)
    assert isinstance(caught.value.__cause__, CorruptionError)
    assert shards.commit.shardlist[1].id in str(caught.value)
    assert dataset.stored("transformed_shards", "p") is None


def test_errors_pass_from_process_to_process_whole() -> None:
    import pickle

    for error in (Rejected("reason", "detail"), EngineError("what"), ShardmillError("what")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))


def test_bounded_map_keeps_order_and_reads_no_further_ahead_than_it_says() -> None:
    read: list[int] = []

    def numbers():
        for number in range(100):
            read.append(number)
            yield number

    results = bounded_map(lambda number: number * 2, numbers(), threads=3)
    for expected in range(100):
        assert next(results) == 2 * expected
        assert len(read) <= expected + 2 * 3
    assert next(results, None) is None


def test_bounded_map_ends_at_the_first_exception_and_starts_nothing_more() -> None:
    started: list[int] = []

    def work(number: int) -> int:
        started.append(number)
        if number == 5:
            raise ValueError("five")
        return number

    with pytest.raises(ValueError, match="five"):
        list(bounded_map(work, range(1000), threads=2))
    time.sleep(0.1)
    assert len(started) <= 5 + 1 + 2 * 2
