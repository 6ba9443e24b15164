"""Fixtures: a dataset that is watched, on an instance of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from resources.storage import StorageResource
from shardmill.dataset import DatasetSpec
from tests.orchestration.dataset_operator import NewOperator, Operator
from tests.projects import one_database
from tests.servers.places import Place, credentials_file


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home), one_database(home)) as made:
        yield made


@pytest.fixture
def new_operator(
    tmp_path: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    embedder_of_tests: dict[str, str],
) -> NewOperator:
    """`new_operator(place, partitions_per_run=2)`: of a dataset whose partitions are prefixes of the place."""

    def make(place: Place, template: str = "{partition}", **fields: Any) -> Operator:
        spec: dict[str, Any] = {
            "name": "watched",
            "root": f"{place.uri}/made",
            "source": {"uri": f"{place.uri}/raw/{template}"},
            "partitions": {"by": "prefix"},
            "shards": {"max_samples": 4},
            "sensor": {"quiet_seconds": 0},
            "transform": {"operations": []},
            "embedder": embedder_of_tests,
        }
        file, secrets = credentials_file(tmp_path / "credentials.yaml", place)
        for name, secret in secrets.items():
            monkeypatch.setenv(name, secret)
        storage = StorageResource(credentials_file=str(file))
        return Operator(DatasetSpec.model_validate(spec | fields), instance, storage)

    return make
