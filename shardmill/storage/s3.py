"""S3, and what speaks its protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from typing_extensions import override

from shardmill.errors import ConfigurationError
from shardmill.storage.credentials import GCSCredentials, S3Credentials
from shardmill.storage.object_names import is_odd
from shardmill.storage.object_store import ObjectStore
from shardmill.storage.objects import ObjectInfo
from shardmill.storage.retries import Request, carry_out
from shardmill.storage.s3_credentials import ONCE, S3Provider
from shardmill.storage.s3_errors import as_of_obstore

_PAGE = 1000
"""Names a request: S3 gives no more."""

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
        self._provider = S3Provider(credentials)
        self._boto3_client: tuple[Any, Any] | None = None

    @override
    @property
    def identity(self) -> str:
        return self._provider.identity

    @override
    def connect(self, bucket: str, options: dict[str, Any]) -> Any:
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

    @override
    def authenticate(self) -> None:
        if not self._given.anonymous:
            self._provider()

    @override
    def forget(self) -> None:
        self._provider.forget()

    def are_short_lived(self) -> bool:
        """Those of a session are: of a role, a container, a single sign-on."""
        return self._provider.is_a_session

    def version_of(self, meta: Any) -> str:
        """The ETag, without the quotes that some answers lack."""
        return str(meta["e_tag"]).strip('"')

    @override
    def update_mode(self, version: str) -> Any:
        """By `If-Match`."""
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
        with as_of_obstore():
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
        with as_of_obstore():
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
            config = Config(read_timeout=self._given.request_seconds, retries=ONCE)
            with as_of_obstore():
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
                    retries=ONCE,
                )
                client = self._provider.client("s3", keys, endpoint_url=given.service_url, config=config)
                self._boto3_client = token, client
            return self._boto3_client[1]


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
