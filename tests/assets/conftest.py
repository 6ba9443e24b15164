"""Fixtures: a small generated dataset, and its assets on a temporary Dagster instance."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from orchestration.component import dataset_definitions
from orchestration.definitions import build_defs
from shardmill.dataset import DatasetSpec
from tests import small_embedder
from tests.projects import one_database

RESIZE = {"operations": [{"operation": "Resize", "arguments": {"size": 48}}]}
RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


class Tiny:
    """A dataset of a few images a partition, and what Dagster makes of it."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.folder = folder
        self.instance = instance

    def write(self, partition: str, samples: int) -> None:
        """Images of two classes: red and green patterns."""
        raw = self.folder / "raw" / partition
        raw.mkdir(parents=True, exist_ok=True)
        for number in range(samples):
            noise = np.random.default_rng([ord(partition[0]), number]).integers(0, 60, (64, 80, 3), np.uint8)
            noise[..., number % 2] += 190
            Image.fromarray(noise).save(raw / f"{partition}{number}.jpg", quality=90)
            (raw / f"{partition}{number}.cls").write_text(str(number % 2))

    def spec(self, **changes: Any) -> DatasetSpec:
        fields: dict[str, Any] = {
            "name": "tiny",
            "root": str(self.folder / "out"),
            "source": {"uri": str(self.folder / "raw/{partition}")},
            "partitions": ["a", "b", "c"],
            "transform": RESIZE,
            "embedder": small_embedder.SMALL,
            "min_same_class_rate": 0.5,
        }
        return DatasetSpec.model_validate(fields | changes)

    def defs(self, **changes: Any) -> dg.Definitions:
        return build_defs(dataset_definitions(self.spec(**changes)))

    def materialize(
        self,
        partition: str | tuple[str, str],
        assets: Sequence[str] | None = None,
        checks: bool = True,
        **changes: Any,
    ) -> dg.ExecuteInProcessResult:
        """One partition, or the range from one to another, in one run."""
        keys = [dg.AssetKey(["tiny", asset]) for asset in assets] if assets else None
        selection = dg.AssetSelection.assets(*keys) if keys else dg.AssetSelection.all()
        if not checks:
            selection = selection.without_checks()
        job = dg.define_asset_job("chosen", selection)
        defs = dg.Definitions.merge(self.defs(**changes), dg.Definitions(jobs=[job]))
        one = isinstance(partition, str)
        return defs.resolve_job_def("chosen").execute_in_process(
            instance=self.instance,
            raise_on_error=False,
            partition_key=partition if one else None,
            tags=None if one else dict(zip(RANGE, partition, strict=True)),
        )

    def check(self, asset: str, name: str, partition: str, **changes: Any) -> dg.AssetCheckEvaluation:
        """Run one check on its own, as the button of the UI does."""
        key = dg.AssetCheckKey(dg.AssetKey(["tiny", asset]), name)
        job = dg.define_asset_job("check", dg.AssetSelection.checks(key))
        defs = dg.Definitions.merge(self.defs(**changes), dg.Definitions(jobs=[job]))
        result = defs.resolve_job_def("check").execute_in_process(
            instance=self.instance, tags={"dagster/partition": partition}, raise_on_error=False
        )
        assert result.success
        [evaluation] = result.get_asset_check_evaluations()
        return evaluation

    def stored(self, asset: str, partition: str) -> Path:
        return self.folder / "out/tiny" / asset / partition

    def commit(self, asset: str, partition: str) -> Path:
        return self.folder / "out/tiny/_shardmill" / asset / partition / "index.json"


@pytest.fixture(scope="session")
def new_tiny(
    tmp_path_factory: pytest.TempPathFactory, embedder_of_tests: dict[str, str]
) -> Iterator[Callable[[], Tiny]]:
    """Makes datasets of three partitions, of 4, 5 and 6 samples, each with an instance of its own."""
    instances: list[dg.DagsterInstance] = []

    def make() -> Tiny:
        folder = tmp_path_factory.mktemp("tiny")
        (folder / "instance").mkdir()
        instance = dg.DagsterInstance.local_temp(str(folder / "instance"), one_database(folder / "instance"))
        instances.append(instance)
        tiny = Tiny(folder, instance)
        for samples, partition in enumerate("abc", 4):
            tiny.write(partition, samples)
        return tiny

    yield make
    for instance in instances:
        instance.dispose()


@pytest.fixture
def tiny(new_tiny: Callable[[], Tiny]) -> Tiny:
    """A dataset of which nothing is materialized."""
    return new_tiny()
