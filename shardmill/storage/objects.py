"""What a listing says of an object, and which objects it may leave out."""

from collections.abc import Callable
from typing import NamedTuple

FolderOf = Callable[[str], str | None]
"""From an object's URI to a folder that it is in, however deep; None: it counts for itself."""


class ObjectInfo(NamedTuple):
    """One stored object, as a listing gives it."""

    uri: str
    size: int
    """Bytes."""
    version: str
    """Changes whenever the object's bytes are replaced: a generation, an ETag, or for a local file mtime and size."""
    modified: float
    """Seconds since the epoch."""
