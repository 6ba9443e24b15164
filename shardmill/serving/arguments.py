"""What a request asks for beside the object: the contract's `etl_args`, here a JSON object."""

import json
from typing import NamedTuple

from shardmill.serving.refusals import Refusal

_LONGEST = 4096
_KNOWN = ("epoch", "report")


class Arguments(NamedTuple):
    """What `etl_args` say."""

    epoch: int | None = None
    """Of the random operations; by default that of the dataset file."""
    report: bool = False
    """Whether a transformed shard begins with what became of each sample, as `__report__/samples.json`."""


def parse_arguments(text: str) -> Arguments:
    """Read `etl_args`; nothing stands for the defaults.

    Raises:
        Refusal: They are anything but a JSON object of known fields.
    """
    if not text:
        return Arguments()
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"longer than {_LONGEST} characters")
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(f"not JSON: {error}") from error
    if not isinstance(given, dict):
        raise _wrong("not an object")
    if unknown := sorted(given.keys() - set(_KNOWN)):
        raise _wrong(f"no field {unknown[0]!r}; there are {', '.join(_KNOWN)}")
    epoch, report = given.get("epoch"), given.get("report", False)
    if epoch is not None and (type(epoch) is not int or not 0 <= epoch < 1 << 63):
        raise _wrong("epoch is a whole number from 0")
    if type(report) is not bool:
        raise _wrong("report is true or false")
    return Arguments(epoch, report)


def _wrong(why: str) -> Refusal:
    return Refusal(400, "bad etl_args", f'{why}. Write {{"epoch": 3}}')
