"""Scheduled backfills: partitions that are missing, failed or stale are launched, so many at a tick."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import dagster as dg

from assets.common import partitions_of
from orchestration.backlog import Trouble, backlog, failures_in_a_row, stale
from orchestration.new_objects import LAUNCHED_BY
from orchestration.runs import job_name, partition_keys, run_requests, under_way
from resources.storage import StorageResource
from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.partitions import BatchPartitions
from shardmill.shards.fingerprint import fingerprint
from shardmill.storage.check import impatient
from shardmill.upkeep import BackfillSpec

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
        failures = failures_in_a_row(context.instance, spec.name, tags, keys)
        given_up = {key for key in troubled if failures.get(key, 0) >= settings.max_failures}
        dataset = Dataset(spec, impatient(storage.open()))
        candidates = [key for key in _ordered(troubled, settings) if key not in busy and key not in given_up]
        chosen = _first_with_objects(dataset, candidates, troubled, settings.max_partitions)
        rest = [key for key in _ordered(whole, settings) if key not in busy]
        outdated, looked = stale(dataset, rest, settings.max_partitions - len(chosen))
        report = _report(troubled, outdated, looked, len(rest), given_up, settings)
        context.log.info(f"{spec.name}: {report}")
        chosen += outdated
        if not chosen:
            return dg.SkipReason(report)
        moment = context.scheduled_execution_time.isoformat()
        reasons = {key: f"{spec.name} {key} {moment}" for key in chosen}
        return list(run_requests(spec, reasons, keys, tags))

    return backfill


def _first_with_objects(
    dataset: Dataset, candidates: Sequence[str], troubled: Mapping[str, Trouble], most: int
) -> list[str]:
    """The first of the candidates, less those that are missing because the source has nothing of them."""

    def holds(key: str) -> bool:
        if troubled[key] != "missing" or isinstance(dataset.spec.partitions, BatchPartitions):
            return True
        if dataset.spec.source.table is not None:
            return True
        folder = dataset.partitioning.folder(key, dataset.storage)
        return next(iter(dataset.storage.list(folder)), None) is not None

    chosen: list[str] = []
    for start in range(0, len(candidates), max(most, REQUESTS_AT_ONCE)):
        some = candidates[start : start + max(most, REQUESTS_AT_ONCE)]
        held: Iterator[bool] = bounded_map(holds, some, REQUESTS_AT_ONCE)
        chosen += [key for key, found in zip(some, held, strict=True) if found]
        if len(chosen) >= most:
            break
    return chosen[:most]


def _ordered(keys: Iterable[str], settings: BackfillSpec) -> list[str]:
    """Partitions in Dagster's order are the oldest first."""
    return list(keys)[::-1] if settings.order == "newest" else list(keys)


def _report(
    troubled: Mapping[str, Trouble],
    outdated: Sequence[str],
    looked: int,
    whole: int,
    given_up: set[str],
    settings: BackfillSpec,
) -> str:
    counts = Counter(troubled.values())
    text = f"partitions: {counts['failed']} failed, {counts['missing']} missing, {len(outdated)} stale"
    if looked < whole:
        text += f" (of {looked:,} that were looked at; {whole - looked:,} were not)"
    if given_up:
        names = ", ".join(sorted(given_up)[:10])
        text += f"; {len(given_up)} left to a person after {settings.max_failures} failures: {names}"
    return text
