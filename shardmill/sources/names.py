"""Names of objects and names in shards.

A key is the path below the source up to the first dot of the basename, a component is what follows; or else patterns
say what both are. In a shard both are ASCII without spaces, the key without dots, the two together at most 99
characters: every reader of WebDataset shards splits such names the same way, and a ustar header holds them without
extensions. Nor does any part of a name begin with two underscores: webdataset and Hugging Face skip such files without
a word.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple
from unicodedata import normalize

from shardmill.errors import ConfigurationError
from shardmill.samples import IMAGE_FORMATS, canonical_suffix

MAX_NAME = 100
"""Bytes of `<key>.<component>` that a ustar header holds."""
MAX_KEY = 72
MAX_COMPONENT = 27
# Not "~": it marks what was shortened, so that no name in full looks like a shortened one.
_SAFE_KEY = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/=+@,")
_SAFE_COMPONENT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-.=+@,")
_PLAIN_PART = r"(?:_?[A-Za-z0-9\-=+@,][A-Za-z0-9_\-=+@,]*|_)"  # no two underscores first, as RE2 can say it, too
PLAIN_KEY = rf"{_PLAIN_PART}(?:/+{_PLAIN_PART})*"
"""What keys of at most `MAX_KEY` characters fit that stand in a shard as they are."""
_PLAIN_KEY = re.compile(PLAIN_KEY)
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


def child_key(key: str, name: str) -> str:
    """The key of what is made of the sample with this key and called `name`: `<key>~<name>`, as a shard can hold it.

    It is the sample's own key where the name is empty.
    """
    child = f"{key}~{encode_key(name)}" if name else key
    return child if len(child) <= MAX_KEY else f"{child[: MAX_KEY - 17]}~{_digest(child)}"


def spellings(name: str) -> Iterator[str]:
    """A name as it is, and then with its letters composed (NFC) or decomposed (NFD): macOS writes `é` as two."""
    yield name
    if not name.isascii():
        yield from (other for form in ("NFC", "NFD") if (other := normalize(form, name)) != name)


def is_member_name(key: str, component: str) -> bool:
    """Whether a sample's component can stand in a shard under these names as they are."""
    suffix = component.rpartition(".")[2]
    fits = _MEMBER_NAME.fullmatch(f"{key}\0{component}") and canonical_suffix(suffix) == suffix
    return bool(fits) and len(f"{key}.{component}") <= MAX_NAME


@lru_cache(maxsize=1024)
def encode_component(component: str) -> str:
    """The component as it stands in a shard: lower-case, percent-encoded where needed, its last suffix kept.

    Of suffixes that name the same format one is used: `jpeg` is `jpg`. Components that differ in more than that and
    their case stay different.
    """
    before, dot, suffix = component.lower().rpartition(".")
    lowered = f"{before}{dot}{canonical_suffix(suffix)}"
    encoded = re.sub("^__", "%5f_", _percent_encode(lowered, _SAFE_COMPONENT).lower())
    if len(encoded) <= MAX_COMPONENT:
        return encoded
    return f"~{_digest(lowered)}.{encoded.rpartition('.')[2][-9:]}"


def check_component(component: str) -> str:
    """A component that a dataset file names, as it is called in shards.

    Raises:
        ConfigurationError: No component is called so.
    """
    called = encode_component(component)
    if called == component and component:
        return component
    if _DECLARABLE.fullmatch(called):
        raise ConfigurationError(
            f"component {component!r}: names in shards are in lower case, with one suffix a format; did you mean "
            f"{called!r}?"
        )
    raise ConfigurationError(
        f"component {component!r}: use at most {MAX_COMPONENT} lower-case letters, digits, dots, `_` and `-`"
    )


def checked_component(component: str) -> str:
    """As `check_component`, for pydantic.

    Raises:
        ValueError: No component is called so.
    """
    try:
        return check_component(component)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


_DECLARABLE = re.compile(r"[a-z0-9_\-.]+")


class Declared(NamedTuple):
    """A component that every sample has, and what it can be called in one, by the suffix of its object."""

    component: str
    names: tuple[str, ...]


