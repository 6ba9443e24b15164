"""The engine on Ray: what it hands to actors, what it does when they die. Ray is simulated; not in test_ray_nodes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from shardmill.dataset import Dataset, DatasetSpec
from shardmill.devices import GPUSpec
from shardmill.engines import LocalEngine, choose_engine, packages, ray
from shardmill.engines.making import CancelledError, make_one
from shardmill.engines.ray import RayEngine
from shardmill.engines.ray_worker import RayWorker
from shardmill.errors import ConfigurationError, EngineError
from shardmill.graph import Planner
from shardmill.storage import GCSCredentials, S3Credentials, Storage
from tests.shardmill.engines.recording import STEPS, begun, lazy, planned, uses
from tests.shardmill.engines.simulated_ray import SimulatedActor, SimulatedRay, cluster

__all__ = ["cluster"]

SECRET = "a secret that nobody else may see"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def engine(cluster: SimulatedRay, said: list[str]) -> RayEngine:
    return RayEngine("", None, said.append)


def folder(tmp_path: Path) -> str:
    return f"file://{tmp_path}/d/record/p"


def write(engine: RayEngine, tmp_path: Path, count: int, storage: Storage | None = None, **fields: Any) -> Any:
    shards = lazy(tmp_path / "log", count, **fields)
    return shards.write(storage or Storage(), folder(tmp_path), "d/record/p", engine)


def test_shards_are_made_once_each_by_as_many_actors_as_there_is_room_for(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path
) -> None:
    made = write(engine, tmp_path, 12)
    assert made.commit.total_samples == 12 * STEPS
    assert sorted(begun(tmp_path / "log")) == [f"{number:06x}" for number in range(12)]
    assert len(cluster.actors) == 8  # four more than there is room for
    assert all(actor.dead for actor in cluster.actors)
    assert cluster.shutdowns == 1  # of its own connection


def test_no_more_actors_than_shards(engine: RayEngine, cluster: SimulatedRay, tmp_path: Path) -> None:
    write(engine, tmp_path, 1)
    assert len(cluster.actors) == 1


def test_an_open_engine_keeps_its_actors_from_run_to_run(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path
) -> None:
    with engine:
        write(engine, tmp_path / "a", 4)
        write(engine, tmp_path / "b", 4)
        assert not any(actor.dead for actor in cluster.actors)
    assert len(cluster.actors) == 4
    assert len(cluster.connected) == 1


def test_an_actor_is_handed_one_shard_at_a_time_however_many_there_are(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path
) -> None:
    """So the caller holds no more than that, and a node that dies costs no more."""
    make, shards = planned(tmp_path / "log", folder(tmp_path), 40)
    in_hand = []
    with engine:
        for number, _ in enumerate(engine.run(make, shards, Storage(), lambda _: None), 1):
            in_hand.append(cluster.calls.count("make") - number)
    assert max(in_hand) <= 8


def test_a_caller_that_is_connected_already_stays_so(engine: RayEngine, cluster: SimulatedRay, tmp_path: Path) -> None:
    cluster.init(address="the caller's")
    write(engine, tmp_path, 2)
    assert len(cluster.connected) == 1
    assert cluster.shutdowns == 0


def test_a_cluster_of_this_machine_is_quiet_reports_to_nobody_and_ends(
    cluster: SimulatedRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    usage = []
    names = ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE")
    for name in names:
        monkeypatch.delenv(name, raising=False)

    def init(**given: Any) -> None:
        os.environ["RAY_AUTH_MODE"] = "token"  # as Ray does
        usage.append((given, os.environ["RAY_USAGE_STATS_ENABLED"], os.environ["RAY_AUTH_TOKEN"]))

    monkeypatch.setattr(cluster, "init", init)
    write(RayEngine("", 3, lambda _: None), tmp_path, 2)
    [(given, statistics, token)] = usage
    assert given["address"] == "local"
    assert (given["num_cpus"], given["num_gpus"]) == (3, 0)
    assert (given["include_dashboard"], given["log_to_driver"], statistics) == (False, False, "0")
    assert len(token) == 64  # Ray would leave one in the home directory
    assert not set(names) & os.environ.keys()
    assert cluster.shutdowns == 1


def test_a_cluster_of_this_machine_leases_the_devices_that_it_has(
    cluster: SimulatedRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulate: Callable[..., list[str]]
) -> None:
    from shardmill.devices import lease, visible_devices

    monkeypatch.delenv("RAY_ADDRESS")
    uuids = simulate(2)
    seen = []
    monkeypatch.setattr(
        cluster, "init", lambda **given: seen.append((given["num_gpus"], os.environ.get("CUDA_VISIBLE_DEVICES")))
    )
    engine = RayEngine("", 2, lambda _: None)
    with engine:
        write(engine, tmp_path / "a", 2)
        write(engine, tmp_path / "b", 2, gpus=GPUSpec())
        with pytest.raises(ZeroDivisionError), lease(visible_devices(), 2, "test", lambda _: 1 / 0):  # type: ignore[arg-type,return-value]
            pass
    assert seen == [(0, None), (1, uuids[0])]
    with lease(visible_devices(), 2, "test", lambda _: 1 / 0):  # type: ignore[arg-type,return-value]
        pass


def test_a_shard_whose_node_died_is_made_again_elsewhere_and_counted_once(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path, said: list[str]
) -> None:
    advanced: list[int] = []

    def advance(samples: int) -> None:
        advanced.append(samples)
        if sum(advanced) > 3 * STEPS and not cluster.dead_nodes:
            cluster.kill_node("node1")

    make, shards = planned(tmp_path / "log", folder(tmp_path), 12, seconds=0.3)
    entries = list(engine.run(make, shards, Storage(), advance))
    assert sorted(entry.id for entry in entries) == [shard.id for shard in shards]
    assert sum(advanced) == 12 * STEPS
    again = len(begun(tmp_path / "log")) - 12
    assert 1 <= again <= 4  # those in the hands of the node
    assert [text for text in said if "a node died while record ran on shard 0000" in text]


def test_a_node_that_died_unnoticed_is_no_fault_of_shards_and_starts(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray gives it actors until it notices."""
    monkeypatch.setattr(ray, "_PAUSE_SECONDS", 0.01)
    lost = 0

    def count_lost(actor: SimulatedActor) -> None:
        nonlocal lost
        lost += actor.node in cluster.dead_nodes
        if lost == 12:
            cluster.names.remove("node1")

    def advance(_: int) -> None:
        if not cluster.dead_nodes:
            cluster.unnoticed.add("node1")
            cluster.kill_node("node1")
            cluster._turn = repeat(1)  # it has the most room

    cluster.born = count_lost
    make, shards = planned(tmp_path / "log", folder(tmp_path), 20, seconds=0.3)
    assert len(list(engine.run(make, shards, Storage(), advance))) == 20
    assert lost > 3  # as many in a row are too many where nodes live
    assert not [text for text in said if "a worker died" in text]
    assert [text for text in said if "a node died while record ran on shard 0000" in text]


