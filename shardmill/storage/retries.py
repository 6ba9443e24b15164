"""Requests to object stores: tried again where that can help, and failures in plain words where it cannot."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from shardmill.errors import AccessDeniedError, ShardmillError, StorageError
from shardmill.storage.credentials import ANONYMOUS
from shardmill.storage.refusals import answer_in, asks_for_patience, meaning_of_refusal

T = TypeVar("T")

FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 8.0
RENEWALS = 5
UNAUTHENTICATED = (
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
    *("InvalidClientTokenId", "UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException"),
)
"""What S3, and then SQS, call credentials that they do not accept; the status may be 400 or 403."""
_TEMPORARY = ("RequestTimeout", "NoSuchUpload")
"""S3: the body came too slowly; the answer that an upload is complete was lost, and it can be begun anew."""


@dataclass(frozen=True)
class Request:
    """What is asked of a store, for errors."""

    doing: str
    """`read`, `list`, `write` …"""
    uri: str
    identity: Callable[[], str]
    """Who asks; never a secret. Asked after the failure: only then is it known whom the credentials found are for."""
    permission: str
    """What the store's administrator would have to grant."""
    deadline_seconds: float


class Unauthenticated(Exception):
    """The store takes the credentials for none; new ones may help, once."""


class Forbidden(Exception):
    """The store knows who asks, and refuses."""


class NoSuchBucket(FileNotFoundError):
    """It is the bucket that does not exist."""


class Credentialed(Protocol):
    """Whoever sends requests with credentials that may be replaced, by several threads at once."""

    def generation(self) -> int:
        """Counts the credentials that were in use: a request notes it before it is sent."""

    def are_short_lived(self) -> bool:
        """Whether they expire by themselves, so that a refusal may say no more than that they did on the way."""

    def renew(self, refused: int) -> None:
        """Forget the credentials of generation `refused`; those that another thread has found since stay."""


def carry_out(request: Request, call: Callable[[], T], credentials: Credentialed) -> T:
    """What `call` returns, tried again with backoff and jitter; no try begins after the request's deadline.

    Where the store does not accept the credentials they are renewed, once, or `RENEWALS` times if they expire: a busy
    machine may be so slow that a token expires on its way, again and again. What obstore raises where a precondition
    does not hold is passed on.

    Raises:
        FileNotFoundError: There is no such object.
        AccessDeniedError: The store refuses.
        ConfigurationError: The credentials are none.
        StorageError: Anything else, or there was no answer until the deadline.
    """
    renewals = 0

    def attempt() -> T:
        nonlocal renewals
        while True:
            used = credentials.generation()
            try:
                return call()
            except Exception as error:
                most = RENEWALS if credentials.are_short_lived() else 1
                if not is_unauthenticated(error) or renewals == most:
                    raise
                renewals += 1
                credentials.renew(used)

    started = time.monotonic()
    try:
        try:
            return attempt()  # what all but a few requests come to
        except Exception as error:
            left = request.deadline_seconds - (time.monotonic() - started)
            if left <= 0 or not _can_be_retried(error):
                raise
        return _tried_again(attempt, left)
    except Exception as error:
        plain = explained(error, request)
        if plain is error:
            raise
    # Not from the store's own error: it holds the whole answer, and some answers quote the request with its token.
    raise plain


def _tried_again(attempt: Callable[[], T], seconds: float) -> T:
    from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

    longer_each_time = wait_random_exponential(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)

    def wait(state: RetryCallState) -> float:
        return min(longer_each_time(state), max(0.0, seconds - (state.seconds_since_start or 0.0)))

    time.sleep(min(FIRST_WAIT_SECONDS, seconds))
    tries = Retrying(retry=retry_if_exception(_can_be_retried), stop=stop_after_delay(seconds), wait=wait, reraise=True)
    return tries(attempt)


