"""A stand-in for Dagster's daemon: evaluates sensors and schedules, and carries out the runs that they ask for."""

import io
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import dagster as dg
import numpy as np
from PIL import Image

from orchestration.component import dataset_definitions
from orchestration.definitions import build_defs
from resources.storage import StorageResource
from shardmill.dataset import Dataset, DatasetSpec

LOGS = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Operator:
    """One dataset on an instance, and nobody's hand on it."""

    def __init__(self, spec: DatasetSpec, instance: dg.DagsterInstance, storage: StorageResource | None = None) -> None:
        self.spec = spec
        self.instance = instance
        self.resource = storage or StorageResource()
        self.cursor: str | None = None
        self.asked: set[str] = set()
        """Run keys, each of which is run once for ever."""
        self.log = ""

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.spec, self.resource.open())

    @property
    def defs(self) -> dg.Definitions:
        return build_defs(dataset_definitions(self.spec), {"storage": self.resource})

    def requests(self) -> list[dg.RunRequest]:
        """What the sensor asks for, less what it has asked for before. The cursor is kept."""
        sensor = self.defs.resolve_sensor_def(f"{self.spec.name}_new_objects")
        with dg.build_sensor_context(
            self.instance, self.cursor, definitions=self.defs, resources={"storage": self.resource}
        ) as context:
            found = sensor(context)
        assert isinstance(found, dg.SensorResult)
        self.cursor = found.cursor
        self.log = str(found.skip_reason.skip_message if found.skip_reason else "")
        return self._new(found.run_requests or ())

    def scheduled(self, moment: datetime) -> list[dg.RunRequest]:
        """What the schedule asks for."""
        schedule = self.defs.resolve_schedule_def(f"{self.spec.name}_backfill")
        with dg.build_schedule_context(
            self.instance,
            scheduled_execution_time=moment,
            repository_def=self.defs.get_repository_def(),
            resources={"storage": self.resource},
        ) as context:
            found = schedule(context)
        if isinstance(found, dg.SkipReason):
            self.log = str(found.skip_message)
            return []
        return self._new(found)

    def carry_on(self, failed: dg.ExecuteInProcessResult) -> list[dg.RunRequest]:
        """What the sensor on partial failures asks for after a run that failed."""
        found = self._tell("partial_failures", failed)
        return [] if isinstance(found, dg.SkipReason) else self._new(found)

    def alert(self, failed: dg.ExecuteInProcessResult) -> None:
        """Have a run that failed told."""
        self._tell("alert_on_failure", failed)

    def _tell(self, sensor: str, failed: dg.ExecuteInProcessResult) -> Any:
        run = self.instance.get_run_by_id(failed.run_id)
        assert run is not None
        (event,) = [event for event in failed.all_events if event.is_run_failure]
        context = dg.build_run_status_sensor_context(
            sensor, event, self.instance, run, repository_def=self.defs.get_repository_def()
        )
        return self.defs.resolve_sensor_def(sensor)(context.for_run_failure())

    def run(self, requests: Sequence[dg.RunRequest]) -> list[dg.ExecuteInProcessResult]:
        """Carry out the runs, one after the other."""
        return [self._run(request) for request in requests]

    def tick(self) -> list[dg.ExecuteInProcessResult]:
        """Evaluate the sensor and run what it asks for."""
        return self.run(self.requests())

    def made(self, results: Sequence[dg.ExecuteInProcessResult]) -> dict[str, dict[str, int]]:
        """Partition → asset → shards made."""
        made: dict[str, dict[str, int]] = {}
        for result in results:
            for event in result.get_asset_materialization_events():
                value: Any = event.materialization.metadata["shards made"].value
                made.setdefault(str(event.partition), {})[event.asset_key.path[-1]] = value
        return made

    def _new(self, requests: Sequence[dg.RunRequest]) -> list[dg.RunRequest]:
        fresh = [request for request in requests if request.run_key not in self.asked]
        self.asked |= {str(request.run_key) for request in fresh}
        return fresh

    def _run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        job = self.defs.resolve_job_def(request.job_name or f"{self.spec.name}_job")
        return job.execute_in_process(
            run_config=LOGS,
            instance=self.instance,
            partition_key=request.partition_key,
            tags=dict(request.tags),
            asset_selection=list(request.asset_selection) if request.asset_selection else None,
            raise_on_error=False,
        )


NewOperator = Callable[..., Operator]


def photograph(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 24, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()
