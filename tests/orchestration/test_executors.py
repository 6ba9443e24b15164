"""One setting chooses the executor; steps that need a GPU get one of their own on one machine."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from orchestration.definitions import build_defs
from orchestration.executors import choose_executor, multiprocess_config
from shardmill.devices import lease, visible_devices
from shardmill.errors import ConfigurationError

TINY = """
    type: orchestration.component.ImageDataset
    attributes:
      name: tiny
      source: {uri: "{{ context.project_root }}/raw"}
      partitions: [all]
      root: "{{ context.project_root }}/out"
      keep_superseded: 7d
      transform: {operations: [{operation: CenterCrop, arguments: {size: 32}}]}
      embedder: {}
"""
DEVICE_USER = """
    import json, os, time
    from dataclasses import dataclass
    from pathlib import Path

    import dagster as dg

    from assets.gpu import gpu_options
    from shardmill.devices import GPUSpec
    from shardmill.shards.index import IndexWriter
    from shardmill.shards.report import ShardReport
    from shardmill.graph.lazy_shard_set import LazyShardSet
    from shardmill.stages.stage import OutputFiles, Resources, Stage

    FOLDER = Path(__file__).parents[3]


    @dataclass(frozen=True)
    class Number:
        id: str = "000000"
        start = ""
        samples = 1
        size = 1

        def identity(self):
            return self.id


    @dataclass(frozen=True)
    class Record(Stage):
        gpu: GPUSpec = GPUSpec()
        name = "record"
        suffix = "tar"

        @property
        def resources(self):
            return Resources(gpus=self.gpu, model=True)

        def __call__(self, shard, work):
            begin = time.monotonic()
            time.sleep(1)
            use = {"device": os.environ["CUDA_VISIBLE_DEVICES"], "begin": begin, "end": time.monotonic()}
            with open(FOLDER / "uses", "a") as stream:
                stream.write(json.dumps(use) + "\\n")
            return OutputFiles(None, IndexWriter()), ShardReport(samples_in=1, kept=0, filtered=1, samples=0)


    @dg.asset(
        key=["user", "use"],
        partitions_def=dg.StaticPartitionsDefinition(["a", "b", "c"]),
        io_manager_key="shard_set_io_manager",
        metadata={
            "shardmill/root": str(FOLDER / "out"),
            "shardmill/max_reject_ratio": 0.0,
            "shardmill/masks": [],
        },
        **gpu_options(GPUSpec()),
    )
    def use():
        return LazyShardSet(Record(), [Number()])
"""


@pytest.fixture
def project(new_project: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a dataset of four images, `tiny`, and an asset that writes down the device that it is given."""
    project = new_project()
    defs = project / "orchestration/defs"
    (defs / "demo/defs.yaml").write_text(dedent(TINY))
    (defs / "user").mkdir()
    (defs / "user/defs.py").write_text(dedent(DEVICE_USER))
    (project / "raw").mkdir()
    for number in range(4):
        pixels = np.full((48, 48, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(project / f"raw/{number}.jpg")
    monkeypatch.setenv("SHARDMILL_EXECUTOR", "multiprocess")
    return project


def materialize(
    run_in: Callable[..., Any], project: Path, selection: str, partition: str, home: Path | None = None
) -> Any:
    target = ["-m", "orchestration.definitions", "--select", selection, "--partition", partition]
    return run_in(project, "dagster", "asset", "materialize", *target, home=home)


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        (None, "in_process"),
        ("in_process", "in_process"),
        ("multiprocess", "multiprocess"),
        ("kubernetes", "k8s"),
        ("celery", "celery"),
    ],
)
def test_one_setting_chooses_the_executor(monkeypatch: pytest.MonkeyPatch, setting: str | None, name: str) -> None:
    monkeypatch.delenv("SHARDMILL_EXECUTOR", raising=False)
    if setting is not None:
        monkeypatch.setenv("SHARDMILL_EXECUTOR", setting)
    defs = build_defs()
    dg.Definitions.validate_loadable(defs)
    job = defs.resolve_job_def("demo_job")
    assert job.executor_def.name == name


