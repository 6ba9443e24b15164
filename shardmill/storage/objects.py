"""What a listing says of an object."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object, as a listing gives it."""

    uri: str
    size: int
    """Bytes."""
    version: str
    """Changes whenever the object's bytes are replaced: a generation, an ETag, or for a local file mtime and size."""
    modified: float
    """Seconds since the epoch."""
