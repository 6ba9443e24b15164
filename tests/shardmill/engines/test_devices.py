"""The local engine on CUDA devices, simulated: a fresh worker on each, the lease as long as the workers."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardmill.devices import GPUSpec, lease, visible_devices
from shardmill.engines import LocalEngine, local
from shardmill.errors import ConfigurationError, EngineError
from shardmill.graph.lazy_shard_set import LazyShardSet
from shardmill.storage import Storage

STAGE = """
    import json, os, sys, time
    from dataclasses import dataclass
    from pathlib import Path
    from shardmill.devices import GPUSpec
    from shardmill.engines import LocalEngine
    from shardmill.shards.index import IndexWriter
    from shardmill.shards.report import ShardReport
    from shardmill.graph.lazy_shard_set import LazyShardSet
    from shardmill.stages.stage import OutputFiles, Resources, Stage
    from shardmill.storage import Storage

    @dataclass(frozen=True)
    class Number:
        id: str
        start = ""
        samples = 1
        size = 1

        def identity(self):
            return self.id

    @dataclass(frozen=True)
    class Record(Stage):
        log: str
        seconds: float = 0
        gpu: GPUSpec = GPUSpec()
        workers: int = 1  # that have to have begun before any goes on
        name = "record"
        suffix = "tar"

        @property
        def resources(self):
            return Resources(gpus=self.gpu, model=True)

        def __call__(self, shard, work):
            use = {"device": os.environ["CUDA_VISIBLE_DEVICES"], "torch": "torch" in sys.modules, "pid": os.getpid()}
            use |= {"shard": shard.id, "threads": work.threads, "begin": time.monotonic()}
            if self.seconds < 0:
                os._exit(3)
            Path(self.log, f"{os.getpid()}.begun").touch()
            while len(list(Path(self.log).glob("*.begun"))) < self.workers:
                time.sleep(0.02)
            time.sleep(self.seconds)
            use["end"] = time.monotonic()
            with open(Path(self.log, "log"), "a") as stream:
                stream.write(json.dumps(use) + "\\n")
            return OutputFiles(None, IndexWriter()), ShardReport(samples_in=1, kept=0, filtered=1, samples=0)

    def shards(count):
        return [Number(f"{number:06x}") for number in range(count)]

    def write(log, folder, seconds, count):
        lazy = LazyShardSet(Record(log, float(seconds)), shards(int(count)))
        lazy.write(Storage(), folder, "d/record/p", LocalEngine(1))
