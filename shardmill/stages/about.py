"""Which sample an error is about."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shardmill.errors import ConfigurationError, SampleError, ShardmillError
from shardmill.importing import line_of


@contextmanager
def about(key: str, uri: str | Callable[[], str]) -> Iterator[None]:
    """Name the sample, where it is from, and the line, in what a library or code of the user's own raises on it.

    Raises:
        ConfigurationError: The code gives what it should not.
        SampleError: Anything but our own other errors, which speak for themselves.
    """

    def said(what: str) -> str:
        return f"sample {key} ({uri if isinstance(uri, str) else uri()}): {what}"

    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(said(str(error))) from error
    except ShardmillError:
        raise
    except Exception as error:
        told = f": {error}" if str(error) else ""
        raise SampleError(said(f"{type(error).__name__}{told}{line_of(error)}")) from error
