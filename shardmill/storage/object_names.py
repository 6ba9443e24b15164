"""Names of objects in buckets: which of them obstore can express, and which are ours for a moment."""

import re

from shardmill.errors import ConfigurationError, StorageError

PROBE = ".shardmill-probe"


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and name of `scheme://bucket/name`.

    Raises:
        ConfigurationError: There is no bucket.
    """
    bucket, _, name = uri.partition("://")[2].partition("/")
    if not bucket:
        raise ConfigurationError(f"{uri!r} names no bucket")
    return bucket, name


_ODD = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f\x7f]")


def is_odd(name: str) -> bool:
    """Whether obstore refuses the name or changes it: empty, `.` or `..` between slashes, control characters."""
    return _ODD.search(name) is not None


def split_plain(uri: str) -> tuple[str, str]:
    """As `split_uri`, for a name that is written.

    Raises:
        StorageError: obstore would change the name.
    """
    bucket, name = split_uri(uri)
    if is_odd(name):
        raise StorageError(
            f"cannot write {uri!r}: names with empty, `.` or `..` parts or control characters are read only"
        )
    return bucket, name


def is_probe(uri: str) -> bool:
    """Whether it is an object that was written to find out whether one may."""
    return PROBE in uri and uri.rpartition("/")[2].startswith(PROBE)
