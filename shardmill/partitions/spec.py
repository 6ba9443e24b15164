"""How a dataset's YAML file says what its partitions are."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from shardmill.durations import known_zone
from shardmill.spec import Spec


class TimePartitions(Spec):
    """One partition a window of time. The source's uri holds `%Y`, `%m`, `%d`, `%H`, as `strftime` fills them in."""

    by: Literal["time"]
    every: Literal["hour", "day", "month"] = "day"
    start: date
    """The first window begins at midnight of this day."""
    timezone: Annotated[str, AfterValidator(known_zone)] = "UTC"
    """IANA name of the zone in which the folders are named."""

    @property
    def key_format(self) -> str:
        """Of a partition's key, for `strftime`."""
        return {"hour": "%Y-%m-%d-%H", "day": "%Y-%m-%d", "month": "%Y-%m"}[self.every]

    @model_validator(mode="after")
    def _one_folder_an_hour(self) -> TimePartitions:
        zone = ZoneInfo(self.timezone)
        noon = datetime(self.start.year, 1, 15, 12, tzinfo=zone)
        months = 12 * (max(0, datetime.now(zone).year - self.start.year) + 1)
        offsets = {(noon + timedelta(days=30.4 * month)).utcoffset() for month in range(months)}
        if self.every == "hour" and len(offsets) > 1:
            raise ValueError(
                f"hourly partitions need a zone whose clocks are never changed, such as UTC: in {self.timezone} two "
                "hours have the same name each time, so they would share a folder"
            )
        if self.every == "month" and self.start.day != 1:
            raise ValueError(f"monthly partitions start on the first of a month, not on {self.start}")
        return self


class PrefixPartitions(Spec):
    """One partition for each name that stands where the source's uri has `{partition}`."""

    by: Literal["prefix"]


class BatchPartitions(Spec):
    """New objects, wherever they are below the source's uri, sealed into batches of `max_objects`.

    Fewer are sealed when the oldest of them has waited for `max_age_minutes`; a few more where a sample would be torn.
    """

    by: Literal["batch"]
    max_objects: Annotated[int, Field(gt=0, le=100_000)] = 10_000
    max_age_minutes: Annotated[float, Field(ge=0)] = 60.0


_LONGEST = 200
"""Characters: file systems take names of 255 bytes, and files beside a partition have longer ones than it."""


def _legal_keys(keys: list[str]) -> list[str]:
    for key in keys:
        if not re.fullmatch(r"[A-Za-z0-9=+-][A-Za-z0-9_.=+-]*", key) or "..." in key:
            raise ValueError(f"{key!r} is no partition: use letters, digits and _ . = + -, no dot or underscore first")
        if len(key) > _LONGEST:
            raise ValueError(f"the partition {key[:40]}… has {len(key)} characters; {_LONGEST} are the most")
    if len(set(keys)) != len(keys):
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise ValueError(f"{twice!r} is given twice; partitions must be different from each other")
    return keys


StaticPartitions = Annotated[list[str], Field(min_length=1), AfterValidator(_legal_keys)]
"""The keys themselves; `{partition}` in the source stands for each."""


def _kind(given: Any) -> str | None:
    """Of the ways to declare partitions, the one that is meant: errors then speak of that alone."""
    by = given.get("by") if isinstance(given, dict) else getattr(given, "by", "keys")
    return str(by) if by else None


PartitionsSpec = Annotated[
    Annotated[StaticPartitions, Tag("keys")]
    | Annotated[TimePartitions, Tag("time")]
    | Annotated[PrefixPartitions, Tag("prefix")]
    | Annotated[BatchPartitions, Tag("batch")],
    Discriminator(
        _kind,
        custom_error_type="partitions",
        custom_error_message="give a list of keys, or `by: time`, `by: prefix` or `by: batch`",
    ),
]
