"""Storage as a Dagster resource: whose credentials lead to which URIs."""

import os
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import Field, ValidationError

from resources.failures import failure
from shardmill.errors import ConfigurationError, ShardmillError
from shardmill.storage import Credentials, GCSCredentials, S3Credentials, Storage, load_credentials
from shardmill.storage.credentials import described


class GCSCredentialsConfig(dg.Config):
    """`shardmill.storage.GCSCredentials`, for Dagster. Give secrets as `dg.EnvVar`: the UI shows its name."""

    prefix: str = "gs://"
    endpoint: str | None = None
    anonymous: bool = False
    service_account_file: str | None = None
    service_account_json: str | None = Field(None, repr=False)
    impersonate: str | None = None
    hmac_access_key_id: str | None = None
    hmac_secret: str | None = Field(None, repr=False)
    user_project: str | None = None
    iam_endpoint: str | None = None
    request_seconds: float | None = None
    deadline_seconds: float | None = None


class S3CredentialsConfig(dg.Config):
    """`shardmill.storage.S3Credentials`, for Dagster. Give secrets as `dg.EnvVar`: the UI shows the variable's name."""

    prefix: str = "s3://"
    endpoint: str | None = None
    anonymous: bool = False
    access_key_id: str | None = None
    secret_access_key: str | None = Field(None, repr=False)
    session_token: str | None = Field(None, repr=False)
    profile: str | None = None
    role_arn: str | None = None
    role_session_name: str | None = None
    external_id: str | None = Field(None, repr=False)
    sts_endpoint: str | None = None
    region: str | None = None
    addressing: str | None = None
    request_seconds: float | None = None
    deadline_seconds: float | None = None


class StorageResource(dg.ConfigurableResource[None]):
    """The stores that URIs lead to. With nothing given: the clouds' own default credentials.

    Where several entries fit a URI, the one with the longest prefix counts, so that a dataset may read one bucket and
    write another with different identities.
    """

    credentials_file: str | None = None
    """Path of a YAML file with lists `gcs` and `s3`, the one that `shardmill --credentials` reads."""
    gcs: list[GCSCredentialsConfig] = Field(default=[])
    s3: list[S3CredentialsConfig] = Field(default=[])
    gcs_resource: dg.ResourceDependency[Any | None] = None  # type: ignore[assignment]
    """A `dagster_gcp.GCSResource`, where a deployment has one: for every `gs://` URI without an entry of its own."""
    s3_resource: dg.ResourceDependency[Any | None] = None  # type: ignore[assignment]
    """A `dagster_aws.s3.S3Resource`, likewise."""

    @classmethod
    def from_environment(cls) -> Self:
        """With the credentials file that the variable SHARDMILL_CREDENTIALS names, if it does."""
        return cls(credentials_file=os.environ.get("SHARDMILL_CREDENTIALS"))

    def open(self) -> Storage:
        """Storage for this process.

        Raises:
            dg.Failure: The credentials are none; it shows no secret.
        """
        try:
            return Storage(tuple(self._credentials()))
        except ShardmillError as error:
            raise failure(error) from None

    def _credentials(self) -> list[Credentials]:
        credentials: list[Credentials] = []
        if self.credentials_file:
            credentials += load_credentials(Path(self.credentials_file))
        credentials += [_made(GCSCredentials, item.model_dump(exclude_none=True)) for item in self.gcs]
        credentials += [_made(S3Credentials, item.model_dump(exclude_none=True)) for item in self.s3]
        if self.gcs_resource is not None:
            # It knows no more than a project: credentials and endpoint are the environment's, for it and for us.
            credentials.append(_made(GCSCredentials, {}))
        if self.s3_resource is not None:
            credentials.append(_made(S3Credentials, _of_dagster_aws(self.s3_resource)))
        return credentials


def _made(kind: type[Credentials], fields: dict[str, Any]) -> Credentials:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise ConfigurationError(f"the storage resource: {described(error)}") from None


def _of_dagster_aws(resource: Any) -> dict[str, Any]:
    if resource.verify is False or isinstance(resource.verify, str) or resource.use_ssl is False:
        raise ConfigurationError(
            "the storage resource: `verify` and `use_ssl` of s3_resource are not supported; have this machine trust "
            "the server's certificate, and begin endpoint_url with http:// for a server without TLS"
        )
    fields = {
        "anonymous": resource.use_unsigned_session,
        "access_key_id": resource.aws_access_key_id,
        "secret_access_key": resource.aws_secret_access_key,
        "session_token": resource.aws_session_token,
        "profile": resource.profile_name,
        "region": resource.region_name,
        "endpoint": resource.endpoint_url,
    }
    return {name: value for name, value in fields.items() if value is not None}
