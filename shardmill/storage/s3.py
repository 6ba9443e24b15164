"""S3, and what speaks its protocol."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from shardmill.errors import AccessDeniedError, ConfigurationError
from shardmill.storage.credentials import ANONYMOUS, GCSCredentials, S3Credentials, reveal
from shardmill.storage.object_names import is_odd
from shardmill.storage.object_store import ObjectStore
from shardmill.storage.retries import UNAUTHENTICATED, Forbidden, NoSuchBucket, Request, Unauthenticated, carry_out
from shardmill.storage.storage import ObjectInfo

_PAGE = 1000
"""Names a request: S3 gives no more."""
_ASK_AGAIN = timedelta(minutes=10)
"""How long obstore may go on with credentials of botocore's, which do not say when they end."""
RENEW_BEFORE = timedelta(minutes=10)
"""How long before the end of a role's session the next begins. Earlier than obstore asks, which is at five minutes."""
_ONCE = {"mode": "standard", "total_max_attempts": 1}

T = TypeVar("T")


class S3Store(ObjectStore):
    """Buckets under `s3://`, or Google's under `gs://` through their S3 API."""

    permissions: ClassVar = {
        "list": "s3:ListBucket",
        "read": "s3:GetObject",
        "write": "s3:PutObject",
        "copy": "s3:GetObject and s3:PutObject",
        "delete": "s3:DeleteObject",
    }

    def __init__(self, credentials: S3Credentials, scheme: str = "s3") -> None:
        super().__init__(credentials, scheme)
        self._given = credentials
        self._provider = _S3Provider(credentials)
        self._boto3_client: tuple[Any, Any] | None = None

    @property
    def identity(self) -> str:
        """See `ObjectStore`."""
        return self._provider.identity

    def connect(self, bucket: str, options: dict[str, Any]) -> Any:
        """See `ObjectStore`."""
        from obstore.store import S3Store as Client

        given = self._given
        config: Any = {
            "virtual_hosted_style_request": not given.path_style,
            "disable_bulk_delete": True,
            "region": self._provider.region,
        }
        if given.service_url:
            parts = urlsplit(given.service_url)
            host = (
                parts.netloc if given.path_style else f"{bucket}.{parts.netloc}"
            )  # obstore adds no bucket to an endpoint
            config["endpoint"] = parts._replace(netloc=host).geturl()
        if given.anonymous:
            # obstore would complain of one key without the other in the environment.
            config |= {"skip_signature": True, "access_key_id": "unused", "secret_access_key": "unused"}
            return Client(bucket, config=config, **options)
        return Client(bucket, config=config, credential_provider=self._provider, **options)

    def authenticate(self) -> None:
        """See `ObjectStore`."""
        if not self._given.anonymous:
            self._provider()

    def forget(self) -> None:
        """See `ObjectStore`."""
        self._provider.forget()

    def are_short_lived(self) -> bool:
        """Those of a session are: of a role, a container, a single sign-on."""
        return self._provider.is_a_session

    def version_of(self, meta: Any) -> str:
        """The ETag, without the quotes that some answers lack."""
        return str(meta["e_tag"]).strip('"')

    def update_mode(self, version: str) -> Any:
        """See `ObjectStore`: If-Match."""
        return {"e_tag": f'"{version}"'}

    def page(self, bucket: str, prefix: str, after: str) -> tuple[list[ObjectInfo], bool]:
        """By obstore, and by boto3, which is slower, where names are odd."""
        import obstore

        # obstore drops a slash that a name begins with. Those names come before "0".
        if not is_odd(prefix.removesuffix("/") or "all") and (prefix or after >= "0"):
            try:
                stream = obstore.list(self._client(bucket), prefix or None, offset=after or None, chunk_size=_PAGE)
                metas = next(iter(stream), [])
            except Exception as error:
                if "parsing Path" not in str(error) and "path segment" not in str(error):
                    raise
            else:
                if all(meta["size"] for meta in metas):  # an empty one may be a folder's marker, whose slash is gone
                    infos = [self._info(self._uri(bucket, meta["path"]), meta) for meta in metas]
                    return infos, len(infos) < _PAGE
        return self._page_by_boto3(bucket, prefix, after)

    def _page_by_boto3(self, bucket: str, prefix: str, after: str) -> tuple[list[ObjectInfo], bool]:
        with _as_of_obstore():
            answer = self._boto3().list_objects_v2(Bucket=bucket, Prefix=prefix, StartAfter=after, MaxKeys=_PAGE)
        infos = [
            ObjectInfo(
                self._uri(bucket, item["Key"]), item["Size"], item["ETag"].strip('"'), item["LastModified"].timestamp()
            )
            for item in answer.get("Contents", [])
        ]
        return infos, not answer["IsTruncated"]

    def read_odd(self, bucket: str, name: str) -> tuple[bytes, ObjectInfo]:
        """By boto3."""
        with _as_of_obstore():
            answer = self._boto3().get_object(Bucket=bucket, Key=name)
            data = answer["Body"].read()
        version, modified = answer["ETag"].strip('"'), answer["LastModified"].timestamp()
        return data, ObjectInfo(self._uri(bucket, name), len(data), version, modified)

    def filesystem(self) -> Any:
        """Of s3fs. It keeps the keys that it begins with, for as long as they last."""
        if self._scheme != "s3":
            raise ConfigurationError(
                f"there is no file system for {self._scheme}:// by HMAC key: use the verbs of Storage"
            )
        import s3fs

        given = self._given
        keys = {} if given.anonymous else self._provider()
        return s3fs.S3FileSystem(
            anon=given.anonymous,
            key=keys.get("access_key_id"),
            secret=keys.get("secret_access_key"),
            token=keys.get("token"),
            endpoint_url=given.service_url,
            client_kwargs={"region_name": given.region} if given.region else {},
            config_kwargs={"s3": {"addressing_style": "path" if given.path_style else "virtual"}},
        )

    def ask(self, service: str, endpoint: str | None, request: Request, call: Callable[[Any], T]) -> T:
        """What `call` returns of a boto3 client for another service of AWS with the same credentials.

        Tried again and explained as a request to the store is.
        """
        from botocore.config import Config

        def attempt() -> T:
            config = Config(read_timeout=self._given.request_seconds, retries=_ONCE)
            with _as_of_obstore():
                return call(self._provider.client(service, self._provider(), endpoint_url=endpoint, config=config))

        return carry_out(request, attempt, self)

    def _boto3(self) -> Any:
        """A boto3 client; a new one when there are new credentials."""
        from botocore import UNSIGNED
        from botocore.config import Config

        given = self._given
        keys = None if given.anonymous else self._provider()
        token = keys and (keys["access_key_id"], keys["secret_access_key"], keys["token"])
        with self._lock:
            if self._boto3_client is None or self._boto3_client[0] != token:
                config = Config(
                    s3={"addressing_style": "path" if given.path_style else "virtual"},
                    signature_version=UNSIGNED if given.anonymous else None,
                    connect_timeout=min(10.0, given.request_seconds),
                    read_timeout=given.request_seconds,
                    retries=_ONCE,
                )
                client = self._provider.client("s3", keys, endpoint_url=given.service_url, config=config)
                self._boto3_client = token, client
            return self._boto3_client[1]