def explained(error: Exception, request: Request) -> Exception:
    """The error to raise for `error`: ours, in plain words, or itself where the caller decides what it means."""
    import obstore.exceptions as failures

    if isinstance(error, ShardmillError | failures.PreconditionError | failures.AlreadyExistsError):
        return error
    uri, identity = _printable(request.uri), request.identity()
    cannot = f"cannot {request.doing} {uri}"
    if not _can_be_retried(error) and (isinstance(error, FileNotFoundError) or _status(error) == 404):
        if request.doing in ("list", "write") or isinstance(error, NoSuchBucket) or _has_code(error, "NoSuchBucket"):
            bucket = "/".join(uri.split("/")[:3])
            return StorageError(f"{cannot}: there is no bucket {bucket} for {identity}")
        return FileNotFoundError(f"{uri} does not exist")
    meaning = meaning_of_refusal(_answer(error), cannot, identity) if is_refusal(error) else None
    if meaning is not None:
        return meaning
    if is_unauthenticated(error) and identity != ANONYMOUS:
        return AccessDeniedError(
            f"{cannot}: the store does not accept the credentials of {identity}; they are wrong, expired or revoked"
        )
    if is_unauthenticated(error) or is_forbidden(error):
        # S3 hides from callers that may not list whether an object exists.
        hidden = ", or there is no such object" if request.permission == "s3:GetObject" else ""
        return AccessDeniedError(f"{cannot}: {identity} lacks the permission {request.permission}{hidden}")
    if _is_of_another_region(error):
        return StorageError(f"{cannot}: the bucket is in another region; give its `region` in the credentials")
    if _has_code(error, "NotImplemented"):
        return StorageError(f"{cannot}: the server lacks something that Shardmill needs, such as write preconditions")
    if "requester pays" in str(error):
        return StorageError(f"{cannot}: whoever asks pays for this bucket; give `user_project` in the credentials")
    gave_up = f"gave up after {request.deadline_seconds:.0f} s: " if _can_be_retried(error) else ""
    return StorageError(f"{cannot}: {gave_up}{_first_line(error)}")


def is_unauthenticated(error: BaseException) -> bool:
    """Whether the store does not know who asks."""
    import obstore.exceptions as failures

    return (
        isinstance(error, failures.UnauthenticatedError | Unauthenticated)
        or _status(error) == 401
        or _has_code(error, *UNAUTHENTICATED)
    )


def is_forbidden(error: BaseException) -> bool:
    """Whether the store knows who asks, and refuses."""
    import obstore.exceptions as failures

    return isinstance(error, failures.PermissionDeniedError | Forbidden) or _status(error) == 403


def is_refusal(error: BaseException) -> bool:
    """Whether the store refuses the request, for whatever reason."""
    return is_unauthenticated(error) or is_forbidden(error) or _status(error) == 400


def is_past_the_end(error: BaseException) -> bool:
    """Whether the range that was asked for begins after the object's last byte."""
    return _status(error) == 416


def _can_be_retried(error: BaseException) -> bool:
    """Server errors, too many requests, lost connections, time-outs and truncated bodies: not a refusal."""
    import obstore.exceptions as failures

    if is_forbidden(error) and asks_for_patience(_answer(error)):
        return True
    if is_unauthenticated(error) or is_forbidden(error) or isinstance(error, ShardmillError):
        return False
    if _has_code(error, *_TEMPORARY):
        return True
    if _is_of_another_region(error):
        return False
    if isinstance(error, failures.GenericError):
        status = _status(error)
        return status is None or status in (408, 429) or (status >= 500 and status != 501)
    return isinstance(error, ConnectionError | TimeoutError)


def _is_of_another_region(error: BaseException) -> bool:
    """S3: a redirect without a target, or a signature for the wrong region."""
    text = str(error)
    return "Received redirect without" in text or _has_code(error, "AuthorizationHeaderMalformed", "PermanentRedirect")


def _status(error: BaseException) -> int | None:
    """The HTTP status in the text of an error that has no type of its own."""
    match = re.search(
        r"(?:status(?: code)?:? |HTTP status client error \(|returned non-2xx status code: )(\d{3})", str(error)
    )
    return int(match[1]) if match else None


def _has_code(error: BaseException, *codes: str) -> bool:
    """Whether the answer in the error's text is one of these; not only some name in it."""
    text = str(error)
    own = text.partition(":")[0] if isinstance(error, Forbidden) else ""
    return own in codes or any(f"<Code>{code}</Code>" in text for code in codes)


def _answer(error: BaseException) -> str:
    return str(error) if isinstance(error, Forbidden) else answer_in(str(error))


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0][:400]


def _printable(text: str) -> str:
    """The text with line breaks and the like written out."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
