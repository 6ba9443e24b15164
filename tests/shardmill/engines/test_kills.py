"""One dataset that is killed again and again until it is done: nothing is lost, doubled, or made a second time."""

import os
import random
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shardmill.dataset import Dataset, load_dataset
from shardmill.shards.layout import SIDE
from shardmill.shards.verify import verify
from shardmill.storage import S3Credentials, Storage, join_uri, relative_to
from tests.servers import S3Server
from tests.servers.places import Place, credentials_file
from tests.small import ASSETS

SAMPLES = 1200
FIELDS = {
    "shards": {"max_samples": 12},
    "transform": {"operations": [{"operation": "Resize", "arguments": {"size": 200}}]},
    "embedder": {"runtime": "torch"},  # slower than the others, so that there is something to kill
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, images) -> Path:
    folder = tmp_path_factory.mktemp("source")
    images(folder, SAMPLES)
    return folder


def finished(dataset: Dataset) -> dict[str, str]:
    """Each index with its version: there, the shard is whole."""
    infos = dataset.storage.list(join_uri(dataset.home, SIDE))
    return {relative_to(dataset.home, i.uri): i.version for i in infos if i.uri.endswith(".index.parquet")}


def assert_complete(dataset: Dataset) -> None:
    keys = {f"image_{number:05}" for number in range(SAMPLES)}
    for asset in ASSETS:
        shards = dataset.stored(asset, "p")
        assert shards is not None
        assert list(verify(shards)) == []
        assert shards.commit.total_samples == SAMPLES
        found = {info.uri for info in dataset.storage.list(shards.folder)}
        assert found == set(shards.urls)
        if shards.commit.suffix == "tar":
            assert {sample.key for sample in shards.samples()} == keys
    rows = dataset.stored("embeddings", "p").table(["key"])["key"].to_pylist()  # type: ignore[union-attr]
    assert sorted(rows) == sorted(keys)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_over_the_chain(tmp_path: Path, source: Path, write_dataset, command) -> None:
    file = write_dataset(tmp_path / "d.yaml", source, tmp_path / "root", **FIELDS)
    dataset, dice = load_dataset(file), random.Random(11)
    before: dict[str, str] = {}
    in_the_midst = 0
    for number in range(20):
        workers = "8" if number % 5 == 4 else "2"
        process = subprocess.Popen(
            [*command, "run", str(file), "--workers", workers], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while number % 2 and len(finished(dataset)) == len(before) and process.poll() is None:
            time.sleep(0.05)  # every other kill meets work, however slow the machine
        time.sleep(dice.uniform(0.2, 3.0))  # any moment
        process.kill()
        process.wait()
        after = finished(dataset)
        assert {name: after.get(name) for name in before} == before  # nothing that stood was made again
        in_the_midst += len(after) > len(before)
        before = after
    assert in_the_midst >= 5  # else it was killed before it did anything, or after it was done
    subprocess.run([*command, "run", str(file)], check=True, capture_output=True)
    after = finished(dataset)
    assert {name: after.get(name) for name in before} == before
    assert_complete(dataset)
    assert pq.read_table(dataset.folder("embeddings", "p").removeprefix("file://")).num_rows == SAMPLES


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_dozen_kills_of_the_store_itself(
    tmp_path: Path, source: Path, client_environment: None, write_dataset, command
) -> None:
    """And of the run, every third time; else it goes on when the store is back, or is started again."""
    with S3Server() as server:
        server.make_bucket("kills")
        credentials = S3Credentials(
            prefix="s3://kills",
            endpoint=server.url,
            region=server.region,
            access_key_id=server.admin.access_key_id,
            secret_access_key=server.admin.secret_access_key,
            request_seconds=10.0,
        )
        root = Place("s3", "s3://kills", (credentials,))
        file = write_dataset(tmp_path / "d.yaml", source, root.uri, **FIELDS)
        given, environment = credentials_file(tmp_path / "credentials.yaml", root)
        dataset = load_dataset(file, Storage(root.credentials))
        arguments = [*command, "run", str(file), "--credentials", str(given)]
        dice, before = random.Random(5), dict[str, str]()

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                arguments, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

        process = start()
        for number in range(12):
            time.sleep(dice.uniform(0.5, 5.0))  # any moment
            if number % 3 == 2:
                process.kill()
                process.wait()
            server.restart()
            if process.poll() is not None:
                process = start()
            after = finished(dataset)
            assert {name: after.get(name) for name in before} == before
            before = after
        process.wait()
        subprocess.run(arguments, env={**os.environ, **environment}, check=True, capture_output=True)
        after = finished(dataset)
        assert {name: after.get(name) for name in before} == before
        assert_complete(dataset)
