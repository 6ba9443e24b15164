"""What is tried again, by whom and how often, and what the errors of stores become."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from obstore.exceptions import GenericError

from shardmill.errors import AccessDeniedError, ArchivedError, EncryptedError, StorageError
from shardmill.storage import GCSCredentials
from shardmill.storage.credentials import ANONYMOUS
from shardmill.storage.gcs import GCSStore
from shardmill.storage.retries import (
    RENEWALS,
    Forbidden,
    NoSuchBucket,
    Request,
    Unauthenticated,
    carry_out,
    is_past_the_end,
)

REQUEST = Request("read", "gs://b/x", lambda: "somebody", "storage.objects.get", 30.0)


class Tokens:
    """Credentials of which the first `bad` generations are refused."""

    def __init__(self, bad: int, expire: bool = True) -> None:
        self.bad, self.current, self.expire = bad, 0, expire

    def are_short_lived(self) -> bool:
        return self.expire

    def generation(self) -> int:
        return self.current

    def renew(self, refused: int) -> None:
        if refused == self.current:
            self.current += 1

    def read(self) -> str:
        if self.current < self.bad:
            raise Unauthenticated
        return "data"


@pytest.mark.parametrize("bad", [0, 1, 2, RENEWALS])
def test_a_request_lives_through_tokens_that_expire_one_after_the_other(bad: int) -> None:
    tokens = Tokens(bad)
    assert carry_out(REQUEST, tokens.read, tokens) == "data"
    assert tokens.current == bad


def test_credentials_that_are_refused_for_good_are_an_error_and_not_for_ever() -> None:
    tokens = Tokens(10**9)
    with pytest.raises(AccessDeniedError, match="does not accept the credentials of somebody"):
        carry_out(REQUEST, tokens.read, tokens)
    assert tokens.current == RENEWALS


def test_keys_that_do_not_expire_are_looked_for_once_more() -> None:
    keys = Tokens(1, expire=False)
    assert carry_out(REQUEST, keys.read, keys) == "data"
    keys = Tokens(2, expire=False)
    with pytest.raises(AccessDeniedError):
        carry_out(REQUEST, keys.read, keys)


def test_what_another_thread_has_renewed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many are refused with one token: it is forgotten once."""
    store, forgotten = GCSStore(GCSCredentials(anonymous=True)), []
    monkeypatch.setattr(store, "forget", lambda: forgotten.append(1))
    used = store.generation()
    together = threading.Barrier(8)

    def refused(_: int) -> None:
        together.wait()
        store.renew(used)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(refused, range(8)))
    assert len(forgotten) == 1
    store.renew(store.generation())
    assert len(forgotten) == 2


class Store:
    """Fails once."""

    def __init__(self, error: Exception) -> None:
        self.error, self.requests = error, 0

    def __call__(self) -> str:
        self.requests += 1
        if self.requests == 1:
            raise self.error
        return "data"


def answered(status: int, code: str = "") -> GenericError:
    """As obstore tells of an answer for which it has no type."""
    return GenericError(f"Generic GCS error: returned non-2xx status code: {status}: <Code>{code}</Code>")


def refused(words: str) -> GenericError:
    """Status 403, and more in the answer's message than in its code."""
    return GenericError(f"returned non-2xx status code: 403: <Code>AccessDenied</Code><Message>{words}</Message>")


KEY = "the object is encrypted, and somebody may not use its key (KMS)"


@pytest.mark.parametrize(
    "error",
    [
        GenericError('status: 403: {"reason": "rateLimitExceeded"}'),
        *(answered(status) for status in (408, 429, 500, 502, 503, 504)),
        answered(400, "RequestTimeout"),
        answered(404, "NoSuchUpload"),
        GenericError("error sending request for InvalidToken.jpg"),
        ConnectionResetError(),
        TimeoutError(),
    ],
)
def test_what_may_pass_is_tried_again_with_the_same_credentials(error: Exception) -> None:
    store, tokens = Store(error), Tokens(0)
    assert carry_out(REQUEST, store, tokens) == "data"
    assert (store.requests, tokens.current) == (2, 0)


