"""Google Cloud Storage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import quote

from typing_extensions import override

from shardmill.errors import StorageError
from shardmill.storage.credentials import GCSCredentials
from shardmill.storage.gcs_credentials import CloudSession, Tokens, for_google, no_token
from shardmill.storage.object_store import ObjectStore
from shardmill.storage.objects import ObjectInfo
from shardmill.storage.retries import Forbidden, NoSuchBucket, Request, Unauthenticated, carry_out

_PAGE = 1000
_GOOGLE = "https://storage.googleapis.com"
_FIELDS = "items(name,size,generation,updated),nextPageToken"


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
        self._tokens = Tokens(credentials)
        self._cloud = CloudSession(credentials)

    @override
    @property
    def identity(self) -> str:
        return self._tokens.identity

    @override
    def connect(self, bucket: str, options: dict[str, Any]) -> Any:
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
        provider = no_token if given.anonymous else self._tokens
        return Client(bucket, config=config, credential_provider=provider, **options)

    @override
    def authenticate(self) -> None:
        if not self._given.anonymous:
            self._tokens()

    @override
    def forget(self) -> None:
        self._tokens.forget()

    def are_short_lived(self) -> bool:
        """Access tokens are."""
        return not self._given.anonymous

    def version_of(self, meta: Any) -> str:
        """The generation."""
        return str(meta["version"])

    @override
    def update_mode(self, version: str) -> Any:
        """By `x-goog-if-generation-match`."""
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
            token="anon" if given.anonymous else for_google(self._tokens),
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

        return requests.Session() if self._given.anonymous else AuthorizedSession(for_google(self._tokens))

    def _bucket(self, name: str) -> Any:
        return self._google_client.bucket(name, user_project=self._given.user_project)

    @cached_property
    def _google_client(self) -> Any:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        credentials = AnonymousCredentials() if self._given.anonymous else for_google(self._tokens)
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
