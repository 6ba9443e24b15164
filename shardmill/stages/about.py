"""Which sample an error is about."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shardmill.errors import SampleError, ShardmillError
from shardmill.importing import line_of


@contextmanager
def about(key: str, uri: str | Callable[[], str]) -> Iterator[None]:
    """Name the sample, where it is from, and the line, in what a library or code of the user's own raises on it.

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
        raise SampleError(f"sample {key} ({where}): {type(error).__name__}{said}{line_of(error)}") from error
