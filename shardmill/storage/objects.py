"""What a listing says of an object, and which objects it may leave out."""

from collections.abc import Callable
from typing import NamedTuple

from shardmill.errors import StorageError

FolderOf = Callable[[str], str | None]
"""From an object's URI to a folder that it is in, however deep; None: it counts for itself."""
PassedOver = Callable[[str, str | StorageError], None]
"""Takes the URI of what a listing found and what is no object, with the reason in a few words; or of a folder that
cannot be listed, which ends with a slash, with the error: that is for it to raise, unless nobody needs the folder.
"""


class ObjectInfo(NamedTuple):
    """One stored object, as a listing gives it."""

    uri: str
    size: int
    """Bytes."""
    version: str
    """Changes whenever the object's bytes are replaced: a generation, an ETag, or for a local file mtime and size."""
    modified: float
    """Seconds since the epoch."""
