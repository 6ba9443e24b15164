"""A deployment that is shaken: its daemon, or its database, dies again and again while objects come, change and go."""

import io
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from shardmill import graph
from shardmill.dataset import Dataset, load_dataset
from tests.deploy.conftest import Instance, MakeInstance
from tests.deploy.services import Services
from tests.deploy.test_systemd import HERE, PROGRAMS, UNITS, exec_start
from tests.servers.postgres import PostgresServer

CYCLES = 15
PARTITIONS = ("a", "b c", "d,e", "...f")

BACKFILL = """
mutation ($parameters: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $parameters) { __typename ... on PythonError { message } }
}
"""


RUNS = "{ runsOrError(limit: 20) { ... on Runs { results { runId status } } } }"
CANCEL = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"


class Source:
    """The objects of a dataset, and somebody who changes them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.count = 0

    def shake(self) -> None:
        """New objects, and now and then one that is overwritten and one that is deleted."""
        for _ in range(self.random.randint(1, 3)):
            self.count += 1
            self._write(self.folder / self.random.choice(PARTITIONS) / f"{self.count}.jpg")
        present = sorted(self.folder.rglob("*.jpg"))
        if self.random.random() < 0.3:
            self._write(self.random.choice(present))
        if self.random.random() < 0.3 and len(present) > 1:
            self.random.choice(present).unlink()

    def _write(self, file: Path) -> None:
        pixels = np.random.default_rng(self.random.getrandbits(32)).integers(0, 255, (24, 24, 3), np.uint8)
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG")
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f".{file.name}")
        fresh.write_bytes(data.getvalue())
        fresh.rename(file)  # whole or not at all, as an object store's are


def watched(project: Path) -> Path:
    """Put a dataset that keeps itself up to date into the project, in the place of the demo."""
    file = project / "orchestration/defs/demo/defs.yaml"
    spec = {
        "name": "watched",
        "root": str(project / "made"),
        "source": {"uri": str(project / "raw/{partition}")},
        "partitions": {"by": "prefix"},
        "partitions_per_run": 2,
        "shards": {"max_samples": 8},
        "transform": {"operations": []},
        "embedder": {},
        "sensor": {"quiet_seconds": 0, "interval_seconds": 1, "reconcile_hours": 1 / 60},
        "backfill": {"cron": "* * * * *", "max_failures": 100},
    }
    file.write_text(yaml.safe_dump({"type": "orchestration.component.ImageDataset", "attributes": spec}))
    return file


def committed_objects(dataset: Dataset) -> dict[str, list[str]]:
    """URI of each raw object → the committed shards that hold it."""
    found: dict[str, list[str]] = {}
    for partition in dataset.stored_partitions("webdataset_shards"):
        shards = dataset.stored("webdataset_shards", partition)
        assert shards is not None
        for entry in shards.commit.shardlist:
            uri = shards.layout.beside(entry.index)
            index = pq.ParquetFile(io.BytesIO(dataset.storage.read(uri))).read(columns=["source_uri"])
            for source in index["source_uri"].to_pylist():
                found.setdefault(source, []).append(uri)
    return found


def is_up_to_date(dataset: Dataset) -> bool:
    """Whether every partition, those included that are empty by now, is what its objects are."""
    partitions = {*dataset.partitions(), *dataset.stored_partitions("raw_images")}
    return all(found.state == "up to date" for key in partitions for found in graph.states(dataset, key))


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("victim", ["daemon", "postgres"])
def test_whatever_dies_every_object_ends_up_in_one_committed_shard(
    victim: str,
    deploy: Path,
    new_project: Callable[[], Path],
    make_instance: MakeInstance,
    postgres_server: PostgresServer,
) -> None:
    project, instance = new_project(), make_instance()
    _settle_soon(instance)
    dataset = load_dataset(watched(project))
    source = Source(project / "raw", seed=len(victim))
    paths = {
        PROGRAMS: HERE,
        "/opt/shardmill/deploy/systemd/workspace.yaml": str(project / "workspace.yaml"),
        "/opt/shardmill": str(project),
    }
    with Services(project, instance, deploy / "systemd/workspace.yaml", paths) as services:
        source.shake()
        commands = {unit.stem: exec_start(unit) for unit in UNITS}
        children = {name: services.start(name, command) for name, command in commands.items()}
        daemon = "shardmill-daemon"
        services.wait_until(lambda: bool(dataset.stored_partitions("embedding_map")))
        for cycle in range(CYCLES):
            source.shake()
            if cycle % 3 == 0:
                _backfill(services, dataset)
            if cycle % 5 == 4:
                _cancel_a_run(services)
            time.sleep(source.random.uniform(0.5, 8))
            if victim == "daemon":
                children[daemon].kill()
                children[daemon] = services.start(daemon, commands[daemon])
            else:
                postgres_server.kill()
                time.sleep(source.random.uniform(0, 1))
                postgres_server.restart()
            # A service that gave up is started again, as systemd does.
            for name, child in children.items():
                if not child.alive:
                    children[name] = services.start(name, commands[name])
        services.wait_until(lambda: _none_under_way(instance) and is_up_to_date(dataset), seconds=900)

    objects = {f"file://{file}" for file in (project / "raw").rglob("*.jpg")}
    found = committed_objects(dataset)
    assert found.keys() == objects
    assert [shards for shards in found.values() if len(shards) != 1] == []


def _settle_soon(instance: Instance) -> None:
    """What died with the daemon or the database is given up after a minute or two, and not after a day."""
    file = instance.home / "dagster.yaml"
    text = file.read_text()
    sooner = {
        "start_timeout_seconds: 900": "start_timeout_seconds: 60",  # its daemon died before it was launched
        "max_runtime_seconds: 86400": "max_runtime_seconds: 120",  # its process died
        "poll_interval_seconds: 60": "poll_interval_seconds: 5",
        "max_concurrent_runs: 20": "max_concurrent_runs: 2",
    }
    for theirs, ours in sooner.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    file.write_text(text)


def _backfill(services: Services, dataset: Dataset) -> None:
    """A person's backfill of two partitions from the UI, if the web server can be reached just now."""
    partitions = dataset.stored_partitions("raw_images")[:2]
    assets = [{"path": ["watched", asset]} for asset in ("raw_images", "webdataset_shards", "transformed_shards")]
    with suppress(URLError, OSError, KeyError, TypeError):
        services.ask(BACKFILL, parameters={"assetSelection": assets, "partitionNames": partitions})


def _cancel_a_run(services: Services) -> None:
    """A person's cancelling of a run, whichever is at work, if the web server can be reached just now."""
    with suppress(URLError, OSError, KeyError, TypeError):
        runs = services.ask(RUNS)["runsOrError"]["results"]
        for run in [each["runId"] for each in runs if each["status"] in ("STARTED", "QUEUED")][:1]:
            services.ask(CANCEL, run=run)


def _none_under_way(instance: Instance) -> bool:
    ended = "('SUCCESS', 'FAILURE', 'CANCELED')"
    return instance.rows(f"SELECT count(*) FROM runs WHERE status NOT IN {ended}") == [(0,)]
