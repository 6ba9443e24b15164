"""Columns that a dataset declares: their types, and values of them out of what a table or a JSON file says.

A dataset declares a column once, so every partition's table has it with one type, whatever values it holds there.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from shardmill.errors import Rejected

if TYPE_CHECKING:
    import pyarrow as pa

CLASS = "cls"
"""A source table's column of this name is the class of its samples, declared or not."""
LINEAGE = (
    "model",
    "component",
    "component_sha256",
    "shard",
    "shard_sha256",
    "source_uri",
    "source_version",
    "source_sha256",
)
"""Columns of a table of embeddings that say how a row came about."""
OWN_COLUMNS = ("key", "embedding", *LINEAGE)
"""Names that no declared column can have."""
_INTEGERS = {
    f"{sign}int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if not sign else (0, 2**bits - 1)
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
}
_FLOATS = ("float32", "float64")
SCALARS = ("string", "bool", *_INTEGERS, *_FLOATS, "timestamp", "date")
_LIST = re.compile("list<(.*)>")
_OTHER_NAMES = {
    "str": "string",
    "text": "string",
    "boolean": "bool",
    "int": "int64",
    "integer": "int64",
    "float": "float64",
    "double": "float64",
    "datetime": "timestamp",
}
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
_MOST_DIGITS = 40
"""Of a number: no integer here has half as many."""


def checked_type(kind: str) -> str:
    """The name of a type, if it is one.

    Raises:
        ValueError: It is none; says which one may be meant.
    """
    match = _LIST.fullmatch(kind)
    scalar = match[1] if match else kind
    if scalar in SCALARS:
        return kind
    meant = _OTHER_NAMES.get(scalar.lower()) or next(iter(get_close_matches(scalar.lower(), SCALARS, 1)), None)
    hint = f"; did you mean {f'list<{meant}>' if match else meant}?" if meant else "."
    raise ValueError(f"{kind!r} is no type of a column{hint} There are {', '.join(SCALARS)} and list<…> of each")


def arrow_type(kind: str) -> pa.DataType:
    """Arrow's type. Timestamps are UTC, in microseconds."""
    import pyarrow as pa

    if match := _LIST.fullmatch(kind):
        return pa.list_(arrow_type(match[1]))
    if kind == "timestamp":
        return pa.timestamp("us", tz="UTC")
    return pa.date32() if kind == "date" else pa.type_for_alias(kind)


def column_value(name: str, kind: str, cells: Sequence[Any]) -> Any:
    """The value of a sample's column: of what each of its rows says of it, in their order.

    A list has the cells of all rows; anything else is what they agree on. An empty cell is null, and so is a list of
    nothing else.

    Raises:
        Rejected: A cell does not fit the type, or the rows disagree.
    """
    try:
        if match := _LIST.fullmatch(kind):
            if all(_is_null(cell, kind) for cell in cells):
                return None
            items = [item for cell in cells for item in _elements(cell)]
            return [None if item is None or _lacks(item, match[1]) else converted(item, match[1]) for item in items]
        values = [converted(cell, kind) for cell in cells if not _is_null(cell, kind)]
    except (ValueError, OverflowError) as error:
        raise Rejected("value does not fit its column", f"column {name} is {kind}, and {error}") from None
    others = [value for value in values if value != values[0] and not (_is_nan(value) and _is_nan(values[0]))]
    if others:
        raise Rejected(
            "rows of one sample differ",
            f"in column {name}: {_shown(values[0])} and {_shown(others[0])}. Declare it as list<{kind}> to have all, "
            "or name a `key_column` that gives each row a key of its own",
        )
    return values[0] if values else None


def converted(cell: Any, kind: str) -> Any:
    """A cell as a value of a scalar type: as Python has it, and Arrow takes it.

    Raises:
        ValueError: It is none.
        OverflowError: Likewise.
    """
    if kind == "string":
        text = cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False, sort_keys=True)
        text.encode()  # a UnicodeEncodeError is a ValueError
        return text
    if kind == "bool":
        known = _BOOLEANS.get(str(cell).strip().lower())
        return known if known is not None else _refuse(cell)
    if kind in _INTEGERS:
        return _integer(cell, *_INTEGERS[kind])
    if kind in _FLOATS:
        return _float(cell, kind)
    if not isinstance(cell, str):
        _refuse(cell)
    try:
        return _timestamp(cell) if kind == "timestamp" else _date(cell)
    except (ValueError, OverflowError):
        raise ValueError(f"{_shown(cell)} is no ISO 8601 {'time' if kind == 'timestamp' else 'date'}") from None


def _integer(cell: Any, least: int, most: int) -> int:
    """A whole number, also one written as a float, as pandas does where others of the column are missing."""
    number = _number(cell)
    if not number.is_finite() or number.adjusted() > _MOST_DIGITS or number != number.to_integral_value():
        _refuse(cell)
    value = int(number)
    return value if least <= value <= most else _refuse(cell)


def _float(cell: Any, kind: str) -> float:
    number = _number(cell)
    value = float(number)
    try:
        struct.pack("<f" if kind == "float32" else "<d", value)
    except OverflowError:
        _refuse(cell)
    return value if math.isfinite(value) or not number.is_finite() else _refuse(cell)


def _number(cell: Any) -> Decimal:
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        _refuse(cell)
    text = cell.strip() if isinstance(cell, str) else repr(cell)
    if "_" in text or not text.isascii():
        _refuse(cell)
    try:
        number = Decimal(text)
    except InvalidOperation:
        _refuse(cell)
    return number if not number.is_snan() else _refuse(cell)


def _timestamp(cell: str) -> datetime:
    """UTC, unless it says otherwise."""
    time = datetime.fromisoformat(cell.strip())
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _date(cell: str) -> date:
    """A day; also its first moment without a zone, as pandas and spreadsheets write a day."""
    text = cell.strip()
    if len(text) <= len("2026-01-05"):
        return date.fromisoformat(text)
    time = datetime.fromisoformat(text)
    if time.tzinfo is not None or time.time() != datetime.min.time():
        raise ValueError(text)
    return time.date()


def _elements(cell: Any) -> list[Any]:
    """The elements that a cell gives a list: those of a list, also of one in JSON as text, or itself."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return [cell]
    return cell if isinstance(cell, list) else [None if cell == "" else cell]


def _is_null(cell: Any, kind: str) -> bool:
    return cell is None or _lacks(cell, kind) or (cell == "" and kind != "string")


def _lacks(cell: Any, kind: str) -> bool:
    """Whether a cell is NaN where no number with a point can be: what pandas writes to JSON for a value it lacks."""
    return _is_nan(cell) and kind not in _FLOATS


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _refuse(cell: Any) -> Any:
    raise ValueError(f"{_shown(cell)} is not")


def _shown(cell: Any) -> str:
    text = repr(cell)
    return text if len(text) <= 60 else f"{text[:59]}…"


def json_fields(data: bytes) -> Mapping[str, Any]:
    """The top-level fields of a `json` component; none if it is no object.

    Raises:
        Rejected: It is not JSON.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Rejected("unreadable json", f"columns are to come from it, and it is not JSON: {error}") from None
    return content if isinstance(content, dict) else {}


def declared(columns: Mapping[str, str]) -> list[str]:
    """Plain JSON of what a dataset declares, in its order: the table has it, too."""
    return [f"{name}: {kind}" for name, kind in columns.items()]


def declared_names(columns: Sequence[str]) -> list[str]:
    """The columns' names, of what `declared` gave."""
    return [each.rpartition(": ")[0] for each in columns]