"""


@pytest.fixture
def stage(write_module: Callable[[str], str]) -> Any:
    """A module with a stage that writes down what device it was given, and `write`, which runs it."""
    return import_module(write_module(STAGE))


def uses(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


def refuse_to_wait(text: str) -> None:
    raise AssertionError(text)


def test_concurrent_runs_get_devices_of_their_own_and_the_killed_give_theirs_back(
    stage: Any, simulate: Any, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    uuids = simulate(2)
    code = f"import sys; from {stage.__name__} import write; write(*sys.argv[1:])"
    with lease(visible_devices(), 2, "test", refuse_to_wait):
        runs = [start(code, str(tmp_path), f"file://{tmp_path}/{number}/d/record/p", "0.5", "2") for number in range(5)]
        await_true(lambda: len(list((tmp_path / "locks").glob("ticket-*"))) == 5)
    await_true(lambda: any(tmp_path.glob("*.begun")))
    victim = next(run for run in runs if psutil.Process(run.pid).children())
    victim.kill()
    victim.wait()
    assert [run.wait(120) for run in runs if run is not victim] == [0] * 4
    found = sorted(uses(tmp_path), key=lambda use: (use["device"], use["begin"]))
    assert {use["device"] for use in found} == set(uuids)
    assert not any(use["torch"] for use in found)
    for use, following in pairwise(found):
        assert use["device"] != following["device"] or use["end"] <= following["begin"]
    with lease(visible_devices(), 2, "test", refuse_to_wait):
        pass


def test_a_worker_on_each_device_of_a_stage_that_asks_for_several(stage: Any, simulate: Any, tmp_path: Path) -> None:
    uuids = simulate(4)
    lazy = LazyShardSet(stage.Record(str(tmp_path), 0, GPUSpec(count=2), workers=2), stage.shards(4))
    lazy.write(Storage(), f"file://{tmp_path}/d/record/p", "d/record/p", LocalEngine(5))
    found = uses(tmp_path)
    assert {use["device"] for use in found} == set(uuids[:2])
    assert len({use["pid"] for use in found}) == 2
    assert {use["threads"] for use in found} == {3}
    assert sorted(use["shard"] for use in found) == [shard.id for shard in stage.shards(4)]


def test_no_more_devices_are_held_than_there_are_shards_and_none_for_no_shard(
    stage: Any, simulate: Any, tmp_path: Path
) -> None:
    simulate(2)
    lazy = LazyShardSet(stage.Record(str(tmp_path), 0, GPUSpec(count=2)), stage.shards(1))
    with lease(visible_devices(), 1, "test", refuse_to_wait):
        lazy.write(Storage(), f"file://{tmp_path}/d/record/p", "d/record/p", LocalEngine(1, refuse_to_wait))
    simulate(0)
    assert lazy.write(Storage(), f"file://{tmp_path}/d/record/p", "d/record/p", LocalEngine(1)).made == 0


def test_this_process_keeps_its_environment(stage: Any, simulate: Any, tmp_path: Path) -> None:
    simulate(2)
    stage.write(str(tmp_path), f"file://{tmp_path}/d/record/p", 0, 1)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_the_engine_says_what_it_waits_for_and_stops_waiting_when_it_is_interrupted(
    stage: Any, simulate: Any, tmp_path: Path
) -> None:
    simulate(1)
    folder = f"file://{tmp_path}/d/record/p"

    def interrupt(text: str) -> None:
        assert text.startswith(f"record in {folder} has waited 0:")
        assert " for a CUDA device" in text
        raise KeyboardInterrupt

    lazy = LazyShardSet(stage.Record(str(tmp_path)), stage.shards(1))
    with lease(visible_devices(), 1, "test", refuse_to_wait), pytest.raises(KeyboardInterrupt):
        lazy.write(Storage(), folder, "d/record/p", LocalEngine(1, interrupt))
    lazy.write(Storage(), folder, "d/record/p", LocalEngine(1, refuse_to_wait))


def test_a_worker_that_dies_gives_its_device_back(stage: Any, simulate: Any, tmp_path: Path) -> None:
    simulate(1)
    with pytest.raises(EngineError, match="a worker process died while record ran"):
        stage.write(str(tmp_path), f"file://{tmp_path}/d/record/p", -1, 1)
    with lease(visible_devices(), 1, "test", refuse_to_wait):
        pass


def test_an_open_engine_keeps_its_workers_and_their_devices_from_run_to_run(
    stage: Any, simulate: Any, tmp_path: Path
) -> None:
    simulate(1)

    def write(engine: LocalEngine, partition: str) -> None:
        lazy = LazyShardSet(stage.Record(str(tmp_path)), stage.shards(2))
        lazy.write(Storage(), f"file://{tmp_path}/d/record/{partition}", f"d/record/{partition}", engine)

    with LocalEngine(1, refuse_to_wait) as engine:
        write(engine, "a")
        with pytest.raises(AssertionError), lease(visible_devices(), 1, "test", refuse_to_wait):
            pass
        write(engine, "b")
    assert len({use["pid"] for use in uses(tmp_path)}) == 1
    with lease(visible_devices(), 1, "test", refuse_to_wait):
        pass
    write(LocalEngine(1, refuse_to_wait), "c")
    assert len({use["pid"] for use in uses(tmp_path)}) == 2


def test_an_open_engine_goes_on_after_a_worker_that_died(stage: Any, simulate: Any, tmp_path: Path) -> None:
    simulate(1)
    folder = f"file://{tmp_path}/d/record/p"
    with LocalEngine(1, refuse_to_wait) as engine:
        with pytest.raises(EngineError):
            LazyShardSet(stage.Record(str(tmp_path), -1), stage.shards(1)).write(
                Storage(), folder, "d/record/p", engine
            )
        LazyShardSet(stage.Record(str(tmp_path)), stage.shards(1)).write(Storage(), folder, "d/record/p", engine)
    assert [use["shard"] for use in uses(tmp_path)] == ["000000"]


def test_a_worker_that_died_between_two_runs_is_an_error_of_ours(stage: Any, simulate: Any, tmp_path: Path) -> None:
    simulate(1)
    lazy = LazyShardSet(stage.Record(str(tmp_path)), stage.shards(1))
    with LocalEngine(1, refuse_to_wait) as engine:
        lazy.write(Storage(), f"file://{tmp_path}/d/record/a", "d/record/a", engine)
        [use] = uses(tmp_path)
        worker = psutil.Process(use["pid"])
        worker.kill()
        await_true(lambda: is_dead(worker))
        for partition in ("b", "c"):
            try:
                lazy.write(Storage(), f"file://{tmp_path}/d/record/{partition}", f"d/record/{partition}", engine)
            except EngineError:
                continue
    assert {use["pid"] for use in uses(tmp_path)} > {worker.pid}


def test_a_stage_on_other_devices_does_not_wait_for_its_own_engine(stage: Any, simulate: Any, tmp_path: Path) -> None:
    simulate(1)
    with LocalEngine(1, refuse_to_wait) as engine:
        for gpus, partition in ((GPUSpec(), "a"), (GPUSpec(memory=1), "b")):
            lazy = LazyShardSet(stage.Record(str(tmp_path), 0, gpus), stage.shards(1))
            lazy.write(Storage(), f"file://{tmp_path}/d/record/{partition}", f"d/record/{partition}", engine)
    assert len(uses(tmp_path)) == 2


def test_more_devices_are_leased_where_a_later_run_has_more_shards(stage: Any, simulate: Any, tmp_path: Path) -> None:
    uuids = simulate(2)
    with LocalEngine(2, refuse_to_wait) as engine:
        for count, partition in ((1, "a"), (2, "b")):
            two = stage.Record(str(tmp_path / partition), 0, GPUSpec(count=2), workers=count)
            (tmp_path / partition).mkdir()
            lazy = LazyShardSet(two, stage.shards(count))
            lazy.write(Storage(), f"file://{tmp_path}/d/record/{partition}", f"d/record/{partition}", engine)
    assert {use["device"] for use in uses(tmp_path / "b")} == set(uuids)


@pytest.mark.parametrize(("memory", "fraction", "processes"), [(24, None, 6), (16, None, 4), (7, None, 2), (7, 0.5, 4)])
def test_several_processes_feed_a_device_as_many_as_cores_and_its_memory_allow(
    stage: Any,
    simulate: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    memory: int,
    fraction: float | None,
    processes: int,
) -> None:
    monkeypatch.setattr(local, "available_bytes", lambda: 100 << 30)
    uuids = simulate(2, memory)
    record = stage.Record(str(tmp_path), 0, GPUSpec(count=2, fraction=fraction), workers=processes)
    with LocalEngine(13, refuse_to_wait) as engine:
        lazy = LazyShardSet(record, stage.shards(12))
        lazy.write(Storage(), f"file://{tmp_path}/d/record/p", "d/record/p", engine)
    used = {(use["pid"], use["device"], use["threads"]) for use in uses(tmp_path)}
    assert sorted(device for _, device, _ in used) == sorted(uuids * (processes // 2))
    assert {threads for _, _, threads in used} == {-(-13 // processes)}


def test_a_machine_without_devices_is_an_error_and_no_endless_wait(stage: Any, simulate: Any, tmp_path: Path) -> None:
    simulate(0)
    with pytest.raises(ConfigurationError, match="needs 1 CUDA device; visible are: none"):
        stage.write(str(tmp_path), f"file://{tmp_path}/d/record/p", 0, 1)


def test_a_killed_runs_device_is_free_once_its_worker_is_gone(
    stage: Any, simulate: Any, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    simulate(1)
    code = f"import sys; from {stage.__name__} import write; write(*sys.argv[1:])"
    run = start(code, str(tmp_path), f"file://{tmp_path}/d/record/p", "600", "1")
    await_true(lambda: any(tmp_path.glob("*.begun")))
    [begun] = tmp_path.glob("*.begun")
    worker = psutil.Process(int(begun.stem))
    stop(worker)  # it cannot follow its parent into death yet
    run.kill()
    run.wait()
    with (
        pytest.raises(AssertionError, match=f"by process {run.pid}"),
        lease(visible_devices(), 1, "test", refuse_to_wait),
    ):
        pass
    os.kill(worker.pid, signal.SIGCONT)
    with lease(visible_devices(), 1, "test", lambda _: None):
        await_true(lambda: is_dead(worker))  # its files are closed a little earlier


def await_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_dead(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def stop(process: psutil.Process) -> None:
    """Stop it, and return when all of its threads stand, which on a busy machine is a while after the signal."""

    def stands(thread: int) -> bool:
        try:
            return psutil.Process(thread).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:  # it has just ended
            return True

    process.send_signal(signal.SIGSTOP)
    await_true(lambda: all(stands(thread.id) for thread in process.threads()))
