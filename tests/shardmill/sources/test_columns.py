"""Values of declared columns: what fits a type, what is refused, and that Arrow takes whatever fits."""

import json
import math
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill.errors import Rejected
from shardmill.sources.columns import SCALARS, arrow_type, column_value, json_fields

KINDS = [*SCALARS, *(f"list<{kind}>" for kind in SCALARS)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
WRITTEN = st.sampled_from(
    ["", "1", "-1", "3.0", "1e3", "nan", "inf", "true", "02139", "2026-01-02", "2026-01-02T03:04Z"]
)


@given(st.sampled_from(KINDS), st.lists(st.lists(JSON | WRITTEN, max_size=3), max_size=6))
def test_whatever_fits_a_type_is_what_arrow_takes_and_the_rest_is_rejected(kind: str, rows: list[list[Any]]) -> None:
    values = []
    for cells in rows:
        with suppress(Rejected):
            values.append(column_value("c", kind, cells))
    array = pa.array(values, arrow_type(kind))
    assert array.type == arrow_type(kind)  # with no value, too
    assert len(array) == len(values)


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        ("string", "02139", "02139"),
        ("string", "", ""),
        ("string", 5, "5"),
        ("string", True, "true"),
        ("string", {"b": [1], "a": "é"}, '{"a": "é", "b": [1]}'),
        ("bool", "True", True),
        ("bool", "0", False),
        ("bool", False, False),
        ("int8", "-128", -128),
        ("int32", " 7 ", 7),
        ("int32", "3.0", 3),
        ("int64", 3.0, 3),
        ("int64", "1e3", 1000),
        ("int64", "007", 7),
        ("uint64", str(2**64 - 1), 2**64 - 1),
        ("float64", "0.5", 0.5),
        ("float64", 2, 2.0),
        ("float64", "-inf", -math.inf),
        ("timestamp", "2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("timestamp", "2026-01-02 03:04:05.123456", datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)),
        ("timestamp", "2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("timestamp", "2026-01-02T03:04:05+02:00", datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("date", "2026-01-02", date(2026, 1, 2)),
        ("date", "2026-01-02 00:00:00", date(2026, 1, 2)),
        ("date", "2026-01-02T00:00:00.000", date(2026, 1, 2)),
        ("list<string>", ["a", None], ["a", None]),
        ("list<string>", '["a", "b"]', ["a", "b"]),
        ("list<string>", "[unclear] a dog", ["[unclear] a dog"]),
        ("list<int64>", "[1, 2]", [1, 2]),
        ("list<int64>", "7", [7]),
        ("list<float32>", [0.5, 1], [0.5, 1.0]),
    ],
)
def test_a_cell_that_fits(kind: str, cell: Any, value: Any) -> None:
    found = column_value("c", kind, [cell])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "cell", "detail"),
    [
        ("int32", "wide", "column c is int32, and 'wide' is not"),
        ("int8", "128", "'128' is not"),
        ("uint8", "-1", "'-1' is not"),
        ("int64", "0.5", "'0.5' is not"),
        ("int64", True, "True is not"),
        ("int64", "1_000", "'1_000' is not"),
        ("int64", "9" * 5000, "is not"),
        ("int64", "1e999999999", "'1e999999999' is not"),
        ("int64", "nan", "'nan' is not"),
        ("float32", "1e39", "'1e39' is not"),
        ("float64", "1e999", "'1e999' is not"),
        ("float64", "1,5", "'1,5' is not"),
        ("bool", "yes", "'yes' is not"),
        ("timestamp", 1700000000, "1700000000 is not"),
        ("timestamp", "02.01.2026", "'02.01.2026' is no ISO 8601 time"),
        ("timestamp", "0001-01-01T00:00+02:00", "is no ISO 8601 time"),
        ("date", "2026-01-02T03:04:05", "is no ISO 8601 date"),
        ("date", "2026-01-02T00:00:00Z", "is no ISO 8601 date"),
        ("list<int64>", ["a"], "'a' is not"),
        ("string", "\ud800", "surrogates not allowed"),
    ],
)
def test_a_cell_that_does_not_fit_is_rejected_by_column_value_and_type(kind: str, cell: Any, detail: str) -> None:
    with pytest.raises(Rejected, match=detail) as rejected:
        column_value("c", kind, [cell])
    assert rejected.value.reason == "value does not fit its column"


@pytest.mark.parametrize("kind", KINDS)
def test_no_cell_and_empty_cells_are_null(kind: str) -> None:
    assert column_value("c", kind, []) is None
    assert column_value("c", kind, [None, None]) is None
    if kind != "string":
        assert column_value("c", kind, ["", None]) is None


@pytest.mark.parametrize("kind", ["string", "int64", "bool", "date"])
def test_what_json_has_as_nan_is_null_where_there_is_none(kind: str) -> None:
    assert column_value("c", kind, [math.nan]) is None
    assert column_value("c", f"list<{kind}>", [[math.nan, None]]) == [None, None]
    assert column_value("c", "string", ["NaN"]) == "NaN"


def test_rows_of_a_sample_agree_or_are_all_there() -> None:
    assert column_value("c", "string", ["a", None, "a"]) == "a"
    assert column_value("c", "int64", ["7", "7.0", None]) == 7
    assert math.isnan(column_value("c", "float64", ["nan", "NaN"]))
    assert column_value("c", "list<string>", ["a", None, "b", ["c", "d"]]) == ["a", None, "b", "c", "d"]
    with pytest.raises(Rejected, match=r"in column c: 'a' and 'b'\. Declare it as list<string>"):
        column_value("c", "string", ["a", "b"])


def test_times_of_any_zone_are_utc_in_microseconds() -> None:
    time = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=-5)))
    array = pa.array([column_value("c", "timestamp", [time.isoformat()])], arrow_type("timestamp"))
    assert array.type == pa.timestamp("us", tz="UTC")
    assert array[0].as_py() == time


def test_fields_of_json() -> None:
    assert json_fields(json.dumps({"a": 1}).encode()) == {"a": 1}
    assert json_fields(b"[1]") == {}
    for data in (b"{", b"\xff", b'{"a": ' + b"9" * 5000 + b"}", b"[" * 100_000):
        with pytest.raises(Rejected, match="unreadable json"):
            json_fields(data)
