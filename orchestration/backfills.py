"""Scheduled backfills: partitions that are missing, failed or stale are launched, so many at a tick."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import dagster as dg

from assets.common import partitions_of
from orchestration.backlog import Deadline, Trouble, backlog, first_that, has_samples, is_stale
from orchestration.giving_up import given_up
from orchestration.new_objects import LAUNCHED_BY
from orchestration.runs import DATASET, job_name, partition_keys, run_requests, under_way
from resources.storage import StorageResource
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.dataset.upkeep import BackfillSpec
from shardmill.graph import Planner
from shardmill.shards.fingerprint import fingerprint
from shardmill.storage.check import impatient

_SECONDS = 35.0
"""Of looking at the source and at what is committed: a tick has 60 s."""
_SAID: Mapping[Trouble, str] = {"failed": "that failed", "missing": "missing", "stale": "stale"}
_NAMED = 10
"""Partitions that a tick names of each kind."""
VERSION = "shardmill/dataset_version"
"""Tag of a run: digest of the dataset file. Failures under another file do not count."""


def build_backfill_schedule(
    spec: DatasetSpec, settings: BackfillSpec, assets: Sequence[dg.AssetsDefinition]
) -> dg.ScheduleDefinition:
    """The schedule of one dataset. It is on unless somebody turns it off in the UI."""
    definition = partitions_of(spec)
    tags = {LAUNCHED_BY: "schedule", VERSION: fingerprint(spec=spec.model_dump(mode="json"))[:12]}

    @dg.schedule(
        name=f"{spec.name}_backfill",
        job_name=job_name(spec),
        cron_schedule=settings.cron,
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=(
            f"Runs missing, failed and stale partitions of {spec.name}, at most {settings.max_partitions} at a tick, "
            f"the {settings.order} first."
        ),
    )
    def backfill(
        context: dg.ScheduleEvaluationContext, storage: StorageResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        keys = partition_keys(context.instance, definition)
        troubled, whole = backlog(context.instance, assets, keys)
        busy = under_way(context.instance, spec, keys)
        ours = {**tags, DATASET: spec.name}
        left_alone = given_up(context.instance, assets[-1].key, ours, troubled, keys, settings.max_failures)
        dataset, deadline = Dataset(spec, impatient(storage.open())), Deadline(_SECONDS)
        turn = int(context.scheduled_execution_time.timestamp()) // 60
        candidates = [key for key in _ordered(troubled, settings) if key not in busy and key not in left_alone]
        chosen, left = first_that(
            lambda key: troubled[key] != "missing" or has_samples(dataset, key, deadline),
            candidates,
            settings.max_partitions,
            deadline,
            turn,
        )
        rest = [key for key in _ordered(whole, settings) if key not in busy]
        outdated, unlooked = first_that(
            partial(is_stale, Planner(dataset)), rest, settings.max_partitions - len(chosen), deadline, turn
        )
        found: dict[Trouble, list[str]] = {"failed": [], "missing": [], "stale": outdated}
        for key in chosen:
            found[troubled[key]].append(key)
        report = _report(found, left + unlooked, left_alone, settings)
        context.log.info(f"{spec.name}: {report}")
        chosen += outdated
        if not chosen:
            return dg.SkipReason(report)
        moment = context.scheduled_execution_time.isoformat()
        reasons = {key: f"{spec.name} {key} {moment}" for key in chosen}
        return list(run_requests(spec, reasons, keys, tags))

    return backfill


def _ordered(keys: Iterable[str], settings: BackfillSpec) -> list[str]:
    """Partitions in Dagster's order are the oldest first."""
    return list(keys)[::-1] if settings.order == "newest" else list(keys)


def _report(found: Mapping[Trouble, Sequence[str]], unlooked: int, left_alone: set[str], settings: BackfillSpec) -> str:
    launched = ", ".join(f"{len(keys)} {_SAID[state]}{_named(keys)}" for state, keys in found.items())
    text = f"partitions launched: {launched}"
    if unlooked:
        text += f"; there was no time to look at {unlooked:,} others"
    if left_alone:
        text += (
            f"; {len(left_alone)} left to a person after {settings.max_failures} failures{_named(sorted(left_alone))}"
        )
    return text


def _named(keys: Sequence[str]) -> str:
    more = ", …" if len(keys) > _NAMED else ""
    return f" ({', '.join(keys[:_NAMED])}{more})" if keys else ""
