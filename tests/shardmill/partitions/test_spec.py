"""How a dataset's YAML file says what its partitions are."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from shardmill.partitions import BatchPartitions, PartitionsSpec, PrefixPartitions, TimePartitions

SPEC: TypeAdapter[Any] = TypeAdapter(PartitionsSpec)
DAY = {"by": "time", "start": "2024-01-01"}
HOUR = {"by": "time", "every": "hour"}


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        (["a", "b=1", "x.y-z+_"], list),
        (DAY, TimePartitions),
        ({**DAY, "every": "hour", "timezone": "Asia/Kolkata"}, TimePartitions),
        ({**HOUR, "start": "2015-01-01", "timezone": "Europe/Moscow"}, TimePartitions),
        ({"by": "prefix"}, PrefixPartitions),
        ({"by": "batch", "max_objects": 5, "max_age_minutes": 0}, BatchPartitions),
    ],
)
def test_what_is_declared_says_itself_which_kind_it_is(declared: Any, kind: type) -> None:
    assert isinstance(SPEC.validate_python(declared), kind)


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ([], "at least 1 item"),
        (["a", "a"], "must be different"),
        (["a/b"], "use letters, digits and _ . = + -"),
        (["a\n"], "use letters, digits and _ . = + -"),
        ([".a"], "no dot or underscore first"),
        (["a...b"], "use letters"),
        ({"by": "moon"}, "`by: time`, `by: prefix` or `by: batch`"),
        ("a", "valid list"),
        ({"by": "prefix", "start": "2024-01-01"}, "is no field"),
        ({"by": "time"}, "start"),
        ({**DAY, "timezone": "Mars/Olympus"}, "is no time zone; give an IANA name"),
        ({**DAY, "timezone": "../etc"}, "is no time zone"),
        ({**DAY, "every": "hour", "timezone": "Europe/Berlin"}, "a zone whose clocks are never changed, such as UTC"),
        ({**HOUR, "start": "2013-01-01", "timezone": "Europe/Moscow"}, "whose clocks are never changed"),
        ({**DAY, "every": "month", "start": "2024-01-02"}, "start on the first of a month"),
        ({"by": "batch", "max_objects": 0}, "must be more than 0"),
    ],
)
def test_a_wrong_declaration_is_refused_with_what_would_be_right(declared: Any, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SPEC.validate_python(declared)
    assert problem in str(caught.value)
