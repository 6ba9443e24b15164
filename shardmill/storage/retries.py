"""Requests to object stores: tried again where that can help, and failures in plain words where it cannot."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from shardmill.errors import AccessDeniedError, StorageError

T = TypeVar("T")

FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 8.0


@dataclass(frozen=True)
class Request:
    """What is asked of a store, for errors."""

    doing: str
    """`read`, `list`, `write` …"""
    uri: str
    identity: str
    """Who asks; never a secret."""
    permission: str
    """What the store's administrator would have to grant."""
    deadline_seconds: float


class Unauthenticated(Exception):
    """The store takes the credentials for none; new ones may help, once."""


def carry_out(request: Request, call: Callable[[], T], renew: Callable[[], None]) -> T:
    """What `call` returns, tried again with backoff and jitter until the request's deadline.

    `renew` is called once if the store does not accept the credentials. Raises FileNotFoundError, AccessDeniedError,
    StorageError, and what obstore raises where a precondition does not hold.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

    renewed = False

    def attempt() -> T:
        nonlocal renewed
        try:
            return call()
        except Exception as error:
            if is_unauthenticated(error) and not renewed:
                renewed = True
                renew()
                return call()
            raise

    tries = Retrying(
        retry=retry_if_exception(_can_be_retried),
        stop=stop_after_delay(request.deadline_seconds),
        wait=wait_random_exponential(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS),
        reraise=True,
    )
    try:
        return tries(attempt)
    except Exception as error:
        raise explained(error, request) from error


def explained(error: Exception, request: Request) -> Exception:
    """The error to raise for `error`: ours, in plain words, or itself where the caller decides what it means."""
    import obstore.exceptions as failures

    if isinstance(error, StorageError | failures.PreconditionError | failures.AlreadyExistsError):
        return error
    if isinstance(error, failures.NotFoundError | FileNotFoundError) or _status(error) == 404:
        if "NoSuchBucket" in str(error) or request.doing != "read":
            bucket = "/".join(request.uri.split("/")[:3])
            return StorageError(
                f"cannot {request.doing} {request.uri}: there is no bucket {bucket} for {request.identity}"
            )
        return FileNotFoundError(f"{request.uri} does not exist")
    if is_unauthenticated(error):
        return AccessDeniedError(
            f"cannot {request.doing} {request.uri}: the store does not accept the credentials of {request.identity}; "
            "they are wrong, expired or revoked"
        )
    if is_forbidden(error):
        return AccessDeniedError(
            f"cannot {request.doing} {request.uri}: {request.identity} lacks the permission {request.permission}"
        )
    gave_up = f"gave up after {request.deadline_seconds:.0f} s: " if _can_be_retried(error) else ""
    return StorageError(f"cannot {request.doing} {request.uri}: {gave_up}{_first_line(error)}")


def is_unauthenticated(error: BaseException) -> bool:
    """Whether the store does not know who asks."""
    import obstore.exceptions as failures

    return (
        isinstance(error, failures.UnauthenticatedError | Unauthenticated)
        or _status(error) == 401
        or _names(error, "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
    )


def is_forbidden(error: BaseException) -> bool:
    """Whether the store knows who asks, and refuses."""
    import obstore.exceptions as failures

    return isinstance(error, failures.PermissionDeniedError) or _status(error) == 403 or _names(error, "AccessDenied")


def _can_be_retried(error: BaseException) -> bool:
    """Server errors, too many requests, lost connections, time-outs and truncated bodies: not a refusal."""
    import obstore.exceptions as failures

    if is_unauthenticated(error) or is_forbidden(error) or isinstance(error, StorageError):
        return False
    if isinstance(error, failures.GenericError):
        status = _status(error)
        return status is None or status in (408, 429) or (status >= 500 and status != 501)
    return isinstance(error, ConnectionError | TimeoutError)


def _status(error: BaseException) -> int | None:
    """The HTTP status in the text of an error that has no type of its own."""
    match = re.search(
        r"(?:status(?: code)?:? |HTTP status client error \(|returned non-2xx status code: )(\d{3})", str(error)
    )
    return int(match[1]) if match else None


def _names(error: BaseException, *codes: str) -> bool:
    return any(code in str(error) for code in codes)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0][:400]