def test_nothing_is_tried_again_after_the_deadline() -> None:
    store = Store(answered(503))
    with pytest.raises(StorageError, match="cannot read gs://b/x: gave up after 0 s: Generic GCS error"):
        carry_out(replace(REQUEST, deadline_seconds=0.0), store, Tokens(0))
    assert store.requests == 1


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (answered(400), StorageError, "cannot read gs://b/x: Generic GCS error"),
        (answered(501, "NotImplemented"), StorageError, "lacks something that Shardmill needs"),
        (answered(501), StorageError, "cannot read gs://b/x: Generic GCS error"),
        (answered(403, "RequestTimeTooSkewed"), StorageError, "this machine's clock is wrong"),
        (answered(403, "InvalidObjectState"), ArchivedError, "the object is archived"),
        (answered(400, "KMS.DisabledException"), EncryptedError, "its key (KMS) is disabled or deleted"),
        (answered(400, "KMS.KMSInvalidStateException"), EncryptedError, "its key (KMS) is disabled or deleted"),
        (refused("User x is not authorized to perform: kms:Decrypt on the resource"), EncryptedError, KEY),
        (refused("Permission denied on Cloud KMS key. Please ensure"), EncryptedError, KEY),
        (refused("Cloud KMS key version is not enabled, current state is: DISABLED"), EncryptedError, "is disabled"),
        (Forbidden("AccessDenied: no identity-based policy allows the kms:Decrypt action"), EncryptedError, KEY),
        (refused("The target object is encrypted by a customer-supplied encryption key."), EncryptedError, "SSE-C"),
        (answered(403, "AllAccessDisabled"), StorageError, "the account behind the bucket is disabled"),
        (answered(403, "AccountProblem"), StorageError, "the account behind the bucket is disabled"),
        (Forbidden("AllAccessDisabled: all access to this object"), StorageError, "the account behind the bucket"),
        (refused("The billing account for the owning project is disabled"), StorageError, "a problem with its bill"),
        (
            GenericError('status: 403: {"reason": "vpcServiceControls"}'),
            AccessDeniedError,
            "a perimeter of the organization",
        ),
        (GenericError('status: 403: {"reason": "retentionPolicyNotMet"}'), StorageError, "the object is locked"),
        (refused("Access Denied because object protected by object lock"), StorageError, "the object is locked"),
        (refused("not authorized, with an explicit deny in a policy"), AccessDeniedError, "forbids it to somebody"),
        (
            GenericError("status: 403, https://s3/b/Cloud KMS key InvalidObjectState.jpg"),
            AccessDeniedError,
            "lacks the",
        ),
        (GenericError('status: 403: {"reason": "quotaExceeded"}'), StorageError, "a quota of the project is exhausted"),
        (answered(400, "AuthorizationHeaderMalformed"), StorageError, "the bucket is in another region"),
        (answered(400, "requester pays"), StorageError, "give `user_project` in the credentials"),
        (answered(403), AccessDeniedError, "somebody lacks the permission storage.objects.get"),
        (Forbidden(), AccessDeniedError, "somebody lacks the permission storage.objects.get"),
        (answered(404), FileNotFoundError, "gs://b/x does not exist"),
        (FileNotFoundError(), FileNotFoundError, "gs://b/x does not exist"),
        (NoSuchBucket(), StorageError, "there is no bucket gs://b for somebody"),
        (answered(404, "NoSuchBucket"), StorageError, "there is no bucket gs://b for somebody"),
    ],
)
def test_what_cannot_pass_is_told_at_once_and_in_plain_words(error: Exception, kind: type, said: str) -> None:
    store = Store(error)
    with pytest.raises(kind) as caught:
        carry_out(REQUEST, store, Tokens(0))
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert store.requests == 1
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "it may quote a token"


@pytest.mark.parametrize("doing", ["list", "write"])
def test_what_is_not_there_when_one_lists_or_writes_is_the_bucket(doing: str) -> None:
    with pytest.raises(StorageError, match=f"cannot {doing} gs://b/x: there is no bucket gs://b for somebody"):
        carry_out(replace(REQUEST, doing=doing), Store(FileNotFoundError()), Tokens(0))


def test_who_comes_without_credentials_lacks_a_permission_and_no_credentials_of_his_are_wrong() -> None:
    anonymous = replace(REQUEST, identity=lambda: ANONYMOUS)
    with pytest.raises(AccessDeniedError, match=f"{ANONYMOUS} lacks the permission"):
        carry_out(anonymous, Tokens(10**9).read, Tokens(0))


def test_of_an_answer_the_beginning_is_told() -> None:
    with pytest.raises(StorageError) as caught:
        carry_out(REQUEST, Store(GenericError(f"status: 400 {'x' * 1000}\nAuthorization: a token")), Tokens(0))
    assert str(caught.value).endswith("xxx")
    assert len(str(caught.value)) < 450


def test_a_name_with_a_line_break_is_told_on_one_line() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        carry_out(replace(REQUEST, uri="gs://b/x\ny é"), Store(answered(404)), Tokens(0))
    assert str(caught.value) == r"gs://b/x\ny é does not exist"


def test_a_range_after_the_end_is_told_from_a_bad_request() -> None:
    assert is_past_the_end(answered(416))
    assert not is_past_the_end(answered(400))
