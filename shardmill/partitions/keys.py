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
        if len(kept) + len(piece) > MAX_KEY - _DIGEST - 2:
            break
        kept += piece
    return f"{kept}~~{hashlib.blake2b(name.encode('utf-8', 'surrogateescape'), digest_size=8).hexdigest()}"


def decode_segment(key: str) -> str:
    """The name that a key stands for; of a shortened key the beginning."""
    if key == "~":
        return ""
    kept = key.partition("~~")[0]
    raw = re.sub(rb"~([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), kept.encode())
    return raw.decode("utf-8", "surrogateescape" if is_shortened(key) is False else "ignore")


def is_shortened(key: str) -> bool:
    """Whether the key does not hold the whole name."""
    return "~~" in key


def is_key(text: str) -> bool:
    """Whether `encode_segment` could have made it."""
    return (
        bool(_LEGAL.fullmatch(text))
        and not text.startswith(".")
        and (is_shortened(text) or encode_segment(decode_segment(text)) == text)
    )
