"""Names of objects and names in shards.

A key is the path below the source up to the first dot of the basename, a component is what follows. In a shard both
are ASCII without spaces, the key without dots, the two together at most 99 characters: every reader of WebDataset
shards splits such names the same way, and a ustar header holds them without extensions. Nor does any part of a name
begin with two underscores: webdataset and Hugging Face skip such files without a word.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache

from shardmill.errors import ConfigurationError

MAX_NAME = 100
"""Bytes of `<key>.<component>` that a ustar header holds."""
MAX_KEY = 72
MAX_COMPONENT = 27
# Not "~": it marks what was shortened, so that no name in full looks like a shortened one.
_SAFE_KEY = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/=+@,")
_SAFE_COMPONENT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-.=+@,")
_PLAIN_PART = r"(?!__)[A-Za-z0-9_\-=+@,]+"
_PLAIN_KEY = re.compile(rf"{_PLAIN_PART}(/+{_PLAIN_PART})*")
_PART = r"(?!__)[A-Za-z0-9_\-=+@,~%]+"
_MEMBER_NAME = re.compile(rf"{_PART}(/+{_PART})*\0(?!__)[a-z0-9_\-.=+@,~%]+")


def split_name(name: str) -> tuple[str, str]:
    """Split a name into (key, component), neither encoded. Leading dots belong to the key; the component may be empty.

    >>> split_name("train/cat.trimap.png")
    ('train/cat', 'trimap.png')
    """
    stem = name.rpartition("/")[2].lstrip(".")
    first, _, component = stem.partition(".")
    return name[: len(name) - len(stem) + len(first)], component


def encode_key(key: str) -> str:
    """The key as it stands in a shard: percent-encoded where needed, and unique for each key.

    A key that would be longer than `MAX_KEY` keeps its beginning and ends in a digest of the whole.
    """
    if len(key) <= MAX_KEY and _PLAIN_KEY.fullmatch(key):
        return key
    encoded = re.sub("(^|/)__", r"\1%5F_", _percent_encode(key, _SAFE_KEY))
    encoded = re.sub("^/|/$", "%2F", encoded)
    if len(encoded) <= MAX_KEY:
        return encoded
    return f"{encoded[: MAX_KEY - 17]}~{_digest(key)}"


def is_member_name(key: str, component: str) -> bool:
    """Whether a sample's component can stand in a shard under these names as they are."""
    return bool(_MEMBER_NAME.fullmatch(f"{key}\0{component}")) and len(f"{key}.{component}") <= MAX_NAME


@lru_cache(maxsize=1024)
def encode_component(component: str) -> str:
    """The component as it stands in a shard: lower-case, percent-encoded where needed, its last suffix kept.

    Components that differ in more than their case stay different.
    """
    lowered = component.lower()
    encoded = re.sub("^__", "%5f_", _percent_encode(lowered, _SAFE_COMPONENT).lower())
    if len(encoded) <= MAX_COMPONENT:
        return encoded
    return f"~{_digest(lowered)}.{encoded.rpartition('.')[2][-9:]}"


class ComponentPatterns:
    """Names matched against patterns such as `annotations/{key}.png`, one a component."""

    def __init__(self, patterns: Mapping[str, str]) -> None:
        """`patterns` gives each component its pattern.

        Raises:
            ConfigurationError: A pattern has not exactly one `{key}`.
        """
        self.components = tuple(patterns)
        self._expressions = [(component, _compile(component, patterns[component])) for component in patterns]

    def split(self, name: str) -> tuple[str, str] | None:
        """(key, component) of the first pattern that fits the whole name, None if none does."""
        for component, expression in self._expressions:
            match = expression.fullmatch(name)
            if match:
                return match["key"], component
        return None


def _compile(component: str, pattern: str) -> re.Pattern[str]:
    before, placeholder, after = pattern.partition("{key}")
    if not placeholder or "{" in before + after:
        raise ConfigurationError(
            f"the pattern of component {component!r} is {pattern!r}; it needs {{key}} once, as in 'images/{{key}}.jpg'"
        )
    return re.compile(f"{re.escape(before)}(?P<key>.+){re.escape(after)}", re.DOTALL)


def _percent_encode(text: str, safe: frozenset[int]) -> str:
    # Names of files need not be UTF-8; surrogateescape gives back the bytes that they are.
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in raw)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
