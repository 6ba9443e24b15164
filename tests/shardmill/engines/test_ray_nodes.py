"""The engine on clusters of simulated nodes, and on one of its own. Drivers are processes: Ray takes them with it."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardmill.dataset import load_dataset
from shardmill.shards.verify import verify
from shardmill.storage import Storage
from tests.servers.places import NewPlace, Place, credentials_file
from tests.servers.processes import CLIENT_ENVIRONMENT
from tests.servers.ray_nodes import RayNodes
from tests.shardmill.engines.recording import STEPS, begun, numbers, uses
from tests.small import ASSETS, BASIS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Drive = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    pytest.importorskip("ray")
    with RayNodes() as started:
        yield started


@pytest.fixture
def nodes(cluster: RayNodes) -> Iterator[RayNodes]:
    """The cluster, without nodes but for the head: before and after."""
    yield cluster
    for node in list(cluster.nodes):
        cluster.kill(node)


@pytest.fixture
def drive(cluster: RayNodes) -> Iterator[Drive]:
    """Starts a driver that runs `code`."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **cluster.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def driving(log: Path, count: int, engine: str = "ray", **fields: Any) -> str:
    """Code of a driver."""
    given = "".join(f", {name}={value!r}" for name, value in fields.items())
    return (
        "from pathlib import Path; from shardmill.devices import GPUSpec\n"
        f"from tests.shardmill.engines.recording import drive; drive({engine!r}, Path({str(log)!r}), {count}{given})\n"
    )


def finished(process: subprocess.Popen[str]) -> str:
    """What it said on its standard error, once it has ended well."""
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert printed == ""  # there, only results are
    return said


