"""Names of many objects at once, in columns: those that are plain, as nearly all are.

What a name means, `names.py` and `excludes.py` say. Here are their rules over a column of names, for those in which
there is nothing to encode. What is not surely one of these is left to them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING

from shardmill.sources.excludes import Excludes
from shardmill.sources.names import MAX_KEY, PLAIN_KEY, ComponentPatterns, Rule, called, encode_component

if TYPE_CHECKING:
    import pyarrow as pa

_PLAIN = "^[!-~]*[!-.0-~]$"
"""ASCII without spaces, and no folder marker."""
_BY_DOT = r"^(?P<key>[^.]+)\.(?P<suffix>[^/]+)$"
"""A key without dots, and a component: as `split_name` cuts it."""


class PlainNames:
    """Keys and components of names below a partition's prefix."""

    def __init__(self, patterns: ComponentPatterns | None, excludes: Excludes, marker: str | None) -> None:
        self._excluded, self._marker = _held(excludes.expression), marker
        rules = patterns.rules if patterns else []
        # Letters that are none of ASCII may fit some that are, in a way of each library's own.
        self._rules = list(takewhile(lambda rule: rule.expression.pattern.isascii(), rules)) if patterns else None

    def split(self, names: pa.StringArray) -> tuple[pa.StringArray, pa.StringArray]:
        """The key and the component of each object, encoded; null where the name is not plain, or is left out."""
        import pyarrow.compute as pc

        is_plain = pc.match_substring_regex(names, _PLAIN)
        if self._excluded is not None:
            is_plain = pc.and_not(is_plain, pc.match_substring_regex(pc.ascii_lower(names), self._excluded))
        if self._marker is not None:
            is_plain = pc.and_not(is_plain, pc.equal(names, self._marker))
        keys, components = self._split(pc.if_else(is_plain, names, None))
        is_plain = pc.and_(
            pc.match_substring_regex(keys, f"^(?:{PLAIN_KEY})$"), pc.less_equal(pc.binary_length(keys), MAX_KEY)
        )
        return pc.if_else(is_plain, keys, None), pc.if_else(is_plain, components, None)

    def _split(self, names: pa.StringArray) -> tuple[pa.StringArray, pa.StringArray]:
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._rules is None:
            found = pc.extract_regex(names, _BY_DOT)
            return pc.struct_field(found, "key"), _each(encode_component, pc.struct_field(found, "suffix"))
        keys, components = pa.nulls(len(names), pa.string()), pa.nulls(len(names), pa.string())
        for rule in self._rules:
            found = pc.extract_regex(names, f"(?is)^(?:{rule.expression.pattern})$")
            key = pc.struct_field(found, "key")
            suffix = (
                pc.struct_field(found, "suffix")
                if rule.suffix == "*"
                else pc.if_else(key.is_valid(), rule.suffix, None)
            )
            keys = pc.coalesce(keys, key)  # the first that fits decides
            components = pc.coalesce(components, _each(_component_of(rule), suffix))
        return keys, components


def _held(expression: str | None) -> str | None:
    """The expression; one that fits every name, so that each is looked at by itself, where RE2 has no room for it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        if expression is not None:
            pc.match_substring_regex(pa.array([""]), expression)
    except pa.ArrowInvalid:
        return ""
    return expression


def _component_of(rule: Rule) -> Callable[[str], str]:
    return lambda suffix: encode_component(called(rule.component, suffix))


def _each(function: Callable[[str], str], column: pa.StringArray) -> pa.StringArray:
    """A function of each value, of which there are few."""
    import pyarrow as pa

    encoded = column.dictionary_encode()
    return pa.array(map(function, encoded.dictionary.to_pylist()), pa.string()).take(encoded.indices)