class _S3Provider:
    """Credentials for every client of a store. They ask again before the credentials end."""

    def __init__(self, credentials: S3Credentials) -> None:
        self._given = credentials
        self._session: Any = None
        self._found: Any = None
        self._assumed: Any = None
        self._key_id = ""
        self.is_a_session = bool(credentials.role_arn)
        """Whether the credentials that were found last expire."""
        self._lock = threading.RLock()

    def __call__(self) -> Any:
        """An obstore `S3Credential`. Raises ConfigurationError, AccessDeniedError, ConnectionError."""
        with self._lock:
            if not self._given.role_arn:
                return self._own()
            if self._assumed is None or self._assumed["expires_at"] < datetime.now(UTC) + RENEW_BEFORE:
                self._assumed = self._assume(self._given.role_arn)
            return self._assumed

    @property
    def identity(self) -> str:
        """The role, the key or the profile."""
        given = self._given
        if given.anonymous:
            return ANONYMOUS
        if given.role_arn:
            return given.role_arn
        if given.access_key_id:
            return f"access key {given.access_key_id}"
        key = f", access key {self._key_id}" if self._key_id else ""
        return f"profile {given.profile}{key}" if given.profile else f"the default AWS credentials{key}"

    @property
    def region(self) -> str:
        """What is given, or the environment's, or the profile's."""
        found = self._given.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not found and not self._given.anonymous:
            with self._lock:
                found = self._boto3_session().region_name
        return found or "us-east-1"

    def forget(self) -> None:
        """Begin anew: files and variables may say something else by now."""
        with self._lock:
            self._session = self._found = self._assumed = None

    def client(self, service: str, keys: Any, **options: Any) -> Any:
        """A boto3 client with these credentials."""
        import boto3

        with self._lock:
            session = boto3.Session() if keys is None else self._boto3_session()
            signing = keys and {
                "aws_access_key_id": keys["access_key_id"],
                "aws_secret_access_key": keys["secret_access_key"],
                "aws_session_token": keys["token"],
            }
            return session.client(service, region_name=self.region, **(signing or {}), **options)

    def _boto3_session(self) -> Any:
        import boto3

        given = self._given
        if self._session is None:
            with self._explained():
                self._session = boto3.Session(
                    profile_name=given.profile,
                    region_name=given.region,
                    aws_access_key_id=given.access_key_id,
                    aws_secret_access_key=reveal(given.secret_access_key) if given.secret_access_key else None,
                    aws_session_token=reveal(given.session_token) if given.session_token else None,
                )
        return self._session

    def _own(self) -> dict[str, Any]:
        """The keys that are given, or that botocore finds. It renews them itself, long before they end."""
        given = self._given
        with self._explained():
            self._found = self._found or self._boto3_session().get_credentials()
            if self._found is None:
                raise ConfigurationError(
                    f"no AWS credentials for {given.prefix}: give keys, a profile or a role, or `anonymous: true`"
                )
            frozen = self._found.get_frozen_credentials()
        kinds = {"access key ID": frozen.access_key, "secret access key": frozen.secret_key, "token": frozen.token}
        for kind, value in kinds.items():
            if value and re.search(r"[^!-~]", value):  # no header may hold it; obstore would panic
                raise ConfigurationError(
                    f"the AWS {kind} for {given.prefix} holds a space, a line break or another character that none "
                    "has: was it copied whole, and nothing else?"
                )
        self._key_id, self.is_a_session = frozen.access_key, bool(frozen.token) or bool(given.role_arn)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": None if given.access_key_id else datetime.now(UTC) + _ASK_AGAIN,
        }

    def _assume(self, role_arn: str) -> dict[str, Any]:
        from botocore.config import Config

        given = self._given
        external = {"ExternalId": reveal(given.external_id)} if given.external_id else {}
        config = Config(
            connect_timeout=min(10.0, given.request_seconds), read_timeout=given.request_seconds, retries=_ONCE
        )
        own = self._own()
        with self._explained():
            sts = self.client("sts", own, endpoint_url=given.sts_endpoint, config=config)
            answer = sts.assume_role(RoleArn=role_arn, RoleSessionName=given.role_session_name, **external)
        keys = answer["Credentials"]
        return {
            "access_key_id": keys["AccessKeyId"],
            "secret_access_key": keys["SecretAccessKey"],
            "token": keys["SessionToken"],
            "expires_at": keys["Expiration"].astimezone(UTC),  # obstore takes no other kind of zone
        }

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of botocore, while it gets credentials, as ours."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except Exception as error:
            if _is_temporary(error):
                raise _interrupted(error) from None
            if isinstance(error, BotoCoreError):
                raise ConfigurationError(f"no AWS credentials for {self._given.prefix}: {error}") from None
            if not isinstance(error, ClientError):
                raise
            given = self._given
            role = given.role_arn or "the role of the profile"
            who = given.access_key_id or given.profile or "the default AWS credentials"
            raise AccessDeniedError(
                f"cannot assume {role} as {who} ({_code(error)}): the permission sts:AssumeRole is missing, or the "
                "role does not trust this identity"
            ) from None