class Rule(NamedTuple):
    """One pattern of a component."""

    component: str
    expression: re.Pattern[str]
    """What fits it, with the groups `key` and, where any suffix does, `suffix`. RE2 reads it as Python does."""
    suffix: str
    """Of what fits it: `*` for any, empty if that is part of the key."""


class ComponentPatterns:
    """Names matched against patterns such as `annotations/{key}.png`, without regard to case.

    A component is called as it is declared, but takes the suffix of an image that has another: `image.jpg` with an
    object `a.png` is `image.png`, and so is `image`.
    """

    def __init__(self, patterns: Mapping[str, Sequence[str]]) -> None:
        """`patterns` gives each component its patterns; the first that fits decides.

        Raises:
            ConfigurationError: A pattern has not exactly one `{key}`, or two components could be called the same.
        """
        self.components = tuple(Declared(each, _names_of(each, patterns[each])) for each in patterns)
        for number, one in enumerate(self.components):
            for other in self.components[:number]:
                both = [name for name in one.names if name in other.names]
                if both:
                    raise ConfigurationError(
                        f"components {other.component!r} and {one.component!r} would both be called {both[0]!r} in a "
                        "sample: give one of them another name"
                    )
        self.rules = [
            Rule(component, *_compile(component, pattern)) for component in patterns for pattern in patterns[component]
        ]

    def split(self, name: str) -> tuple[str, str] | None:
        """(key, component) of the first pattern that fits the whole name, None if none does."""
        for component, expression, suffix in self.rules:
            match = expression.fullmatch(name)
            if match:
                return match["key"], called(component, match["suffix"] if suffix == "*" else suffix)
        return None


@lru_cache(maxsize=1024)
def called(component: str, suffix: str) -> str:
    """What a declared component is called whose object has this suffix.

    >>> called("image.jpg", "PNG"), called("image", "jpeg"), called("txt", "txt")
    ('image.png', 'image.jpg', 'txt')
    """
    suffix = canonical_suffix(suffix)
    if suffix not in IMAGE_FORMATS:
        return component
    before, dot, last = component.rpartition(".")
    if last in IMAGE_FORMATS:
        return f"{before}{dot}{suffix}"
    return component if dot else f"{component}.{suffix}"


def _names_of(component: str, patterns: Sequence[str]) -> tuple[str, ...]:
    """Every name that `called` can give a component with these patterns."""
    suffixes = [_compile(component, pattern)[1] for pattern in patterns]
    names = [called(component, suffix) for suffix in suffixes if suffix != "*"]
    if "*" in suffixes:
        names += [*(called(component, suffix) for suffix in IMAGE_FORMATS), component]
    return tuple(dict.fromkeys(names))


def _compile(component: str, pattern: str) -> tuple[re.Pattern[str], str]:
    """What fits a pattern, and the suffix that it then has: `*` for any, empty if that is part of the key."""
    before, placeholder, after = pattern.partition("{key}")
    if "{partition}" in before + after:
        raise ConfigurationError(
            f"the pattern of component {component!r} is {pattern!r}; patterns are of names below the partition's "
            "folder, so {partition} belongs in the source's `uri` alone"
        )
    if not placeholder or "{" in before + after:
        raise ConfigurationError(
            f"the pattern of component {component!r} is {pattern!r}; it needs {{key}} once, as in 'images/{{key}}.jpg'"
        )
    literal = after.removesuffix(".*")
    if "*" in before + literal:
        raise ConfigurationError(
            f"the pattern of component {component!r} is {pattern!r}; `*` stands for a suffix alone, at the end, as in "
            "'images/{key}.*'"
        )
    end = "" if literal == after else r"\.(?P<suffix>[^/.]+)"
    expression = re.compile(f"{re.escape(before)}(?P<key>.+){re.escape(literal)}{end}", re.DOTALL | re.IGNORECASE)
    _, dot, suffix = after.rpartition("/")[2].rpartition(".")
    return expression, suffix if dot else ""


def _percent_encode(text: str, safe: frozenset[int]) -> str:
    # Names of files need not be UTF-8; surrogateescape gives back the bytes that they are.
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in raw)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
