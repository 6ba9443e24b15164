"""What a dataset file may say: the base of everything that it declares, whose errors are in words of our own."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

_OURS = "shardmill"


class FilledIn(str):
    """Text that a template gave. It may be a secret from the environment: no error shows it."""

    __slots__ = ()


class Spec(BaseModel):
    """A part of a dataset file. Whoever validates it, Dagster too, is told what is wrong and what would be right."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(given)
        except ValidationError as error:
            found = [_wrong(each["loc"], _words(cls, each), each["input"]) for each in error.errors()]
            raise ValidationError.from_exception_data(cls.__name__, found) from error

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, given: Any, info: ValidationInfo) -> Any:
        """Else `max_samples: yes` would be 1."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = {annotation, *get_args(annotation)}
        if isinstance(given, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError(f"must be a number, and is {_shown(given)}")
        return given


def problems(error: ValidationError) -> list[tuple[tuple[int | str, ...], str]]:
    """Each wrong field as it stands in the file, and what is wrong with it. No value that a template gave."""
    return [(_field(each["loc"]), each["msg"]) for each in error.errors(include_url=False, include_input=False)]


def refuse(location: Iterable[int | str], words: str, given: Any = None) -> ValidationError:
    """What a validator raises that looks at several fields, for the error to be about one of them."""
    return ValidationError.from_exception_data("", [_wrong(location, words, given)])


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`; did you mean 'x' or 'y'?`, or nothing."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), by_lower, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(by_lower[name]) for name in close)}?" if close else ""


def _field(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Without which of the ways to declare partitions was taken, and `[key]`: pydantic adds them."""
    named = location[:1] + location[2:] if location[:1] == ("partitions",) else location
    return tuple(part for part in named if part != "[key]")


def _wrong(location: Iterable[int | str], words: str, given: Any) -> InitErrorDetails:
    kind = PydanticCustomError(_OURS, "{words}", {"words": _discreet(words, given)})
    return InitErrorDetails(type=kind, loc=tuple(location), input=given)


_PYDANTICS = frozenset(get_args(core_schema.ErrorType))
_COMPARED = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than"}
_COMPARED["less_than_equal"] = "at most"
_LIMITS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "date": "a day, such as 2026-01-31",
    "list": "a list",
    "tuple": "a list",
    "dict": "fields with values",
}
"""What a field wants, by how the types of pydantic's errors begin."""


def _words(cls: type[BaseModel], error: ErrorDetails) -> str:
    """What is wrong, and what would be right."""
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        known = [field.alias or name for name, field in cls.model_fields.items()]
        return "is no field" + (did_you_mean(error["loc"][-1], known) or f"; there are {', '.join(known)}")
    if kind == "literal_error":
        known = re.findall("'([^']*)'", context["expected"])
        return f"must be {_one_of(known)}, and is {_shown(given)}{did_you_mean(given, known)}"
    if kind in _COMPARED:
        return f"must be {_COMPARED[kind]} {context[_LIMITS[kind]]:,}, and is {_shown(given)}"
    if given is None and kind.endswith("_type"):
        return "is empty"
    if kind == "string_type":
        return _no_text(given)
    if kind in ("model_type", "model_attributes_type"):
        return f"has fields of its own ({', '.join(cls.model_fields)}), and is {_shown(given)}"
    if kind == "invalid_key":
        return "is no field: names of fields are text"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    wanted = _KINDS.get(kind.partition("_")[0])
    if wanted is None:
        return error["msg"] if kind == _OURS or kind not in _PYDANTICS else f"cannot be {_shown(given)}"
    return f"must be {wanted}, and is {_shown(given)}{_advice(kind, given, error['loc'])}"


def _discreet(words: str, given: Any) -> str:
    """The words without what templates gave: validators of a field may repeat it."""
    if isinstance(given, FilledIn):
        return words.replace(given, "…") if given else words
    if isinstance(given, list | Mapping):
        for each in given.values() if isinstance(given, Mapping) else given:
            words = _discreet(words, each)
    return words


def _no_text(given: Any) -> str:
    if isinstance(given, list | Mapping):
        return f"must be text, and is {_shown(given)}"
    kind = {bool: "true or false", int: "a number", float: "a number"}.get(type(given), "a day")
    return f"must be text, and YAML takes {_shown(given)} for {kind}: put it in quotes"


def _advice(kind: str, given: Any, location: tuple[int | str, ...]) -> str:
    if isinstance(given, FilledIn):
        return ""
    percentage = re.fullmatch(r"([\d.]+) ?%", given) if isinstance(given, str) else None
    if kind == "float_parsing" and percentage:
        return f"; write {float(percentage[1]) / 100:g}"
    if kind == "int_parsing" and isinstance(given, str) and re.fullmatch(r"\d+(\.\d*)?[eE]\+?\d{1,2}", given):
        return f"; write {int(float(given))}"
    size = re.fullmatch(r"(\d+) ?([kKMG])i?B", given) if isinstance(given, str) else None
    if kind == "int_parsing" and size and str(location[-1]).endswith("bytes"):
        return f"; write {int(size[1]) * 1000 ** 'KMG'.index(size[2].upper()) * 1000}"
    if kind == "list_type" and isinstance(given, str):
        return f"; write [{given if re.fullmatch('[A-Za-z][A-Za-z0-9_.@/-]*', given) else json.dumps(given)}]"
    return ""


def _one_of(known: list[str]) -> str:
    return f"{', '.join(known[:-1])} or {known[-1]}" if len(known) > 1 else known[0]


def _shown(given: Any) -> str:
    """The value, as it may have stood in the file."""
    if isinstance(given, FilledIn):
        return "what a template gave"
    if isinstance(given, Mapping):
        return f"fields ({', '.join(map(str, list(given)[:5]))})" if given else "fields without any in it"
    if isinstance(given, bool):
        return str(given).lower()
    if given is None:
        return "empty"
    text = given.isoformat() if isinstance(given, date) else str(given) if isinstance(given, list) else repr(given)
    return text if len(text) <= 60 else f"{text[:57]}…"
