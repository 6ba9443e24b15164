"""Digests of everything that determines some bytes."""

import hashlib
import json
from pathlib import Path
from typing import Any


def fingerprint(**parts: Any) -> str:
    """SHA-256, in hexadecimal, over named parts of plain JSON values; their order does not matter."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def sample_fingerprint(computation: str, *inputs: str) -> str:
    """128 bits of SHA-256, in hexadecimal: of what is done to a sample, and of all of the sample that it depends on."""
    return hashlib.sha256("\0".join((computation, *inputs)).encode()).hexdigest()[:32]


def file_sha256(file: Path) -> str:
    """SHA-256, in hexadecimal, of a local file of any size."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
