"""Partition keys for any name of an object."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from shardmill.partitions.keys import MAX_KEY, decode_segment, encode_segment, is_key, is_shortened

NAMES = (
    st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=60)
    | st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
    | st.text("a~.,=+-_ 0A7Eé", max_size=24)
    | st.text("aé~.\udce9写", min_size=95, max_size=130)
)
"""Whole texts, bytes that are no text, names that look like keys, and names around the longest key."""


def as_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


@given(NAMES)
@example("")
@example(".")
@example("...")
@example("a..b")
@example("a,b c")
@example("\0")
@example("x" * MAX_KEY)
@example("x" * (MAX_KEY + 1))
@example("." * 300)
def test_every_name_has_a_short_legal_key(name: str) -> None:
    key = encode_segment(name)
    assert re.fullmatch(r"[A-Za-z0-9_.=+~-]+", key)
    assert not key.startswith(".")
    assert ".." not in key
    assert len(key) <= MAX_KEY
    assert is_key(key)


@given(NAMES)
@example("~")
@example("~~")
@example("~7E")
@example("写" * 13)
def test_a_key_decodes_to_its_name_unless_it_was_shortened(name: str) -> None:
    key = encode_segment(name)
    if is_shortened(key):
        assert as_bytes(name).startswith(as_bytes(decode_segment(key)))
        assert name.startswith(decode_segment(key))
        assert len(as_bytes(decode_segment(key))) >= 30
    else:
        assert decode_segment(key) == name


@given(st.text("aé~写", min_size=130, max_size=160))
@example("é" * 130)
@example("a" + "写" * 130)
def test_a_shortened_key_decodes_to_all_whole_characters_that_it_keeps(name: str) -> None:
    key = encode_segment(name)
    kept = key.partition("~~")[0]
    assert as_bytes(name).startswith(as_bytes(decode_segment(key)))
    assert len(kept) - len(encode_segment(decode_segment(key))) in (0, 3, 6)  # one character of three bytes at most


@given(st.lists(NAMES, min_size=2, unique_by=as_bytes))
@example(["", "~"])
@example(["~", "~7E", "~7E7E"])
@example([".", "~2E", "~7E2E"])
@example(["a,b", "a~2Cb", "a~7E2Cb"])
@example(["x" * 200, "x" * 201, encode_segment("x" * 200), "x" * 102])
def test_different_names_have_different_keys(names: list[str]) -> None:
    assert len({encode_segment(name) for name in names}) == len(names)


@given(st.text("a.~0AE7é", max_size=12))
@example("~7e")
@example("~41")
@example("~2E~2E")
@example("a.~2E")
@example("a~2E")
@example("~")
@example("~~")
@example("a" * 101 + "\n")
def test_what_no_name_has_for_a_key_is_no_key(text: str) -> None:
    assume(not is_shortened(text))
    assert is_key(text) == (encode_segment(decode_segment(text)) == text)


@pytest.mark.parametrize("kept", ["", "a", "a" * 99, "a" * 103, "~41" * 34, "~7e" * 34, "." + "a" * 101, "a..b" * 25])
def test_what_shortening_would_not_have_kept_is_no_key(kept: str) -> None:
    assert not is_key(f"{kept}~~0123456789abcdef")


def test_a_key_does_not_change() -> None:
    """Keys name folders in a bucket: another encoding would orphan them."""
    assert encode_segment("2026-01-02") == "2026-01-02"
    assert encode_segment("Été, 1") == "~C3~89t~C3~A9~2C~201"
    assert encode_segment("..a.b..") == "~2E.a.b.~2E"
    assert encode_segment("x" * 121) == "x" * 102 + "~~26923027332f46c3"


def test_a_key_that_just_fits_is_not_shortened() -> None:
    assert encode_segment("x" * MAX_KEY) == "x" * MAX_KEY
    assert is_shortened(encode_segment("x" * (MAX_KEY + 1)))
