"""The sensor on new, changed and deleted objects of a dataset's source."""

import dagster as dg

from assets.common import partitions_of
from orchestration.runs import job_name, partition_keys, run_requests, under_way
from resources.storage import StorageResource
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.storage import absolute_uri
from shardmill.storage.check import impatient
from shardmill.upkeep import SensorSpec
from shardmill.watch import look
from shardmill.watch.notifications import open_notifications

MOST_ADDITIONS = 25_000
"""Partitions that Dagster adds in one tick."""
LAUNCHED_BY = "shardmill/launched_by"


def build_new_objects_sensor(spec: DatasetSpec, settings: SensorSpec) -> dg.SensorDefinition:
    """The sensor of one dataset. It is on unless somebody turns it off in the UI."""
    definition = partitions_of(spec)

    @dg.sensor(
        name=f"{spec.name}_new_objects",
        job_name=job_name(spec),
        minimum_interval_seconds=settings.interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Runs the partitions of {spec.name} whose objects are new, changed or deleted.",
    )
    def new_objects(context: dg.SensorEvaluationContext, storage: StorageResource) -> dg.SensorResult:
        dataset = Dataset(spec, impatient(storage.open()))
        known = list(partition_keys(context.instance, definition))
        queue = None
        if settings.notifications:
            source = absolute_uri(spec.source.uri or "")
            queue = open_notifications(settings.notifications, dataset.storage, source)
        found = look(
            dataset,
            context.cursor,
            under_way(context.instance, spec, known),
            most=settings.max_runs_per_tick * spec.partitions_per_run,
            notifications=queue,
        )
        additions: list[str] = []
        if isinstance(definition, dg.DynamicPartitionsDefinition):
            additions = sorted(set(found.partitions) - set(known))[:MOST_ADDITIONS]
        keys = [*known, *additions]
        positions = set(keys)
        due = {item.partition: item.reason for item in found.due if item.partition in positions}
        context.log.info(f"{spec.name}: {found}")
        return dg.SensorResult(
            run_requests=list(run_requests(spec, due, keys, {LAUNCHED_BY: "sensor"})),
            skip_reason=None if due else dg.SkipReason(str(found)),
            cursor=found.cursor,
            dynamic_partitions_requests=_added(definition, additions),
        )

    return new_objects


def _added(definition: dg.PartitionsDefinition, keys: list[str]) -> list[dg.AddDynamicPartitionsRequest]:
    if not isinstance(definition, dg.DynamicPartitionsDefinition) or not keys:
        return []
    return [definition.build_add_request(keys)]
