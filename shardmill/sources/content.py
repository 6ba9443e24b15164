"""What a set of objects is, as one number: the same for the same objects at the same versions, listed in any order."""

import hashlib
from collections.abc import Iterable

_MODULUS = 1 << 128


def content_of(uri: str, version: str) -> int:
    """The content of one object; those of a set add up."""
    data = f"{uri}\0{version}".encode("utf-8", "backslashreplace")  # so that a name means what a manifest has of it
    return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest())


def content_of_all(objects: Iterable[tuple[str, str]]) -> int:
    """The content of a set of objects, by URI and version."""
    return sum(content_of(uri, version) for uri, version in objects)


def content_digest(total: int) -> str:
    """32 hexadecimal digits of a sum of `content_of`."""
    return f"{total % _MODULUS:032x}"
