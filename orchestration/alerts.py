"""Alerts: a webhook is told of each failed run. Off unless SHARDMILL_ALERT_WEBHOOK is set."""

import json
import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException

import dagster as dg

VARIABLE = "SHARDMILL_ALERT_WEBHOOK"
_SECONDS = 10
_WAITS = (0.5, 2.0)
"""Seconds between tries."""


def build_alert_sensors() -> list[dg.SensorDefinition]:
    """None if the variable is not set."""
    if not os.environ.get(VARIABLE):
        return []

    @dg.run_failure_sensor(
        name="alert_on_failure",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Posts each failed run to the webhook that SHARDMILL_ALERT_WEBHOOK names.",
    )
    def alert_on_failure(context: dg.RunFailureSensorContext) -> None:
        if context.dagster_run.tags.get("dagster/will_retry") != "true":
            post(alert_text(context))

    return [alert_on_failure]


def alert_text(context: dg.RunFailureSensorContext) -> str:
    """What failed, and why, in a few lines."""
    run = context.dagster_run
    partition = run.tags.get("dagster/partition") or "…".join(
        run.tags[tag]
        for tag in ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
        if tag in run.tags
    )
    reasons = []
    for event in context.get_step_failure_events():
        data = event.step_failure_data
        said = data.user_failure_data.description if data.user_failure_data else None
        reasons.append(f"{event.step_key}: {said or (data.error.message.strip() if data.error else event.message)}")
    where = f" of {partition}" if partition else ""
    return "\n".join([f"Shardmill: a run of {run.job_name}{where} failed (run {run.run_id}).", *reasons[:3]])


def post(text: str) -> None:
    """Post `{"text": …}` to the webhook, as Slack and Mattermost take it.

    Raises:
        dg.Failure: The webhook could not be told; names no URL.
    """
    body, headers = json.dumps({"text": text}).encode(), {"content-type": "application/json"}
    status = ""
    for wait in (*_WAITS, None):  # Dagster tells of each failure once, and never again
        try:
            request = urllib.request.Request(os.environ[VARIABLE], body, headers)
            with urllib.request.urlopen(request, timeout=_SECONDS):
                return
        except (OSError, ValueError, HTTPException) as error:  # the webhook's URL is a secret, and some errors quote it
            status = f"HTTP status {error.code}" if isinstance(error, urllib.error.HTTPError) else type(error).__name__
        if wait is not None:
            time.sleep(wait)
    raise dg.Failure(f"the webhook of {VARIABLE} could not be told: {status}")
