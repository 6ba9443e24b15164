"""S3, and what speaks its protocol."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, cast

from shardmill.errors import AccessDeniedError, ConfigurationError
from shardmill.storage.credentials import GCSCredentials, S3Credentials, reveal
from shardmill.storage.object_store import ObjectStore, is_odd
from shardmill.storage.storage import ObjectInfo

_PAGE = 10_000
_BOTO3_PAGE = 1000
_CLIENT_SECONDS = 300.0
_ASK_AGAIN = timedelta(minutes=10)
"""How long obstore may go on with credentials of botocore's, which do not say when they end."""


class S3Store(ObjectStore):
    """Buckets under `s3://`, or Google's under `gs://` through their S3 API."""

    permissions: ClassVar = {
        "list": "s3:ListBucket",
        "read": "s3:GetObject",
        "write": "s3:PutObject",
        "delete": "s3:DeleteObject",
    }

    def __init__(self, credentials: S3Credentials, scheme: str = "s3") -> None:
        super().__init__(credentials, scheme)
        self._given = credentials
        self._provider = _S3Provider(credentials)
        self._boto3_client: tuple[Any, float] | None = None

    @property
    def identity(self) -> str:
        """See `ObjectStore`."""
        return self._provider.identity

    def connect(self, bucket: str) -> Any:
        """See `ObjectStore`."""
        from obstore.store import S3Store as Client

        given = self._given
        config: dict[str, Any] = {"virtual_hosted_style_request": not given.path_style, "disable_bulk_delete": True}
        if given.service_url:
            config["endpoint"] = given.service_url
        region = given.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        config["region"] = region or self._provider.region or "us-east-1"
        options: Any = {"client_options": self.client_options(), "retry_config": self.retry_config()}
        if given.anonymous:
            return Client(bucket, config=cast(Any, {**config, "skip_signature": True}), **options)
        self._provider()  # what is wrong with the credentials shows here, and not inside the client
        return Client(bucket, config=cast(Any, config), credential_provider=self._provider, **options)

    def renew(self) -> None:
        """See `ObjectStore`."""
        self._provider.renew()
        self._boto3_client = None

    def version_of(self, meta: Any) -> str:
        """The ETag, without the quotes that some answers lack."""
        return str(meta["e_tag"]).strip('"')

    def update_mode(self, meta: Any) -> Any:
        """See `ObjectStore`: If-Match."""
        return {"e_tag": meta["e_tag"]}

    def page(self, bucket: str, prefix: str, after: str) -> tuple[list[ObjectInfo], bool]:
        """By obstore, and by boto3 where names are odd."""
        import obstore
        import obstore.exceptions as failures

        if not is_odd(prefix.removesuffix("/") or "all") and not (prefix == "" and after == ""):
            try:
                stream = obstore.list(self._client(bucket), prefix or None, offset=after or None, chunk_size=_PAGE)
                metas = next(iter(stream), [])
            except (failures.GenericError, failures.InvalidPathError, ValueError) as error:
                if "parsing Path" not in str(error) and "path segment" not in str(error):
                    raise
            else:
                if all(meta["size"] for meta in metas):  # an empty one may be a folder's marker, whose slash is gone
                    infos = [self._info(self._uri(bucket, meta["path"]), meta) for meta in metas]
                    return infos, len(infos) < _PAGE
        return self._page_by_boto3(bucket, prefix, after)

    def _page_by_boto3(self, bucket: str, prefix: str, after: str) -> tuple[list[ObjectInfo], bool]:
        answer = self._called(
            "list", bucket, prefix, "list_objects_v2", Prefix=prefix, StartAfter=after, MaxKeys=_BOTO3_PAGE
        )
        infos = [
            ObjectInfo(
                self._uri(bucket, item["Key"]), item["Size"], item["ETag"].strip('"'), item["LastModified"].timestamp()
            )
            for item in answer.get("Contents", [])
        ]
        return infos, not answer["IsTruncated"]

    def read_odd(self, bucket: str, name: str) -> tuple[bytes, ObjectInfo]:
        """By boto3."""
        answer = self._called("read", bucket, name, "get_object", Key=name)
        info = ObjectInfo(
            self._uri(bucket, name),
            answer["ContentLength"],
            answer["ETag"].strip('"'),
            answer["LastModified"].timestamp(),
        )
        return answer["Body"].read(), info

    def filesystem(self) -> Any:
        """Of s3fs."""
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
        )

    def _called(self, doing: str, bucket: str, name: str, operation: str, **arguments: Any) -> dict[str, Any]:
        """boto3's answer; its errors as those that obstore would raise."""
        from botocore.exceptions import BotoCoreError, ClientError

        from shardmill.storage.retries import Unauthenticated

        try:
            return cast(dict[str, Any], getattr(self._boto3(), operation)(Bucket=bucket, **arguments))
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            code = error.response.get("Error", {}).get("Code", "")
            uri = self._uri(bucket, name)
            if code in ("NoSuchKey", "404"):
                raise FileNotFoundError(f"{uri} does not exist") from None
            if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken") or status == 401:
                raise Unauthenticated(code) from error
            if status == 403:
                raise AccessDeniedError(
                    f"cannot {doing} {uri}: {self.identity} lacks the permission {self.permissions[doing]}"
                ) from None
            raise ConnectionError(f"{code} {error}") from error
        except BotoCoreError as error:
            raise ConnectionError(str(error)) from error

    def _boto3(self) -> Any:
        """A boto3 client; a new one when the credentials of the last are old."""
        from botocore import UNSIGNED
        from botocore.config import Config

        if self._boto3_client is not None and time.monotonic() < self._boto3_client[1]:
            return self._boto3_client[0]
        given = self._given
        config = Config(
            s3={"addressing_style": "path" if given.path_style else "virtual"},
            signature_version=UNSIGNED if given.anonymous else None,
            connect_timeout=10,
            read_timeout=given.request_seconds,
            retries={"mode": "standard", "max_attempts": 3},
        )
        client = self._provider.client("s3", endpoint_url=given.service_url, config=config)
        self._boto3_client = client, time.monotonic() + _CLIENT_SECONDS
        return client