def test_an_argument_goes_before_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDMILL_EXECUTOR", "nonsense")
    executor: Any = build_defs(dg.Definitions(), executor="in_process").executor
    assert executor is dg.in_process_executor


def test_a_name_that_is_none_is_an_error_that_names_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDMILL_EXECUTOR", "k8s")
    with pytest.raises(ConfigurationError, match=r"'k8s'.*SHARDMILL_EXECUTOR.*in_process, multiprocess, kubernetes"):
        build_defs(dg.Definitions())


@pytest.mark.parametrize(("name", "module"), [("kubernetes", "dagster_k8s"), ("celery", "dagster_celery")])
def test_a_package_that_is_not_installed_is_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"needs {module}: pip install 'shardmill\[{name}\]'"):
        choose_executor(name)


def test_the_setting_loads_no_executor_that_is_not_chosen(run_in: Callable[..., Any], demo_project: Path) -> None:
    code = """
import sys
from orchestration.definitions import build_defs
build_defs(executor="multiprocess")
print(sorted({"dagster_k8s", "dagster_celery", "kubernetes", "torch", "obstore"} & sys.modules.keys()))
"""
    done = run_in(demo_project, "python", "-W", "ignore", "-c", code)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_run_of_several_processes_has_a_step_for_each_gpu_and_one_that_needs_none() -> None:
    for gpus in (1, 4):
        config = multiprocess_config(gpus)
        assert config["max_concurrent"] == gpus + 1
        assert config["tag_concurrency_limits"] == [{"key": "shardmill/gpu", "limit": gpus}]
    assert multiprocess_config(0) == multiprocess_config(1)


def test_every_way_to_ask_for_a_gpu_is_valid_in_a_dataset_file(project: Path, run_in: Callable[..., Any]) -> None:
    for number, gpu in enumerate(("true", "{count: 2, memory: 16, accelerator: nvidia-l4}")):
        file = project / f"orchestration/defs/asking{number}/defs.yaml"
        file.parent.mkdir()
        file.write_text(dedent(TINY).replace("name: tiny", f"name: asking{number}") + f"  gpu: {gpu}\n")
    done = run_in(project, "dg", "check", "yaml")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("selection", "assets"),
    [
        ("key:tiny/raw_images or key:tiny/webdataset_shards", ["raw_images", "webdataset_shards"]),
        pytest.param(
            "group:tiny",
            ["raw_images", "webdataset_shards", "transformed_shards", "embeddings", "embedding_map"],
            marks=pytest.mark.slow,  # a dozen processes
        ),
    ],
)
def test_a_dataset_runs_in_a_process_a_step(
    project: Path, run_in: Callable[..., Any], selection: str, assets: list[str]
) -> None:
    done = materialize(run_in, project, selection, "all")
    assert done.returncode == 0, done.stdout
    assert "Multiprocess executor: parent process exiting" in done.stdout
    for asset in assets:
        assert (project / "out/tiny/_shardmill" / asset / "all/index.json").exists(), asset


def await_tickets(folder: Path, threads: list[threading.Thread]) -> None:
    """Return when a step of each thread's run waits for a device."""
    while len(list((folder / "locks").glob("ticket-*"))) < len(threads):
        assert all(thread.is_alive() for thread in threads)
        time.sleep(0.1)


