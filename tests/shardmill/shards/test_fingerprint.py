import hashlib
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill.shards.fingerprint import fingerprint

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
PARTS = st.dictionaries(st.text("abc", min_size=1), VALUES, max_size=4)


def exact(value: Any) -> str:
    """JSON tells 1 from 1.0 and True, which Python's `==` does not."""
    return json.dumps(value, sort_keys=True)


@given(PARTS)
def test_a_fingerprint_is_64_hexadecimal_digits(parts: dict[str, Any]) -> None:
    assert re.fullmatch("[0-9a-f]{64}", fingerprint(**parts))


@given(PARTS, PARTS)
def test_different_parts_have_different_fingerprints(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (fingerprint(**one) == fingerprint(**two)) == (exact(one) == exact(two))


@given(PARTS.flatmap(lambda parts: st.tuples(st.just(parts), st.permutations(list(parts.items())))))
def test_the_order_of_names_does_not_matter(pair: tuple[dict[str, Any], list[tuple[str, Any]]]) -> None:
    parts, shuffled = pair
    assert fingerprint(**parts) == fingerprint(**dict(shuffled))


@pytest.mark.parametrize(
    ("one", "two"),
    [(1, "1"), (1, 1.0), (1, True), (None, "null"), ([], {}), ([1, 2], [12]), (["a", "b"], ["ab"]), ("é", "e\u0301")],
)
def test_values_that_look_alike_are_told_apart(one: Any, two: Any) -> None:
    assert fingerprint(x=one) != fingerprint(x=two)


def test_the_order_of_a_list_matters() -> None:
    assert fingerprint(x=[1, 2]) != fingerprint(x=[2, 1])


def test_it_is_the_same_in_every_release() -> None:
    """Another value here makes every shard of every user again."""
    canonical = rb'{"input":["x"],"parameters":{"a":[1.5,null,"\u00e9"]},"stage":"pack","version":1}'
    parts = {"stage": "pack", "version": 1, "parameters": {"a": [1.5, None, "é"]}, "input": ["x"]}
    assert fingerprint(**parts) == hashlib.sha256(canonical).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {1}, object()])
def test_what_is_not_plain_json_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        fingerprint(x=value)
