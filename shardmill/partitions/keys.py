"""Partition keys that Dagster, both clouds and a local disk accept, for any name of an object.

A key has letters, digits and `_ . = + -`; every other byte of the name is `~` and two hexadecimal digits, and so is a
dot that begins the key or follows another (Dagster reads `...` as a range). The empty name is `~`. A key that would be
longer than 120 characters keeps its beginning and ends in `~~` and a digest of the whole name.
"""

import hashlib
import re

MAX_KEY = 120
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_=+-")
_LEGAL = re.compile(r"~|(?:[A-Za-z0-9_=+-]|\.(?!\.)|~[0-9A-F]{2})+(?:~~[0-9a-f]{16})?")
_DIGEST = 16
_LONGEST = MAX_KEY - len("~~") - _DIGEST
_SHORTEST = _LONGEST - len("~FF") + 1
"""What a shortened key keeps: as much as there is room for, in whole escapes."""
_BYTES = "".join(map(chr, range(0xDC80, 0xDD00)))
"""Bytes that are no UTF-8, as `surrogateescape` has them."""


def encode_segment(name: str) -> str:
    """The partition key for a name; different names have different keys."""
    if not name:
        return "~"
    pieces: list[str] = []
    for byte in name.encode("utf-8", "surrogateescape"):
        plain = byte in _SAFE or (byte == 0x2E and pieces and pieces[-1] != ".")
        pieces.append(chr(byte) if plain else f"~{byte:02X}")
    key = "".join(pieces)
    if len(key) <= MAX_KEY:
        return key
    kept = ""
    for piece in pieces:
        if len(kept) + len(piece) > _LONGEST:
            break
        kept += piece
    return f"{kept}~~{hashlib.blake2b(name.encode('utf-8', 'surrogateescape'), digest_size=8).hexdigest()}"


def decode_segment(key: str) -> str:
    """The name that a key stands for; of a shortened key the beginning."""
    if key == "~":
        return ""
    raw = re.sub(rb"~([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), key.partition("~~")[0].encode())
    name = raw.decode("utf-8", "surrogateescape")
    return name.rstrip(_BYTES) if is_shortened(key) else name  # the last character may have lost its end


def is_shortened(key: str) -> bool:
    """Whether the key does not hold the whole name."""
    return "~~" in key


def is_key(text: str) -> bool:
    """Whether `encode_segment` could have made it; whether the digest of a shortened one is right, nobody can tell."""
    if not _LEGAL.fullmatch(text):
        return False
    kept, shortened, _ = text.partition("~~")
    if shortened and not _SHORTEST <= len(kept) <= _LONGEST:
        return False
    return encode_segment(decode_segment(kept)) == kept