def test_steps_of_concurrent_runs_each_get_a_device_of_their_own(
    project: Path, run_in: Callable[..., Any], simulate: Any, tmp_path: Path
) -> None:
    uuids = simulate(2)
    done: dict[str, Any] = {}

    def run(partition: str) -> None:
        # On an instance each: two that make the tables of one at the same moment would fail.
        home = shutil.copytree(project / ".dagster", project / f"home-{partition}")
        done[partition] = materialize(run_in, project, "key:user/use", partition, home)

    threads = [threading.Thread(target=run, args=(partition,)) for partition in "abc"]
    with lease(visible_devices(), 2, "test", print):
        for thread in threads:
            thread.start()
        await_tickets(tmp_path, threads)
    for thread in threads:
        thread.join()
    for finished in done.values():
        assert finished.returncode == 0, finished.stdout
    uses = [json.loads(line) for line in (project / "uses").read_text().splitlines()]
    uses.sort(key=lambda use: (use["device"], use["begin"]))
    assert len(uses) == 3
    assert {use["device"] for use in uses} <= set(uuids)
    for use, following in pairwise(uses):
        assert use["device"] != following["device"] or use["end"] <= following["begin"]


def test_a_step_that_waits_for_a_device_says_so_in_its_log(
    project: Path, run_in: Callable[..., Any], simulate: Any, tmp_path: Path
) -> None:
    [uuid] = simulate(1)
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(materialize(run_in, project, "key:user/use", "a")))
    with lease(visible_devices(), 1, "somebody's notebook", print):
        thread.start()
        await_tickets(tmp_path, [thread])
    thread.join()
    assert done[0].returncode == 0, done[0].stdout
    assert re.search(rf"has waited 0:\d\d for a CUDA device\. Held: {uuid} by process", done[0].stdout)
    assert "somebody's notebook" in done[0].stdout


def test_a_failing_nvidia_smi_stops_no_run_that_needs_no_device(
    project: Path, run_in: Callable[..., Any], simulate: Any, tmp_path: Path
) -> None:
    simulate(1)
    (tmp_path / "bin/nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    done = materialize(run_in, project, "key:tiny/raw_images", "all")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("executor", ["in_process", "kubernetes", "celery"])
def test_nvidia_smi_is_asked_only_where_its_answer_is_used(simulate: Any, tmp_path: Path, executor: str) -> None:
    simulate(1)
    (tmp_path / "bin/nvidia-smi").write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    build_defs(executor=executor)
    assert not (tmp_path / "asked").exists()


def test_a_step_that_needs_a_gpu_goes_through_the_broker_to_the_workers_of_its_queue(
    project: Path,
    run_in: Callable[..., Any],
    environment: Callable[[Path], dict[str, str]],
    simulate: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broker is a folder: `data_folder_in` and `out` are the same for all who use it."""
    [uuid] = simulate(1)
    monkeypatch.setenv("SHARDMILL_EXECUTOR", "celery")
    for name in ("messages", "control", "results"):
        (project / name).mkdir()
    messages = str(project / "messages")
    options = {"data_folder_in": messages, "data_folder_out": messages, "control_folder": str(project / "control")}
    celery = {"broker": "filesystem://", "backend": f"file://{project}/results"}
    (project / "dagster_celery_config.py").write_text(
        f"broker_url = {celery['broker']!r}\nresult_backend = {celery['backend']!r}\n"
        f"broker_transport_options = {options!r}\n"
    )
    config = {"execution": {"config": {**celery, "config_source": {"broker_transport_options": options}}}}
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    with (project / "worker.log").open("w") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "dagster_celery.app", "worker", "--pool=solo", "-Q", "gpu", *quiet],
            cwd=project,
            env=environment(project),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        target = ["-m", "orchestration.definitions", "--select", "key:user/use", "--partition", "a"]
        done = run_in(project, "dagster", "asset", "materialize", *target, "--config-json", json.dumps(config))
    finally:
        worker.kill()
        worker.wait()
    assert done.returncode == 0, done.stdout + (project / "worker.log").read_text()
    assert 'Submitting celery task for step "user__use" to queue "gpu"' in done.stdout
    assert [json.loads(line)["device"] for line in (project / "uses").read_text().splitlines()] == [uuid]
