"""Access tokens for Google Cloud, from google-auth's credentials, for every client of a store."""

from __future__ import annotations

import json
import re
import threading
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Any

from shardmill.errors import AccessDeniedError, ConfigurationError
from shardmill.storage.credentials import ANONYMOUS, GCSCredentials, reveal

_READ_WRITE = "https://www.googleapis.com/auth/devstorage.read_write"
_CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"


class CloudSession:
    """The same identity at other services of Google Cloud, which want another scope. See `retries.Credentialed`."""

    def __init__(self, given: GCSCredentials) -> None:
        self._given = given
        self._session: Any = None
        self._generation = 0
        self._lock = threading.Lock()

    def session(self) -> Any:
        """What sends requests with a token."""
        from google.auth.transport.requests import AuthorizedSession

        with self._lock:
            if self._session is None:
                self._session = AuthorizedSession(_credentials(self._given, _CLOUD_PLATFORM))
            return self._session

    def are_short_lived(self) -> bool:
        """Tokens are."""
        return True

    def generation(self) -> int:
        """How often the session has been replaced."""
        return self._generation

    def renew(self, refused: int) -> None:
        """Begin anew, unless another thread has since."""
        with self._lock:
            if self._generation == refused:
                self._session = None
                self._generation += 1


class Tokens:
    """Access tokens from Google's own credentials, for every client of a store. They ask again before one expires."""

    def __init__(self, given: GCSCredentials) -> None:
        self._given = given
        self._credentials: Any = None
        self._lock = threading.Lock()

    def __call__(self) -> Any:
        """An obstore `GCSCredential`.

        Raises:
            ConfigurationError: There are no credentials, or they do not work.
            AccessDeniedError: They are refused.
            ConnectionError: Another try may help.
        """
        from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
        from google.auth.transport.requests import Request

        with self._lock:
            credentials = self._credentials = self._credentials or _credentials(self._given)
            try:
                if not credentials.valid:
                    credentials.refresh(partial(Request(), timeout=self._given.request_seconds))
            except GoogleAuthError as error:
                if isinstance(error, TransportError) or _is_temporary(error):
                    raise ConnectionError(f"no token for {self.identity}: {_said(error)}") from error
                if not isinstance(error, RefreshError):
                    raise ConfigurationError(
                        f"the credentials of {self.identity} do not work: {_said(error)}"
                    ) from None
                who, self._credentials = self.identity, None  # the key's file may be mended
                raise AccessDeniedError(
                    f"{who} gets no token for Google Cloud Storage: the key is wrong or revoked, or the identity lacks "
                    f"a permission (to impersonate: iam.serviceAccounts.getAccessToken). {_said(error)}"
                ) from None
            expiry = credentials.expiry
            return {"token": credentials.token, "expires_at": expiry.replace(tzinfo=UTC) if expiry else None}

    def forget(self, refused: str | None = None) -> None:
        """Begin anew, whatever the token says of itself: the key's file may have been replaced.

        Of a token that is `refused`, unless another thread has fetched a new one since.
        """
        with self._lock:
            if refused is None or getattr(self._credentials, "token", None) == refused:
                self._credentials = None

    @property
    def identity(self) -> str:
        """The service account, or how we came by the credentials."""
        given = self._given
        if given.anonymous:
            return ANONYMOUS
        if given.impersonate:
            return given.impersonate
        email = getattr(self._credentials, "service_account_email", None)
        if given.service_account_file or given.service_account_json:
            return str(email or "the service account")
        return f"the application default credentials ({email})" if email else "the application default credentials"


def for_google(tokens: Tokens) -> Any:
    """Credentials for Google's clients that draw on `tokens`; unlike Google's own they look up no regions."""
    from google.auth.credentials import Credentials

    class Drawn(Credentials):
        def refresh(self, request: Any) -> None:  # noqa: ARG002
            if self.token is not None and not self.expired:
                tokens.forget(self.token)  # the store refused it
            drawn = tokens()
            self.token = drawn["token"]
            self.expiry = drawn["expires_at"] and drawn["expires_at"].replace(tzinfo=None)

    return Drawn()


def no_token() -> Any:
    """For obstore, which would ask a metadata server for a token to write with. An emulator takes any, Google none."""
    return {"token": "anonymous", "expires_at": None}


def _credentials(given: GCSCredentials, scope: str = _READ_WRITE) -> Any:
    """google-auth's."""
    scopes = [_CLOUD_PLATFORM if given.impersonate else scope]
    own_key = given.service_account_file or given.service_account_json
    source = _service_account(given, scopes) if own_key else _application_default(scopes)
    if not given.impersonate:
        return source
    from google.auth import impersonated_credentials

    endpoint = f"{given.iam_endpoint}/v1/projects/-/serviceAccounts/{given.impersonate}:generateAccessToken"
    return impersonated_credentials.Credentials(source, given.impersonate, [scope], iam_endpoint_override=endpoint)


def _service_account(given: GCSCredentials, scopes: list[str]) -> Any:
    from google.oauth2 import service_account

    where = given.service_account_file or "service_account_json"
    try:
        text = reveal(given.service_account_json) if given.service_account_json else Path(where).read_text("utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot read the service account's key {where}: {error.strerror}") from error
    try:
        key = json.loads(text)
        missing = {"client_email", "private_key", "token_uri"} - key.keys()
    except (ValueError, AttributeError):
        raise ConfigurationError(f"{where} is not a service account's JSON key") from None  # the parser quotes the text
    if missing:
        raise ConfigurationError(f"{where} is not a service account's JSON key: it lacks {', '.join(sorted(missing))}")
    try:
        return service_account.Credentials.from_service_account_info(key, scopes=scopes)
    except Exception:
        raise ConfigurationError(f"the private_key in {where} cannot be read; is it whole?") from None


def _application_default(scopes: list[str]) -> Any:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        return google.auth.default(scopes=scopes)[0]
    except DefaultCredentialsError as error:
        raise ConfigurationError(
            "there are no application default credentials for Google Cloud Storage: set "
            "GOOGLE_APPLICATION_CREDENTIALS, run `gcloud auth application-default login`, give a service account, or "
            f"`anonymous: true`. {_said(error)}"
        ) from None


def _is_temporary(error: Exception) -> bool:
    """Whether the server that gives tokens is to be asked again."""
    answer = str(error.args[-1]) if len(error.args) > 1 else ""
    return bool(getattr(error, "retryable", False)) or re.search(r'"code": ?(?:5\d\d|429)\b', answer) is not None


def _said(error: Exception) -> str:
    """What the server said, without its whole answer."""
    return str(error.args[0]).splitlines()[0][:200] if error.args else ""
