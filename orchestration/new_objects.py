"""The sensor on new, changed and deleted objects of a dataset's source."""

from functools import partial

import dagster as dg

from assets.common import partitions_of
from orchestration.runs import job_name, partition_keys, run_requests, under_way
from resources.storage import StorageResource
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.dataset.upkeep import SensorSpec
from shardmill.storage import absolute_uri
from shardmill.storage.check import impatient
from shardmill.watch import Found, look
from shardmill.watch.notifications import open_notifications

MOST_ADDITIONS = 25_000
"""Partitions that are added in one tick: Dagster's own limit."""
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
            partial(under_way, context.instance, spec, known),
            most=settings.max_partitions_per_tick,
            notifications=queue,
        )
        if isinstance(definition, dg.DynamicPartitionsDefinition):
            known += _add(context.instance, spec.name, found, set(known))
        due = {item.partition: item.reason for item in found.due}
        context.log.info(f"{spec.name}: {found}")
        if not found.scanned and not found.known and not found.listing:
            context.log.warning(f"{spec.name}: nothing is there yet; is the source's uri right? {spec.source.uri}")
        return dg.SensorResult(
            run_requests=list(run_requests(spec, due, known, {LAUNCHED_BY: "sensor"})),
            skip_reason=None if due else dg.SkipReason(str(found)),
            cursor=found.cursor,
        )

    return new_objects


def _add(instance: dg.DagsterInstance, name: str, found: Found, known: set[str]) -> list[str]:
    """Make partitions known to Dagster, those that are due first. Returns them.

    Not by a request in the tick's result: the daemon looks each key up on its own, which takes minutes for thousands.
    """
    due = [item.partition for item in found.due]
    additions = [key for key in dict.fromkeys([*due, *sorted(found.partitions)]) if key not in known][:MOST_ADDITIONS]
    if additions:
        instance.add_dynamic_partitions(name, additions)
    return additions
