"""Which partitions the schedule gives up: those that fail again and again."""

from collections.abc import Callable, Collection, Mapping, Sequence

import dagster as dg

from orchestration.runs import PARTITION, partitions_of_run
from resources.failures import FAILED, metadata_of

_RUNS = 10_000
"""How far back failures are counted."""
_READ = 500
"""Runs whose errors are read."""
_PAGE = 1_000

Failures = dict[str, list[dg.RunRecord]]
"""Partition → the failed runs that took it."""


def given_up(
    instance: dg.DagsterInstance,
    last: dg.AssetKey,
    tags: Mapping[str, str],
    partitions: Collection[str],
    keys: Sequence[str],
    most: int,
) -> set[str]:
    """The partitions of which `most` runs with these tags failed since any run made `last` of them.

    `last` is the dataset's last asset. A run that Dagster itself tried again is one failure. A run over several
    partitions is one of those that its errors name; of all if they name none, and if 500 later ones had to be read.

    One query where nothing has failed so often, else two, and one for each run that is read.
    """
    positions = {key: position for position, key in enumerate(keys)}
    failures: Failures = {key: [] for key in partitions}
    filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], tags={**tags})
    for record in instance.get_run_records(filters, limit=_RUNS):
        for partition in partitions_of_run(record.dagster_run, positions, keys):
            if partition in failures:
                failures[partition].append(record)
    failures = _enough(failures, most)
    if not failures:
        return set()
    made = _last_made(instance, last, failures)
    failures = _enough(failures, most, lambda partition, record: _start(record) > made.get(partition, 0.0))
    named = _named_in(instance, failures)
    return set(_enough(failures, most, lambda partition, record: partition in named.get(_id(record), {partition})))


def _enough(failures: Failures, most: int, counts: Callable[[str, dg.RunRecord], bool] = lambda *_: True) -> Failures:
    """The failures that count, of the partitions that have `most` of them."""
    kept = {key: [record for record in records if counts(key, record)] for key, records in failures.items()}
    return {
        key: records
        for key, records in kept.items()
        if len({record.dagster_run.root_run_id or _id(record) for record in records}) >= most
    }


def _id(record: dg.RunRecord) -> str:
    return record.dagster_run.run_id


def _start(record: dg.RunRecord) -> float:
    return record.start_time or record.create_timestamp.timestamp()


def _last_made(instance: dg.DagsterInstance, asset: dg.AssetKey, failures: Failures) -> dict[str, float]:
    """When each partition was last materialized, if that was after the first of the failures."""
    since = min(_start(record) for records in failures.values() for record in records)
    filters = dg.AssetRecordsFilter(asset, asset_partitions=list(failures), after_timestamp=since)
    made: dict[str, float] = {}
    cursor: str | None = None
    while True:
        found = instance.fetch_materializations(filters, limit=_PAGE, cursor=cursor)  # the newest first
        for record in found.records:
            made.setdefault(str(record.partition_key), record.timestamp)
        if not found.has_more:
            return made
        cursor = found.cursor


def _named_in(instance: dg.DagsterInstance, failures: Failures) -> dict[str, set[str]]:
    """Run over several partitions → those that its errors name, as far as each of its errors names any."""
    shared = {
        _id(record): record
        for records in failures.values()
        for record in records
        if PARTITION not in record.dagster_run.tags
    }
    newest = sorted(shared, key=lambda run: shared[run].storage_id, reverse=True)[:_READ]
    errors = {run: _errors(instance, run) for run in newest}
    return {run: set().union(*said) for run, said in errors.items() if said and all(said)}


def _errors(instance: dg.DagsterInstance, run_id: str) -> list[dict[str, str]]:
    """For each step that failed its partitions and why; an empty dict if it does not say that."""
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return [metadata_of(entry.dagster_event, FAILED) or {} for entry in entries if entry.dagster_event]
