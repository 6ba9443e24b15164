"""Google Cloud Storage."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from shardmill.errors import AccessDeniedError, ConfigurationError, StorageError
from shardmill.storage.credentials import ANONYMOUS, GCSCredentials, reveal
from shardmill.storage.object_store import ObjectStore
from shardmill.storage.objects import ObjectInfo
from shardmill.storage.retries import Forbidden, NoSuchBucket, Request, Unauthenticated, carry_out

_PAGE = 1000
_GOOGLE = "https://storage.googleapis.com"
_FIELDS = "items(name,size,generation,updated),nextPageToken"
_READ_WRITE = "https://www.googleapis.com/auth/devstorage.read_write"
_CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"


class GCSStore(ObjectStore):
    """Buckets under `gs://`. An object's version is its generation."""

    permissions: ClassVar = {
        "list": "storage.objects.list",
        "read": "storage.objects.get",
        "copy": "storage.objects.get and storage.objects.create",
        "write": "storage.objects.create (and .delete to replace, storage.multipartUploads.create for large ones)",
        "delete": "storage.objects.delete",
    }

    def __init__(self, credentials: GCSCredentials) -> None:
        super().__init__(credentials, "gs")
        self._given = credentials
        self._tokens = _Tokens(credentials)
        self._cloud = _Cloud(credentials)

    @property
    def identity(self) -> str:
        """See `ObjectStore`."""
        return self._tokens.identity

    def connect(self, bucket: str, options: dict[str, Any]) -> Any:
        """See `ObjectStore`."""
        from obstore.store import GCSStore as Client

        given = self._given
        config: Any = {"base_url": given.service_url} if given.service_url else {}
        # Objects stored with gzip come as they are stored, not unpacked: only so is their length known.
        headers = {"accept-encoding": "gzip"}
        if given.user_project:
            headers["x-goog-user-project"] = given.user_project
        options["client_options"]["default_headers"] = headers
        if given.anonymous:
            config["skip_signature"] = True  # of reads only: a write asks for a token
        provider = _no_token if given.anonymous else self._tokens
        return Client(bucket, config=config, credential_provider=provider, **options)

    def authenticate(self) -> None:
        """See `ObjectStore`."""
        if not self._given.anonymous:
            self._tokens()

    def forget(self) -> None:
        """See `ObjectStore`."""
        self._tokens.forget()

    def are_short_lived(self) -> bool:
        """Access tokens are."""
        return not self._given.anonymous

    def version_of(self, meta: Any) -> str:
        """The generation."""
        return str(meta["version"])

    def update_mode(self, version: str) -> Any:
        """See `ObjectStore`: x-goog-if-generation-match."""
        return {"version": version}

    def page(self, bucket: str, prefix: str, after: str) -> tuple[list[ObjectInfo], bool]:
        """By the JSON API: unlike obstore, it gives every name as it is, and the generation.

        Not by Google's client, which takes three times as long to make an object of each item.
        https://cloud.google.com/storage/docs/json_api/v1/objects/list
        """
        query = {"prefix": prefix, "maxResults": _PAGE, "fields": _FIELDS, "userProject": self._given.user_project}
        if after:
            # The server's start is inclusive: what comes after a name begins with the name and a character of zero.
            query["startOffset"] = f"{after}\0"
        url = f"{self._given.service_url or _GOOGLE}/storage/v1/b/{quote(bucket, safe='')}/o"
        while True:
            try:
                answer = self._session.get(url, params=query, timeout=self.credentials.request_seconds)
            except Exception as error:
                raise self._translated(error) from error
            page = self._json(answer)
            items, token = page.get("items", []), page.get("nextPageToken")
            if items or not token:
                break
            query["pageToken"] = token  # of a page that is empty, and not the last
        infos = [
            ObjectInfo(
                self._uri(bucket, item["name"]),
                int(item["size"]),
                item["generation"],
                datetime.fromisoformat(item["updated"]).timestamp(),
            )
            for item in items
        ]
        return infos, not token

    def read_odd(self, bucket: str, name: str) -> tuple[bytes, ObjectInfo]:
        """By Google's client."""
        blob = self._bucket(bucket).blob(name)
        try:
            seconds = self.credentials.request_seconds
            blob.reload(retry=None, timeout=seconds)
            data = blob.download_as_bytes(
                raw_download=True, if_generation_match=blob.generation, retry=None, timeout=seconds
            )
        except Exception as error:
            raise self._translated(error) from error
        info = ObjectInfo(self._uri(bucket, name), blob.size, str(blob.generation), blob.updated.timestamp())
        return data, info

    def filesystem(self) -> Any:
        """Of gcsfs."""
        # Without this it asks the endpoint over gRPC for a layout that few buckets have: a minute where nobody answers.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        import gcsfs

        given = self._given
        return gcsfs.GCSFileSystem(
            token="anon" if given.anonymous else _for_google(self._tokens),
            endpoint_url=self._given.service_url,
            requester_pays=given.user_project or False,
        )

    def ask(self, url: str, content: Mapping[str, Any], request: Request) -> Any:
        """The JSON that a POST to another service of Google Cloud answers, with the same identity.

        Tried again and explained as a request to the store is.
        """
        seconds = self.credentials.request_seconds

        def attempt() -> Any:
            self.authenticate()  # an error can say then whose credentials they are
            try:
                answer = self._cloud.session().post(url, json=dict(content), timeout=seconds)
            except Exception as error:
                raise self._translated(error) from error
            return self._json(answer)

        try:
            return carry_out(request, attempt, self._cloud)
        except FileNotFoundError:
            raise StorageError(f"cannot {request.doing} {request.uri}: it does not exist") from None

    def _json(self, answer: Any) -> Any:
        """What the answer holds, or the error that it is."""
        from google.api_core.exceptions import from_http_response

        if answer.status_code != 200:
            error = from_http_response(answer)
            raise self._translated(error) from error
        try:
            return answer.json()
        except ValueError as error:
            raise ConnectionError("the answer was cut off") from error

    @cached_property
    def _session(self) -> Any:
        import requests
        from google.auth.transport.requests import AuthorizedSession

        return requests.Session() if self._given.anonymous else AuthorizedSession(_for_google(self._tokens))

    def _bucket(self, name: str) -> Any:
        return self._google_client.bucket(name, user_project=self._given.user_project)

    @cached_property
    def _google_client(self) -> Any:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        credentials = AnonymousCredentials() if self._given.anonymous else _for_google(self._tokens)
        options = {"api_endpoint": self._given.service_url} if self._given.service_url else {}
        return storage.Client(project="unused", credentials=credentials, client_options=options)

    def _translated(self, error: Exception) -> Exception:
        """The error that obstore would raise, as far as it matters."""
        from google.api_core import exceptions as failures
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        if isinstance(error, failures.NotFound):
            return NoSuchBucket() if "specified bucket does not exist" in str(error) else FileNotFoundError()
        if isinstance(error, failures.Unauthorized | GoogleAuthError):
            return Unauthenticated(str(error))
        if isinstance(error, failures.Forbidden):
            return Forbidden(str(error))
        if isinstance(error, failures.ServerError | failures.TooManyRequests | RequestException):
            return ConnectionError(str(error))
        return error


class _Cloud:
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


class _Tokens:
    """Access tokens from Google's own credentials, for every client of a store. They ask again before one expires."""

    def __init__(self, given: GCSCredentials) -> None:
        self._given = given
        self._credentials: Any = None
        self._lock = threading.Lock()

    def __call__(self) -> Any:
        """An obstore `GCSCredential`. Raises ConfigurationError, AccessDeniedError, ConnectionError."""
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


def _for_google(tokens: _Tokens) -> Any:
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


def _no_token() -> Any:
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
