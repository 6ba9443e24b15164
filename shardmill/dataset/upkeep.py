"""How a dataset's YAML file says that it is kept up to date: by a sensor on new objects, and by scheduled backfills."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from shardmill.durations import known_zone
from shardmill.spec import Spec


def _cron(text: str) -> str:
    """The expression, if its numbers can be; Dagster knows the rest."""
    fields = text.split()
    if text in ("@hourly", "@daily", "@weekly", "@monthly"):
        return text
    if len(fields) != len(_CRON):
        raise ValueError(f"{text!r} is no cron expression: give five fields, such as '0 3 * * *', every day at 3:00")
    for field, (name, least, most) in zip(fields, [(name, *limits) for name, limits in _CRON.items()], strict=True):
        numbers = [int(number) for number in re.findall(r"(?<!/)\b\d+", field)]
        if not re.fullmatch(r"[\w*/,-]+", field) or any(not least <= number <= most for number in numbers):
            raise ValueError(
                f"{text!r} is no cron expression: its {name} is {field!r}, and goes from {least} to {most}"
            )
    return text


_CRON = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "day of the week": (0, 7)}


class NotificationsSpec(Spec):
    """A queue in which the bucket announces what changed. One of the two fields."""

    sqs_queue: str | None = None
    """URL of an SQS queue that gets an S3 bucket's event notifications."""
    pubsub_subscription: str | None = None
    """`projects/<project>/subscriptions/<name>`, of a topic that gets a GCS bucket's notifications."""
    endpoint: str | None = None
    """URL of the service, where it is not the cloud's own."""

    @model_validator(mode="after")
    def _one_queue(self) -> NotificationsSpec:
        if (self.sqs_queue is None) == (self.pubsub_subscription is None):
            raise ValueError("give either `sqs_queue` (a URL) or `pubsub_subscription` (projects/…/subscriptions/…)")
        name = self.pubsub_subscription
        if name and not re.fullmatch(r"projects/[^/]+/subscriptions/[^/]+", name):
            raise ValueError(f"{name!r} is not projects/<project>/subscriptions/<name>")
        return self


class SensorSpec(Spec):
    """The new-objects sensor."""

    interval_seconds: Annotated[int, Field(ge=1)] = 30
    """Between two looks; Dagster's daemon looks every 30 s or so at most."""
    quiet_seconds: Annotated[float, Field(ge=0)] = 60.0
    """A partition is run when nothing in it has changed for so long."""
    late_hours: Annotated[float, Field(ge=0)] = 48.0
    """Every look lists the time partitions that were open in the last hours; older ones wait to be reconciled."""
    reconcile_hours: Annotated[float, Field(ge=0)] = 24.0
    """How often everything is listed, where that is not what every look does."""
    max_partitions_per_tick: Annotated[int, Field(gt=0)] = 100
    """The others wait for the next look."""
    notifications: NotificationsSpec | None = None


class BackfillSpec(Spec):
    """Scheduled backfills of missing, failed and stale partitions."""

    cron: Annotated[str, AfterValidator(_cron)]
    """Minute, hour, day, month, day of the week; or @hourly, @daily, @weekly, @monthly."""
    timezone: Annotated[str, AfterValidator(known_zone)] = "UTC"
    max_partitions: Annotated[int, Field(gt=0)] = 100
    """Most partitions that are launched at a tick."""
    order: Literal["newest", "oldest"] = "newest"
    max_failures: Annotated[int, Field(gt=0)] = 3
    """A partition is left to a person when so many of its last runs failed."""