class _S3Provider:
    """Credentials for obstore, renewed when it asks: it does so before they expire."""

    def __init__(self, credentials: S3Credentials) -> None:
        self._given = credentials
        self._found: Any = None

    def __call__(self) -> Any:
        """An obstore `S3Credential`. Raises ConfigurationError, AccessDeniedError."""
        if self._given.role_arn:
            return self._assumed()
        frozen = self._base().get_frozen_credentials()  # renewed by botocore long before they end
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": None if self._given.access_key_id else datetime.now(UTC) + _ASK_AGAIN,
        }

    @property
    def identity(self) -> str:
        """The role, the key or the profile."""
        given = self._given
        if given.anonymous:
            return "an anonymous caller"
        if given.role_arn:
            return given.role_arn
        if given.access_key_id:
            return f"access key {given.access_key_id}"
        found = self._found
        key = f", access key {found.access_key}" if found is not None else ""
        return f"profile {given.profile}{key}" if given.profile else f"the default AWS credentials{key}"

    @property
    def region(self) -> str | None:
        """Of the profile."""
        return None if self._given.anonymous else cast("str | None", self._own_session().region_name)

    def renew(self) -> None:
        """Forget what was found."""
        self._found = None

    def client(self, service: str, **options: Any) -> Any:
        """A boto3 client with the credentials of this moment."""
        import boto3

        if self._given.anonymous:
            return boto3.client(service, region_name=self._given.region or "us-east-1", **options)
        keys = self()
        return self._own_session().client(
            service,
            aws_access_key_id=keys["access_key_id"],
            aws_secret_access_key=keys["secret_access_key"],
            aws_session_token=keys["token"],
            region_name=self._given.region or self.region or "us-east-1",
            **options,
        )

    def _own_session(self) -> Any:
        import boto3

        given = self._given
        keys: dict[str, Any] = {}
        if given.access_key_id and given.secret_access_key:
            keys = {
                "aws_access_key_id": given.access_key_id,
                "aws_secret_access_key": reveal(given.secret_access_key),
                "aws_session_token": reveal(given.session_token) if given.session_token else None,
            }
        return boto3.Session(profile_name=given.profile, region_name=given.region, **keys)

    def _base(self) -> Any:
        from botocore.exceptions import BotoCoreError

        if self._found is None:
            try:
                self._found = self._own_session().get_credentials()
            except BotoCoreError as error:
                raise ConfigurationError(f"no AWS credentials: {error}") from error
            if self._found is None:
                raise ConfigurationError(
                    f"no AWS credentials for {self._given.prefix}: give keys, a profile or a role, or `anonymous: true`"
                )
        return self._found

    def _assumed(self) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        given = self._given
        region = given.region or self.region or "us-east-1"
        sts = self._own_session().client("sts", endpoint_url=given.sts_endpoint, region_name=region)
        external = {"ExternalId": reveal(given.external_id)} if given.external_id else {}
        try:
            answer = sts.assume_role(RoleArn=given.role_arn, RoleSessionName=given.role_session_name, **external)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            base = self._given.access_key_id or self._given.profile or "the default AWS credentials"
            raise AccessDeniedError(
                f"cannot assume {given.role_arn} as {base} ({code}): the permission sts:AssumeRole is missing, or the "
                "role does not trust this identity"
            ) from None
        except BotoCoreError as error:
            raise ConfigurationError(f"cannot assume {given.role_arn}: {error}") from error
        keys = answer["Credentials"]
        return {
            "access_key_id": keys["AccessKeyId"],
            "secret_access_key": keys["SecretAccessKey"],
            "token": keys["SessionToken"],
            "expires_at": keys["Expiration"],
        }


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
