"""Where the value of a sample's column comes from, and whose columns a shard gets."""

from typing import Any

import pyarrow as pa
import pytest

from shardmill.shards.index import IndexRow
from shardmill.stages.columns import SampleColumns, ShardWithColumns, UnfitValueError

TYPES = {"note": "string", "width": "int32", "cls": "int64"}


def columns(cells: dict[str, str]) -> SampleColumns:
    """Of a shard whose samples with these keys have these columns in a manifest."""
    table = pa.table(
        {"key": list(cells), "columns": list(cells.values())}, pa.schema({"key": "string", "columns": "string"})
    )
    nowhere: Any = None
    return SampleColumns(ShardWithColumns(nowhere, nowhere, TYPES, table))


def rows(*components: str, origin: str = "a") -> dict[str, IndexRow]:
    return {name: IndexRow("a", name, 0, 1, "", "", "", "", origin) for name in components}


def test_a_table_comes_before_a_component_and_that_before_json() -> None:
    said = columns({"a": '{"note": ["of the table"], "cls": [null]}'})
    sample = rows("cls", "jpg", "json", "width")
    given = said.given(sample)
    assert given == {"note": "of the table", "cls": None}
    assert said.read_from(given, sample) == ["width"]
    assert said.values(given, {"width": b" 7\n", "json": b'{"width": 8}'}) == [None, "of the table", 7]


def test_json_is_read_where_something_is_missing_that_it_may_have() -> None:
    said = columns({})
    sample = rows("cls", "jpg", "json")
    assert said.read_from({}, sample) == ["cls", "json"]
    assert said.read_from({"note": "x", "width": 1}, sample) == ["cls"]
    assert said.read_from({}, rows("jpg")) == []
    assert said.values({}, {"cls": b"3", "json": b'{"cls": 4, "width": 5, "other": 6}'}) == [3, None, 5]
    assert said.values({}, {}) == [None, None, None]


def test_samples_that_descend_from_one_have_its_columns() -> None:
    said = columns({"a": '{"note": ["x"]}'})
    assert said.given(rows("jpg", origin="a")) == {"note": "x"}
    assert said.given(rows("jpg", origin="b")) == {}


@pytest.mark.parametrize("json", [b"{", b'{"width": "wide"}'])
def test_what_does_not_fit_says_that_the_value_is_at_fault(json: bytes) -> None:
    with pytest.raises(UnfitValueError):
        columns({}).values({}, {"json": json})
    with pytest.raises(UnfitValueError, match="column width is int32, and 'wide' is not"):
        columns({"a": '{"width": ["wide"]}'}).given(rows("jpg"))
