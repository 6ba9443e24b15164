"""Durations and time zones as YAML files give them."""

import math
import re
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


def known_zone(name: str) -> str:
    """The name, if it is that of a time zone.

    Raises:
        ValueError: There is no such time zone.
    """
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone; give an IANA name such as Europe/Berlin, or UTC") from None
    return name


DURATION = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\d+ ?[smhd]$"}]}
"""What `seconds_of` takes, as JSON schema: for Dagster's check of the YAML."""


def seconds_of(duration: object) -> object:
    """Seconds, of `30s`, `12h`, `7d` or a number of them.

    Raises:
        ValueError: It is anything else.
    """
    if isinstance(duration, int | float) and not isinstance(duration, bool) and 0 <= duration < math.inf:
        return float(duration)
    match = re.fullmatch(r"(\d+) ?([smhd])", duration) if isinstance(duration, str) else None
    if match is None:
        raise ValueError(f"{duration!r} is no duration: give a number of seconds, or one with s, m, h or d, such as 7d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
