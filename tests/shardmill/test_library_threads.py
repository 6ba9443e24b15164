"""Libraries compute in the threads of a stage, in every engine, and as before when it is done."""

import importlib
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info

from shardmill.library_threads import compute_alone, limit_this_thread, one_thread_each

REPOSITORY = Path(__file__).parents[2]

STAGE = """
import os, pathlib
from collections.abc import Iterable
from dataclasses import dataclass
from shardmill.samples import EncodedSample
from shardmill.stages import Resources, SampleStage


@dataclass(frozen=True)
class Telling(SampleStage):
    name = "telling"
    resources = Resources(threads=1)

    def process(self, sample: EncodedSample) -> Iterable[EncodedSample]:
        import torch  # for the first time in this process, unless it was there before
        import numpy, threading
        from threadpoolctl import threadpool_info

        before = set(os.listdir("/proc/self/task"))
        square = torch.ones(512, 512)
        for _ in range(20):
            square = (square @ square).clamp(0, 1)
            numpy.ones((512, 512)) @ numpy.ones((512, 512))
        started = set(os.listdir("/proc/self/task")) - before - {str(each.native_id) for each in threading.enumerate()}
        said = [
            torch.get_num_threads(),
            max(pool["num_threads"] for pool in threadpool_info()),
            len(started),
            os.getpid(),
        ]
        import json
        return [EncodedSample(sample.key, {"json": json.dumps(said).encode()})]
"""

RUN = """
import json, os, sys, threading
folder, workers, before = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if __name__ == "__main__":
    if before:
        import torch
        torch.set_num_threads(before)
        torch.ones(1 << 20).exp()  # starts its threads: they are the caller's own
    from shardmill import Dataset, DatasetSpec, LocalEngine, Storage, run
    spec = {"name": "d", "root": folder + "/root", "source": {"uri": folder + "/in"}, "partitions": ["p"],
            "shards": {"max_samples": 4}, "stages": [{"name": "told", "use": "telling:Telling"}]}
    dataset = Dataset(DatasetSpec.model_validate(spec), Storage())
    said = []
    for asset, shards in run(dataset, "p", LocalEngine(workers)):
        if asset == "told":
            said = [json.loads(sample.components["json"]) for sample in shards.samples()]
    import torch
    from threadpoolctl import threadpool_info
    fresh = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start(); thread.join()
    now = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    print(json.dumps({"said": said, "here": os.getpid(), "after": torch.get_num_threads(), "fresh": fresh[0],
                      "blas": now}))
"""


@pytest.mark.parametrize("before", [0, 3], ids=["first imported in the stage", "set by the caller"])
@pytest.mark.parametrize("workers", [1, 2], ids=["in process", "in worker processes"])
def test_libraries_start_no_threads_in_a_stage_and_keep_the_settings_of_the_caller(
    tmp_path: Path, workers: int, before: int
) -> None:
    (tmp_path / "telling.py").write_text(STAGE)
    (tmp_path / "in").mkdir()
    for number in range(12):
        (tmp_path / "in" / f"{number}.txt").write_text(f"{number}")
    script = tmp_path / "run.py"
    script.write_text(RUN)
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    command = [sys.executable, str(script), str(tmp_path), str(workers), str(before)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])

    cores = len(os.sched_getaffinity(0))
    assert len(told["said"]) == 12
    assert [each[:3] for each in told["said"]] == [[1, 1, 0]] * 12
    elsewhere = {each[3] for each in told["said"]} - {told["here"]}
    assert bool(elsewhere) == (workers == 2)
    assert told["after"] == told["fresh"] == (before or cores)
    assert set(told["blas"]) == {cores}


def test_blocks_in_one_another_restore_what_was_before_the_first() -> None:
    import torch

    torch_before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        with one_thread_each():
            with one_thread_each():
                limit_this_thread()
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(torch_before)


def test_outside_of_a_block_a_thread_keeps_what_is_set() -> None:
    import torch

    torch_before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        limit_this_thread()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(torch_before)


def test_a_thread_that_computes_alone_leaves_the_others_as_they_are() -> None:
    import torch

    def alone() -> int:
        compute_alone()
        torch.rand(400, 400).mul_(2)
        return torch.get_num_threads()

    torch_before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with ThreadPoolExecutor(1) as one:
            assert one.submit(alone).result() == 1
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 4
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(torch_before)


def test_a_block_that_ends_in_another_thread_leaves_the_process_limited() -> None:
    import torch

    def of_the_process() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    def block_of_its_own() -> tuple[int, int]:
        before = torch.get_num_threads()
        with one_thread_each():
            pass
        return before, torch.get_num_threads()

    before = of_the_process()
    with one_thread_each(), ThreadPoolExecutor(1) as other:
        own_before, own_after = other.submit(block_of_its_own).result()
        assert own_before == own_after
        assert of_the_process() == {1}
    assert of_the_process() == before


class OldFinder:
    """As before there was `find_spec`."""

    def find_module(self, name: str, path: object = None) -> None:
        """It finds nothing."""


@pytest.mark.filterwarnings("ignore::ImportWarning")
def test_what_is_imported_in_a_block_is_imported_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside finders of an old kind, and where others change the list of finders meanwhile."""
    (tmp_path / "imported_in_a_block.py").write_text("value = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, OldFinder()])
    with one_thread_each():
        module = importlib.import_module("imported_in_a_block")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("imported_from_nowhere")
        sys.meta_path = [each for each in sys.meta_path if "shardmill" not in type(each).__module__]
    assert module.value == 1
    assert pickle.loads(pickle.dumps(module.__loader__)).name == "imported_in_a_block"
