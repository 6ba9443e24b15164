"""Which sample an error is about."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shardmill.errors import SampleError, ShardmillError


@contextmanager
def about(key: str, uri: str | Callable[[], str]) -> Iterator[None]:
    """Name the sample, and where it is from, in what a library raises on it.

    Raises:
        SampleError: Anything but our own errors, which speak for themselves.
    """
    try:
        yield
    except ShardmillError:
        raise
    except Exception as error:
        said = f": {error}" if str(error) else ""
        where = uri if isinstance(uri, str) else uri()
        raise SampleError(f"sample {key} ({where}): {type(error).__name__}{said}") from error
