"""What is tried again when a store does not accept credentials, by whom, and how often."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from shardmill.errors import AccessDeniedError
from shardmill.storage import GCSCredentials
from shardmill.storage.gcs import GCSStore
from shardmill.storage.retries import RENEWALS, Request, Unauthenticated, carry_out

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