@contextmanager
def _as_of_obstore() -> Iterator[None]:
    """boto3's errors as those that obstore would raise, as far as it matters."""
    from botocore.exceptions import ClientError

    try:
        yield
    except Exception as error:
        if _is_temporary(error):
            raise _interrupted(error) from None
        if not isinstance(error, ClientError):
            raise
        status, code = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode"), _code(error)
        if code == "NoSuchBucket":
            raise NoSuchBucket from None
        if status == 404:
            raise FileNotFoundError from None
        if status == 401 or code in UNAUTHENTICATED:
            raise Unauthenticated(code) from error
        if status == 403:
            raise Forbidden(code) from error
        raise


def _is_temporary(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    from botocore import exceptions as failures
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if isinstance(error, failures.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status in (408, 429) or _code(error) in ("RequestTimeout", "Throttling", "SlowDown")
    lost = failures.HTTPClientError | failures.ConnectionError | failures.IncompleteReadError | HTTPError
    return isinstance(error, lost | ResponseParserError)


def _interrupted(error: Exception) -> ConnectionError:
    """Without the answer that botocore could not read: it may hold a session's keys."""
    return ConnectionError(str(error).splitlines()[0])


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def through_s3_api(credentials: GCSCredentials) -> S3Store:
    """Google Cloud Storage by HMAC key."""
    return S3Store(
        S3Credentials.model_construct(
            prefix=credentials.prefix,
            endpoint=credentials.endpoint or "https://storage.googleapis.com",
            access_key_id=credentials.hmac_access_key_id,
            secret_access_key=credentials.hmac_secret,
            region="auto" if credentials.endpoint is None else "us-east-1",
            addressing="path",
            request_seconds=credentials.request_seconds,
            deadline_seconds=credentials.deadline_seconds,
        ),
        scheme="gs",
    )
