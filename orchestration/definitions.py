"""What Dagster loads: every dataset below `defs/`, and the resources that they share."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from orchestration.alerts import build_alert_sensors
from orchestration.executors import choose_executor
from orchestration.partial_failures import build_partial_failures_sensor
from resources.engine import EngineResource
from resources.shard_set_io_manager import ShardSetIOManager
from resources.storage import StorageResource


def build_defs(
    datasets: dg.Definitions | None = None,
    resource_overrides: Mapping[str, Any] | None = None,
    executor: str | None = None,
) -> dg.Definitions:
    """The whole code location.

    `datasets` are definitions to use instead of those below `defs/`; `resource_overrides` replace the resources
    `storage` and `engine`, also inside the IO manager; `executor` names one of `orchestration.executors`, by default
    the one that SHARDMILL_EXECUTOR names.

    Raises:
        ConfigurationError: There is no such executor, or its package is not installed.
    """
    if datasets is None:
        # Not `dg.load_from_defs_folder`: to list component types it imports every installed integration, and every run
        # would wait seconds for dagster-gcp and dagster-aws.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)
            warnings.simplefilter("ignore", dg.PreviewWarning)  # of Dagster's own loader
            datasets = dg.ComponentTree.for_project(Path(__file__).parent).build_defs(Path())
    overrides = dict(resource_overrides or {})
    storage = overrides.pop("storage", None) or StorageResource.from_environment()
    engine = overrides.pop("engine", None) or EngineResource.from_environment()
    resources = {
        "storage": storage,
        "engine": engine,
        "shard_set_io_manager": ShardSetIOManager(storage=storage, engine=engine),
        **overrides,
    }
    sensors = [build_partial_failures_sensor(list(datasets.jobs or ())), *build_alert_sensors()]
    shared = dg.Definitions(resources=resources, sensors=sensors, executor=choose_executor(executor))
    return dg.Definitions.merge(datasets, shared)


@dg.definitions
def defs() -> dg.Definitions:
    """Every dataset below `defs/`."""
    return build_defs()
