"""Failures of a step in plain words."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import dagster as dg

from shardmill.errors import ShardmillError

FAILED = "failed partitions"
CARRY_ON = "carry on"
"""Metadata of a step's failure."""


def failure(error: ShardmillError) -> dg.Failure:
    """The failure to raise from `error`. It allows retries only where one can help."""
    return dg.Failure(str(error), allow_retries=not error.final)


def metadata_of(event: dg.DagsterEvent, name: str) -> Any:
    """What the failure of a step says under `FAILED` or `CARRY_ON`; None if it says nothing of that."""
    failed = event.step_failure_data.user_failure_data
    value = failed.metadata.get(name) if failed else None
    return value.data if isinstance(value, dg.JsonMetadataValue) else None


def partial_failure(partitions: Sequence[str], failed: Mapping[str, ShardmillError]) -> dg.Failure:
    """The failure of a run over `partitions`, in order, of which some failed. The others are made.

    Its metadata: `FAILED`, a JSON object from partition to reason, and, if others are made, `CARRY_ON`, a JSON list of
    the ranges `[first, last]` that hold no failed partition.
    """
    retries = not all(error.final for error in failed.values())
    if len(partitions) == 1:
        ((partition, error),) = failed.items()
        return dg.Failure(str(error), {FAILED: dg.MetadataValue.json({partition: str(error)})}, allow_retries=retries)
    reasons = {partition: str(error) for partition, error in failed.items()}
    ranges = [list(group) for good, group in groupby(partitions, lambda key: key not in failed) if good]
    lines = "\n".join(f"{partition}: {reason}" for partition, reason in reasons.items())
    others = "; the others are made, and the sensor partial_failures carries on with them" if ranges else ""
    return dg.Failure(
        f"{len(failed)} of {len(partitions)} partitions failed{others}.\n{lines}",
        {
            FAILED: dg.MetadataValue.json(reasons),
            CARRY_ON: dg.MetadataValue.json([[keys[0], keys[-1]] for keys in ranges]),
        },
        allow_retries=retries,
    )