def await_true(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


RUN_BOTH = """
import sys
from shardmill import graph
from shardmill.dataset import load_dataset
from shardmill.engines import choose_engine
from shardmill.storage import Storage, load_credentials
with choose_engine("ray") as engine:
    for file in {files!r}:
        storage = Storage(load_credentials({credentials!r}))
        for _ in graph.run(load_dataset(file, storage), "p", engine):
            pass
"""


def contents(file: Path, storage: Storage) -> dict[str, dict[str, str]]:
    """Asset → name and digest of every file with data."""
    dataset = load_dataset(file, storage)
    found = {}
    for asset in (*ASSETS, BASIS):
        shards = dataset.stored(asset, "p" if asset != BASIS else "all")
        assert shards is not None, asset
        assert list(verify(shards)) == []
        urls = {url.rpartition("/")[2]: hashlib.sha256(dataset.storage.read(url)).hexdigest() for url in shards.urls}
        found[asset] = {**urls, "digest": shards.commit.digest}
    return found


def test_the_bytes_are_the_same_as_on_this_machine_on_one_two_and_four_nodes(
    tmp_path: Path, images: Any, write_dataset: Any, run_chain: Any, place: NewPlace, nodes: RayNodes, drive: Drive
) -> None:
    """On local folders and from bucket to bucket. The nodes have the variables that hold the secrets, no other has."""
    images(tmp_path / "raw", 40)
    source = place("s3")
    source.fill(tmp_path / "raw")

    def files(name: str) -> tuple[list[Path], Path, dict[str, str], Storage]:
        (tmp_path / name).mkdir()
        root: Place = place("s3")
        given, secrets = credentials_file(tmp_path / name / "credentials.yaml", source, root)
        fields = {"shards": {"max_samples": 10}}
        local = write_dataset(tmp_path / name / "local.yaml", tmp_path / "raw", tmp_path / name / "root", **fields)
        bucket = write_dataset(tmp_path / name / "bucket.yaml", source.uri, root.uri, **fields)
        return [local, bucket], given, secrets, Storage((*source.credentials, *root.credentials))

    (local, bucket), _, _, storage = files("here")
    expected = []
    for file in (local, bucket):
        run_chain(load_dataset(file, storage))
        expected.append(contents(file, storage))
    for count in (1, 2, 4):
        made, given, secrets, storage = files(f"on {count}")
        for node in list(nodes.nodes):
            nodes.kill(node)
        for _ in range(count):
            nodes.add(env_vars={**secrets, **CLIENT_ENVIRONMENT})
        code = RUN_BOTH.format(files=[str(file) for file in made], credentials=str(given))
        said = finished(drive(code, **secrets, **CLIENT_ENVIRONMENT))
        assert "ray" not in said.lower()
        assert [contents(file, storage) for file in made] == expected, count


def test_twenty_nodes_are_killed_and_nothing_is_lost_doubled_or_made_again_but_what_they_had_in_hand(
    tmp_path: Path, nodes: RayNodes, drive: Drive
) -> None:
    log, count, dice = tmp_path / "p", 400, random.Random(3)
    for _ in range(3):
        nodes.add()
    process = drive(driving(log, count, seconds=6.0))  # more than is done by the last kill
    for _ in range(20):
        before = len(begun(log))
        await_true(lambda before=before: len(begun(log)) > before, process)  # it meets work, however slow the machine
        time.sleep(dice.uniform(0.0, 3.0))
        nodes.kill(dice.choice(nodes.nodes))
        nodes.add()
    (log / "hurry").touch()
    said = finished(process)
    assert said.count("a node died while record ran on shard") <= 20
    made = begun(log)
    assert set(made) == {number.id for number in numbers(count)}
    assert len(made) <= count + 20  # a shard is in hand on each
    stored = sorted(file.name for file in (tmp_path / "root/d/record/p").iterdir() if file.suffix == ".tar")
    assert len(stored) == count
    commit = json.loads(next((tmp_path / "root").rglob("index.json")).read_text())
    assert commit["total_samples"] == count * STEPS
    assert sorted(each["id"] for each in commit["shardlist"]) == [number.id for number in numbers(count)]


def test_devices_are_those_that_ray_gives_and_are_shared_by_no_more_than_gpu_allows(
    tmp_path: Path, nodes: RayNodes, drive: Drive, simulate: Callable[..., list[str]]
) -> None:
    uuids = simulate(4)
    for pair in (uuids[:2], uuids[2:]):
        nodes.add(4, num_gpus=2, env_vars={"CUDA_VISIBLE_DEVICES": ",".join(pair), "PATH": os.environ["PATH"]})
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    runs = [("whole", 4, 1.0, {"count": 4}), ("halves", 2, 0.5, {"count": 2, "fraction": 0.5})]
    code = "import os; os.environ['CUDA_VISIBLE_DEVICES'] = ''\n"  # where the driver is, there are none
    for name, _, _, gpu in runs:
        code += driving(tmp_path / name, 12, seconds=0.5, gpus="GPU").replace("'GPU'", f"GPUSpec(**{gpu!r})")
    finished(drive(code))
    for log, at_once in ((whole, 1), (halves, 2)):
        found = uses(log)
        assert sorted(use["shard"] for use in found) == [number.id for number in numbers(12)]
        assert {use["device"] for use in found} <= set(uuids)
        assert len({use["device"] for use in found}) > 1
        for device in uuids:
            here = [use for use in found if use["device"] == device]
            for some in combinations(here, at_once + 1):
                assert max(use["begin"] for use in some) >= min(use["end"] for use in some)


def test_a_worker_that_dies_in_a_shard_again_and_again_is_one_clear_error(
    tmp_path: Path, nodes: RayNodes, drive: Drive
) -> None:
    node = nodes.add(2)
    process = drive(driving(tmp_path / "p", 6, fault="000003 dies"))
    _, said = process.communicate(timeout=300)
    assert process.returncode
    error = said.strip().splitlines()[-1]
    assert "EngineError: a worker died while record ran on shard 000003 of file://" in error
    assert f"Ray's node {node[:8]}" in error
    assert begun(tmp_path / "p").count("000003") == 3
    assert_gone(tmp_path / "p")


def test_a_driver_outside_the_cluster_goes_through_ray_s_client(tmp_path: Path, nodes: RayNodes, drive: Drive) -> None:
    nodes.add(2)
    said = finished(drive(driving(tmp_path / "p", 6, engine=f"ray://{nodes.client_address}"), RAY_ADDRESS=""))
    assert "died" not in said
    assert len(uses(tmp_path / "p")) == 6
    assert_gone(tmp_path / "p")


def test_ctrl_c_leaves_nothing_on_the_cluster(tmp_path: Path, nodes: RayNodes, drive: Drive) -> None:
    nodes.add(2)
    process = drive(driving(tmp_path / "p", 20, seconds=20.0))
    await_true(lambda: len(begun(tmp_path / "p")) >= 2, process)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert said.strip().splitlines()[-1] == "KeyboardInterrupt"
    assert_gone(tmp_path / "p")
    assert len(begun(tmp_path / "p")) == 2
    assert not list(tmp_path.rglob(".shardmill-scratch/*"))
    (tmp_path / "p/hurry").touch()
    finished(drive(driving(tmp_path / "p", 20)))  # the nodes have room again


def assert_gone(log: Path) -> None:
    """The actors that wrote this log have ended."""
    pids = {int(file.name.split(".")[1]) for file in log.glob("*.begun")}
    assert pids
    await_true(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def marked(mark: str) -> list[psutil.Process]:
    """Processes that inherited it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_cluster_of_this_machine_says_nothing_and_ends_with_the_run(
    tmp_path: Path, images: Any, write_dataset: Any, write_module: Any, command: list[str], interrupted: bool
) -> None:
    images(tmp_path / "raw", 24)
    module = write_module(
        f"""
        import time
        from pathlib import Path

        def transform(sample):
            Path({str(tmp_path)!r}, "begun").touch()
            time.sleep({2 if interrupted else 0})
            return sample
        """
    )
    operations = [{"operation": f"{module}:transform"}]
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", transform={"operations": operations})
    mark = uuid.uuid4().hex
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"MARK": mark}
    process = subprocess.Popen(
        [*command, "run", str(file), "--engine", "ray", "--workers", "2"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if interrupted:
        await_true((tmp_path / "begun").exists, process)
        os.killpg(process.pid, signal.SIGINT)
    printed, said = process.communicate(timeout=300)
    await_true(lambda: not marked(mark))
    assert "Traceback" not in said
    assert "ray" not in (printed + said).lower().replace("--engine ray", "")
    assert not list(tmp_path.rglob(".shardmill-scratch/*"))
    if interrupted:
        assert process.returncode
        assert len(said.splitlines()) <= 2
    else:
        assert process.returncode == 0, said
        assert "embedding_map: 24 samples" in printed