def test_a_shard_that_was_published_is_not_made_again(tmp_path: Path) -> None:
    make, [shard] = planned(tmp_path / "log", folder(tmp_path), 1)
    first = make_one(make, shard, Storage(), 1, lambda _: None)
    worker = RayWorker(1)
    answer = worker.make(make, shard, Storage(), True)
    assert answer.entry is not None
    assert answer.entry.index_sha256 == first.index_sha256
    assert answer.samples == STEPS
    assert len(uses(tmp_path / "log")) == 1
    [data] = (tmp_path / "d/_shardmill/record/p/staged").iterdir()
    data.unlink()  # an index without its data is no shard
    assert worker.make(make, shard, Storage(), True).entry is not None
    assert len(uses(tmp_path / "log")) == 2


@pytest.fixture
def dies_with(cluster: SimulatedRay, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`dies_with("000003")`: whatever actor is handed that shard."""
    call = SimulatedActor._call

    def prepare(doomed: str) -> None:
        def dying(self: SimulatedActor, method: str, arguments: tuple[Any, ...]) -> Any:
            if method == "make" and arguments[1].id == doomed:
                self.die()
            return call(self, method, arguments)

        monkeypatch.setattr(SimulatedActor, "_call", dying)

    return prepare


def test_a_shard_that_costs_worker_after_worker_is_an_error_that_names_it_and_the_node(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path, dies_with: Callable[[str], None]
) -> None:
    dies_with("000003")
    with pytest.raises(EngineError, match=r"a worker died while record ran on shard 000003 of .*Ray's node node") as e:
        write(engine, tmp_path, 6)
    assert "the last of 3: The actor died unexpectedly" in str(e.value)
    assert not e.value.final
    assert cluster.calls.count("make") <= 5 + 3
    assert all(actor.dead for actor in cluster.actors)


def test_an_error_of_the_stage_names_shard_and_node_and_is_not_tried_again(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"record failed on shard 000002 of .*wrong \(on .*Ray's node node\d\)") as e:
        write(engine, tmp_path, 6, fault="000002 error")
    assert e.value.final
    assert begun(tmp_path / "log").count("000002") == 1
    assert all(actor.dead for actor in cluster.actors)


def test_workers_that_never_come_to_life_are_an_error(engine: RayEngine, cluster: SimulatedRay, tmp_path: Path) -> None:
    cluster.born = SimulatedActor.die
    with pytest.raises(EngineError, match=r"no worker comes to life on 192\.0\.2\.1:6379: The actor died unexpectedly"):
        write(engine, tmp_path, 6)


def test_other_packages_on_a_node_are_an_error_that_names_them(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "compared_versions", lambda: {**packages.compared_versions(), "pillow": "1.0", "x": "2"})
    with pytest.raises(ConfigurationError, match=r"pillow [\d.]+, not 1\.0, x \(none\), not 2\. .*On the node .*node0"):
        write(engine, tmp_path, 1)
    assert begun(tmp_path / "log") == []


def test_what_advance_raises_cancels_the_run_soon_and_leaves_nothing(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def advance(_: int) -> None:
        raise Enough

    make, shards = planned(tmp_path / "log", folder(tmp_path), 40, seconds=5.0)
    with pytest.raises(Enough):
        list(engine.run(make, shards, Storage(), advance))
    assert len(begun(tmp_path / "log")) <= 8
    assert uses(tmp_path / "log") == []
    assert all(actor.dead for actor in cluster.actors)
    assert not list(tmp_path.rglob(".shardmill-scratch/*"))


def test_a_run_that_is_left_in_its_midst_is_cancelled(engine: RayEngine, cluster: SimulatedRay, tmp_path: Path) -> None:
    make, shards = planned(tmp_path / "log", folder(tmp_path), 40, seconds=0.2)
    with engine:
        run = engine.run(make, shards, Storage(), lambda _: None)
        next(iter(run))
        run.close()  # type: ignore[attr-defined]
        assert all(actor.dead for actor in cluster.actors)
        assert len(list(engine.run(make, shards[:3], Storage(), lambda _: None))) == 3


def test_a_cancelled_worker_makes_no_more(tmp_path: Path) -> None:
    make, [shard] = planned(tmp_path / "log", folder(tmp_path), 1)
    worker = RayWorker(1)
    worker.cancel()
    with pytest.raises(CancelledError):
        worker.make(make, shard, Storage(), False)


@pytest.mark.parametrize(
    ("credentials", "field"),
    [
        (S3Credentials(prefix="s3://b", access_key_id="id", secret_access_key=SECRET), "secret_access_key"),
        (GCSCredentials(prefix="gs://b", service_account_json=SECRET), "service_account_json"),
    ],
)
def test_a_secret_itself_never_leaves_this_process(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path, credentials: Any, field: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"{field}: {{env: NAME}}") as e:
        write(engine, tmp_path, 1, Storage((credentials,)))
    assert SECRET not in str(e.value)
    assert cluster.connected == []


def test_the_name_of_a_secret_is_what_actors_are_told(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", SECRET)
    credentials = S3Credentials(prefix="s3://b", access_key_id="id", secret_access_key=SECRET)  # a variable holds it
    write(engine, tmp_path, 2, Storage((credentials,)))
    sent = b"".join(cluster.sent)
    assert b"KEY" in sent
    assert SECRET.encode() not in sent


def test_a_worker_without_the_variable_is_an_error_that_names_it(tmp_path: Path, cluster: SimulatedRay) -> None:
    credentials = S3Credentials(
        prefix="s3://b", access_key_id="id", secret_access_key={"env": "NOT_SET_HERE"}, endpoint="http://127.0.0.1:9"
    )
    make, [shard] = planned(tmp_path / "log", "s3://b/d/record/p", 1)
    worker = RayWorker(1)
    answer = worker.make(make, shard, Storage((credentials,)), False)
    while answer.error is None:
        answer = worker.follow()
    assert "the credentials need the environment variable NOT_SET_HERE" in str(answer.error)


def test_who_waits_for_room_says_for_what(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Exception):
        pass

    def say(text: str) -> None:
        raise Full(text)

    monkeypatch.setattr(SimulatedActor, "_call", lambda *_: Future())  # answers never come
    monkeypatch.setattr(ray, "_TELL_SECONDS", 0.0)
    with pytest.raises(Full, match=r"has waited 0:0\d for a worker with 1 CPU, 2.0 GiB\. .* has 4 CPU, 0 GPU in all"):
        write(RayEngine("", None, say), tmp_path, 1)


def test_devices_that_only_nodes_have_are_not_looked_for_where_the_run_is_started(
    engine: RayEngine, tmp_path: Path, simulate: Callable[..., list[str]]
) -> None:
    simulate(0)
    declared = {"name": "d", "root": str(tmp_path), "source": {"uri": "/raw"}, "partitions": ["p"], "gpu": True}
    planner = Planner(Dataset(DatasetSpec.model_validate({**declared, "embedder": {}})))
    planner.check("p", engine)
    [stage] = [planner.stage(asset) for asset in planner.graph if asset.name == "embeddings"]
    assert stage.resources.gpus == GPUSpec()
    with pytest.raises(ConfigurationError, match="torch sees no GPU"):
        planner.check("p", LocalEngine(1))


def test_a_cluster_of_this_machine_is_no_more_than_this_machine(
    cluster: SimulatedRay, monkeypatch: pytest.MonkeyPatch, simulate: Callable[..., list[str]], tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    simulate(1)
    engine = choose_engine("ray")
    engine.check(lazy(tmp_path / "log", 1, gpus=GPUSpec()).stage, "record d")
    with pytest.raises(ConfigurationError, match=r"^record d needs 2 CUDA devices; visible are: "):
        engine.check(lazy(tmp_path / "log", 1, gpus=GPUSpec(count=2)).stage, "record d")


@pytest.mark.parametrize("address", ["head", "head:port", "ray://head:1", "a/b:1", "10.0.0.1:10001/x"])
def test_what_is_no_address_is_an_error(cluster: SimulatedRay, address: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address: write ray://<host>:<port>"):
        choose_engine(f"ray://{address}")


@pytest.mark.parametrize(("word", "address"), [("ray://head:10001", "ray://head:10001"), ("ray://auto", "auto")])
def test_an_address_is_connected_to(cluster: SimulatedRay, tmp_path: Path, word: str, address: str) -> None:
    engine = choose_engine(word)
    assert cluster.connected == []  # not before there is something to do
    write(engine, tmp_path, 1)  # type: ignore[arg-type]
    assert [given["address"] for given in cluster.connected] == [address]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionError("no answer"), EngineError),
        (Exception("The current node timed out during startup."), EngineError),
        (ConnectionError("ray client connection timeout"), EngineError),
        (RuntimeError("Version mismatch: 2.1 and 2.2"), ConfigurationError),
    ],
)
def test_a_cluster_that_cannot_be_used_is_named(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any, kind: Any
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cluster, "init", fail)
    with pytest.raises(kind, match=r"cannot connect to 192\.0\.2\.1:6379: .*"):
        write(engine, tmp_path, 1)


@pytest.mark.parametrize(
    "words",
    [
        "The current node timed out during startup.",
        "Starting Ray client server failed.",
        "Initialization failure from server: in start_specific_server ... psutil.ZombieProcess",
    ],
)
def test_what_starts_too_slowly_is_started_again(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    connect, slow = cluster.init, [Exception(words), Exception(words)]

    def init(**arguments: Any) -> None:
        if slow:
            raise slow.pop()
        connect(**arguments)

    monkeypatch.setattr(cluster, "init", init)
    write(engine, tmp_path, 1)
    assert len(cluster.connected) == 1


def test_what_the_caller_does_on_a_termination_stays(engine: RayEngine, cluster: SimulatedRay, tmp_path: Path) -> None:
    came: list[int] = []
    connect = cluster.init

    def init(**arguments: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as Ray does
        connect(**arguments)

    cluster.init = init  # type: ignore[method-assign]
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        write(engine, tmp_path, 1)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


def test_a_termination_that_nobody_handles_is_not_left_to_ray(
    engine: RayEngine, cluster: SimulatedRay, tmp_path: Path
) -> None:
    cluster.init = lambda **_: signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # type: ignore[method-assign]
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        write(engine, tmp_path, 1)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_ray_the_error_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'shardmill\[ray\]'"):
        choose_engine("ray")


def test_ray_is_imported_by_none_who_does_not_ask_for_it() -> None:
    code = "import sys, shardmill.cli, shardmill.engines.ray, shardmill.graph; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
