"""Where the rows of a table may lead: what they name is read with the credentials of whoever runs the dataset."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from shardmill.errors import ConfigurationError
from shardmill.sources.manifest import NOT_ALLOWED, UNSUPPORTED
from shardmill.storage import SCHEMES, absolute_uri, join_uri


class AllowedPlaces:
    """Folders and buckets that objects may be in: the table's own, and those that the dataset file allows."""

    def __init__(self, table: str, allow: Sequence[str]) -> None:
        """`table` is the table's URI."""
        table = normalised(table)
        self.folder = table.rpartition("/")[0]
        """That of the table."""
        scheme, _, path = table.partition("://")
        own = self.folder if scheme == "file" else f"{scheme}://{path.partition('/')[0]}"
        self._places = [f"{own}/", *(join_uri(normalised(place), "") for place in allow)]

    def target(self, location: str) -> tuple[str, str | None]:
        """The URI that a cell of the table means, and why nobody may ask for it: `NOT_ALLOWED`, `UNSUPPORTED` or None.

        `.` and `..` are followed here, by the letters of the name, so that what is asked for is what was checked.
        Links on a disk count as what they are called: only who may write to it can lay them.
        """
        bare = "://" not in location and not location.startswith("/")
        try:
            uri = normalised(f"{self.folder}/{location}" if bare else location)
        except ConfigurationError:  # no path at all
            return location, NOT_ALLOWED
        if uri.partition("://")[0] not in SCHEMES:
            return location, UNSUPPORTED
        return uri, None if any(uri.startswith(place) for place in self._places) else NOT_ALLOWED


def normalised(uri: str) -> str:
    """An absolute URI without `.` and `..`: above the root, or above a bucket, there is nothing to go up to."""
    scheme, separator, path = uri.partition("://")
    uri = absolute_uri(f"{scheme.lower()}://{path}" if separator else uri)
    scheme, _, path = uri.partition("://")
    if not {".", ".."} & set(path.split("/")):
        return uri
    return f"{scheme}://{posixpath.normpath(path)}"
