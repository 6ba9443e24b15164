"""Clients and credentials of a kind of object store, and requests that are carried out with them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from shardmill.storage.credentials import Credentials
from shardmill.storage.retries import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, Request, carry_out

_PART_RETRIES = 20

T = TypeVar("T")


class Connection(ABC):
    """One set of credentials, and a client a bucket. Thread-safe; never used across a fork."""

    permissions: ClassVar[Mapping[str, str]]
    """What each verb needs, in the store's own words."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._clients: dict[tuple[str, bool], Any] = {}
        self._lock = threading.Lock()
        self._generation = 0

    @property
    @abstractmethod
    def identity(self) -> str:
        """Who we are to the store, for errors; never a secret."""

    @abstractmethod
    def connect(self, bucket: str, options: dict[str, Any]) -> Any:
        """A new obstore client, with `options` for it."""

    @abstractmethod
    def authenticate(self) -> None:
        """Have credentials that last for the next request.

        What is wrong with them shows here, in our own words, and not inside obstore, which asks for them later.

        Raises:
            ConfigurationError: There are none, or they do not work.
            AccessDeniedError: They are refused.
            ConnectionError: Another try may help.
        """

    @abstractmethod
    def forget(self) -> None:
        """Forget the credentials that were found: the store refuses them."""

    @abstractmethod
    def are_short_lived(self) -> bool:
        """Whether the credentials in use expire by themselves."""

    def generation(self) -> int:
        """How often the credentials have been replaced."""
        return self._generation

    def renew(self, refused: int) -> None:
        """Begin anew with credentials and clients, unless another thread has done so since `refused` were in use."""
        with self._lock:
            if self._generation == refused:
                self.forget()
                self._clients.clear()
                self._generation += 1

    def _client(self, bucket: str, retries_parts: bool = False) -> Any:
        self.authenticate()
        with self._lock:
            key = bucket, retries_parts
            if key not in self._clients:
                self._clients[key] = self.connect(bucket, self._options(retries_parts))
            return self._clients[key]

    def _options(self, retries_parts: bool) -> dict[str, Any]:
        """Of an obstore client. It tries nothing again itself, so that we know what was tried, but parts of uploads."""
        given = self.credentials
        client_options = {
            "timeout": timedelta(seconds=given.request_seconds),
            "connect_timeout": timedelta(seconds=min(10.0, given.request_seconds)),
            "allow_http": (given.service_url or "").startswith("http://"),
        }
        retry_config = {
            "max_retries": _PART_RETRIES if retries_parts else 0,
            "retry_timeout": timedelta(seconds=given.deadline_seconds / 2),
            "backoff": {
                "init_backoff": timedelta(seconds=FIRST_WAIT_SECONDS),
                "max_backoff": timedelta(seconds=LONGEST_WAIT_SECONDS),
                "base": 2,
            },
        }
        return {"client_options": client_options, "retry_config": retry_config}

    def _carry_out(self, doing: str, uri: str, call: Callable[[], T], deadline_seconds: float | None = None) -> T:
        seconds = self.credentials.deadline_seconds if deadline_seconds is None else deadline_seconds
        request = Request(doing, uri, lambda: self.identity, self.permissions[doing], seconds)
        return carry_out(request, call, self)
