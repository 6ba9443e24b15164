"""Errors of botocore: as those that obstore would raise, and which of them may pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shardmill.storage.retries import UNAUTHENTICATED, Forbidden, NoSuchBucket, Unauthenticated


@contextmanager
def as_of_obstore() -> Iterator[None]:
    """boto3's errors as those that obstore would raise, as far as it matters."""
    from botocore.exceptions import ClientError

    try:
        yield
    except Exception as error:
        if is_temporary(error):
            raise interrupted(error) from None
        if not isinstance(error, ClientError):
            raise
        status, code = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode"), code_of(error)
        if code == "NoSuchBucket":
            raise NoSuchBucket from None
        if status == 404:
            raise FileNotFoundError from None
        if status == 401 or code in UNAUTHENTICATED:
            raise Unauthenticated(code) from error
        if status == 403:
            raise Forbidden(f"{code}: {error.response.get('Error', {}).get('Message', '')}") from error
        raise


def is_temporary(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    from botocore import exceptions as failures
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if isinstance(error, failures.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status in (408, 429) or code_of(error) in ("RequestTimeout", "Throttling", "SlowDown")
    lost = failures.HTTPClientError | failures.ConnectionError | failures.IncompleteReadError | HTTPError
    return isinstance(error, lost | ResponseParserError)


def interrupted(error: Exception) -> ConnectionError:
    """The error as one that may pass, without the answer that botocore could not read: it may hold a session's keys."""
    return ConnectionError(str(error).splitlines()[0])


def code_of(error: Any) -> str:
    """The code in a ClientError's answer; empty if there is none."""
    return str(error.response.get("Error", {}).get("Code", ""))
