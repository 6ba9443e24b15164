"""Digests of everything that determines some bytes."""

import hashlib
import json
from typing import Any


def fingerprint(**parts: Any) -> str:
    """SHA-256, in hexadecimal, over named parts of plain JSON values; their order does not matter."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
