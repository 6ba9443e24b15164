"""`python -m benchmarks.partitions`: ten thousand dynamic partitions on Postgres.

Times of adding them through the sensor, of a person's backfill over a thousand of them through the daemon, and of the
queries that the UI's partition pages send; each for two numbers of partitions, so that what grows faster than the
number shows.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.projects import CONTROL_PLANE, REPOSITORY
from tests.servers.postgres import PostgresServer
from tests.servers.processes import Child, accepts, free_ports

NAME = "many"
ASSETS = ("raw_images", "webdataset_shards")
BACKFILL = """
mutation ($parameters: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $parameters) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""
BACKFILL_STATUS = (
    "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
)
STATUSES = """
query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  partitionStats { numMaterialized numFailed numPartitions }
  assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions } }
} } }
"""
KEYS = "query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { partitionKeys } } }"
INSTANCE = """
storage:
  postgres:
    postgres_db: {hostname: 127.0.0.1, port: PORT, db_name: DATABASE, username: USER, password: {env: PASSWORD},
      scheme: postgresql+psycopg2}
concurrency: {runs: {max_concurrent_runs: 2}}
telemetry: {enabled: false}
"""


def main(given: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, nargs="+", default=[2_500, 10_000])
    parser.add_argument("--backfill", type=int, default=1_000)
    options = parser.parse_args(given)
    with PostgresServer() as postgres:
        for count in options.partitions:
            with tempfile.TemporaryDirectory() as folder, Deployment(Path(folder), postgres, count) as deployment:
                measure(deployment, count, min(options.backfill, count))


class Deployment:
    """Code location, daemon and web server of a dataset with `count` prefixes of one photograph each."""

    def __init__(self, folder: Path, postgres: PostgresServer, count: int) -> None:
        for name in CONTROL_PLANE:
            (folder / name).symlink_to(REPOSITORY / name)
        (folder / "orchestration").unlink()
        subprocess.run(["cp", "-r", REPOSITORY / "orchestration", folder / "orchestration"], check=True)
        spec = {
            "name": NAME,
            "root": str(folder / "made"),
            "source": {"uri": str(folder / "raw/{partition}")},
            "partitions": {"by": "prefix"},
            "partitions_per_run": 100,
            "sensor": {"max_partitions_per_tick": 1, "quiet_seconds": 1e9},
        }
        definition = {"type": "orchestration.component.ImageDataset", "attributes": spec}
        (folder / "orchestration/defs/demo/defs.yaml").write_text(yaml.safe_dump(definition))
        photograph = io.BytesIO()
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(photograph, "JPEG")
        for number in range(count):
            prefix = folder / f"raw/p{number:05}"
            prefix.mkdir(parents=True)
            (prefix / "0.jpg").write_bytes(photograph.getvalue())
        database = postgres.make_database(f"many-{count}")
        text = INSTANCE.replace("PORT", str(database.port)).replace("DATABASE", database.name)
        (folder / "dagster.yaml").write_text(text.replace("USER", database.user))
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(folder),
            "PYTHONPATH": str(folder),
            "PASSWORD": database.password,
            "DAGSTER_EVENT_BATCH_SIZE": "100",
        }
        self.folder = folder
        self.children = ExitStack()
        self.web_port, self.code_port = free_ports(2)

    def __enter__(self) -> "Deployment":
        workspace = self.folder / "servers.yaml"
        workspace.write_text(
            f"load_from: [{{grpc_server: {{host: 127.0.0.1, port: {self.code_port}, location_name: shardmill}}}}]"
        )
        self._start(
            "dagster",
            "api",
            "grpc",
            "--module-name=orchestration.definitions",
            f"--working-directory={self.folder}",
            f"--port={self.code_port}",
            "--host=127.0.0.1",
            "--location-name=shardmill",
        )
        self._wait(self.code_port)
        self._start("dagster-webserver", "-w", str(workspace), "-p", str(self.web_port), "-h", "127.0.0.1")
        self._wait(self.web_port)
        self.workspace = workspace
        return self

    def start_daemon(self) -> None:
        """Start the daemon: the sensor is evaluated."""
        self._start("dagster-daemon", "run", "-w", str(self.workspace))

    def __exit__(self, *_: object) -> None:
        self.children.close()

    def ask(self, query: str, **variables: Any) -> Any:
        """What the web server's GraphQL answers."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        address = f"http://127.0.0.1:{self.web_port}/graphql"
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)["data"]

    def _start(self, program: str, *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name(program)), *arguments]
        child = Child(command, self.folder / f"{program}.log", self.environment)
        self.children.callback(child.kill)

    def _wait(self, port: int) -> None:
        while not accepts(port):
            time.sleep(0.1)


def measure(deployment: Deployment, count: int, backfill: int) -> None:
    """Print the figures of one deployment."""
    key = {"path": [NAME, ASSETS[0]]}

    def say(text: str) -> None:
        print(f"{count:,} partitions: {text}", flush=True)

    def known() -> int:
        return len(deployment.ask(KEYS, key=key)["assetNodeOrError"]["partitionKeys"])

    def ask_as_the_ui_does() -> None:
        keys, states = timed(deployment, KEYS, key), timed(deployment, STATUSES, key)
        say(f"the UI's query for keys {keys:.2f} s, for states {states:.2f} s")

    deployment.start_daemon()
    started = time.perf_counter()
    while not known():
        time.sleep(0.2)
    first = time.perf_counter()
    while known() < count:
        time.sleep(0.1)
    last = time.perf_counter()
    say(f"the first added {first - started:.0f} s after the daemon's start, all {last - started:.0f} s after it")
    ask_as_the_ui_does()

    names = [f"p{number:05}" for number in range(backfill)]
    assets = [{"path": [NAME, asset]} for asset in ASSETS]
    started = time.perf_counter()
    parameters = {"assetSelection": assets, "partitionNames": names}
    answer = deployment.ask(BACKFILL, parameters=parameters)["launchPartitionBackfill"]
    say(f"a backfill of {backfill:,} is accepted after {time.perf_counter() - started:.1f} s")
    status = "REQUESTED"
    while status in ("REQUESTED", "CANCELING", "FAILING"):
        time.sleep(1)
        status = deployment.ask(BACKFILL_STATUS, id=answer["backfillId"])["partitionBackfillOrError"]["status"]
    seconds = time.perf_counter() - started
    say(f"{status} after {seconds:.0f} s, {seconds / backfill * 1000:.0f} ms a partition of {len(ASSETS)} assets")
    ask_as_the_ui_does()


def timed(deployment: Deployment, query: str, key: Any) -> float:
    """Seconds of the second time that the query is sent."""
    deployment.ask(query, key=key)
    started = time.perf_counter()
    deployment.ask(query, key=key)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
