"""Who we are to a store: credentials for Google Cloud Storage and S3, as settings; nothing is opened here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from shardmill.errors import ConfigurationError
from shardmill.spec import did_you_mean
from shardmill.yaml_text import YamlText

ANONYMOUS = "an anonymous caller"
"""Who asks, where no credentials are sent."""


def _checked_endpoint(url: str) -> str:
    """The URL as it is.

    Raises:
        ValueError: It is none: on such the clients of the stores fail without a word why.
    """
    try:
        parts = TypeAdapter(HttpUrl).validate_python(url)
    except ValidationError:
        parts = None
    if parts is None or parts.username or parts.password:  # errors show the URL
        raise ValueError("an endpoint is a URL such as https://storage.example.com or http://127.0.0.1:9000")
    return url


Endpoint = Annotated[str, AfterValidator(_checked_endpoint)]


class FromEnvironment(BaseModel):
    """`{env: NAME}`: a secret that stands in an environment variable, and is read by the process that uses it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    env: str


def _named_if_possible(value: Any) -> Any:
    """A secret as text becomes the name of the variable that holds it, where one does: names may travel."""
    if isinstance(value, str) and len(value) >= 8:
        for name, present in os.environ.items():
            if present == value:
                return FromEnvironment(env=name)
    return value


Secret = Annotated[FromEnvironment | SecretStr, BeforeValidator(_named_if_possible)]


def reveal(secret: FromEnvironment | SecretStr) -> str:
    """The secret itself.

    Raises:
        ConfigurationError: Its environment variable is not set.
    """
    if isinstance(secret, SecretStr):
        return secret.get_secret_value()
    value = os.environ.get(secret.env)
    if not value:
        raise ConfigurationError(f"the credentials need the environment variable {secret.env}, which is not set")
    return value


class Credentials(BaseModel):
    """What the credentials of all stores have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    prefix: str
    """The URIs that these credentials are for; of several that fit, the longest prefix counts."""
    endpoint: Endpoint | None = None
    """URL of the service, for emulators, private endpoints and stores that speak the protocol. By default the clouds'
    own variables count: STORAGE_EMULATOR_HOST, API_ENDPOINT_OVERRIDE; AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL."""
    anonymous: bool = False
    """Send no credentials: for public buckets."""
    request_seconds: Annotated[float, Field(gt=0)] = 60.0
    """The longest that one request may take."""
    deadline_seconds: Annotated[float, Field(gt=0)] = 180.0
    """How long an operation that can be retried is tried again."""

    @model_validator(mode="after")
    def _complete(self) -> Credentials:
        for names in self._pairs:
            given = [name for name in names if getattr(self, name) is not None]
            if given and len(given) < len(names):
                raise ValueError(f"{' and '.join(names)} belong together; only {given[0]} is given")
        ways = [" and ".join(names) for names in self._ways if getattr(self, names[0])]
        if len(ways) > 1:
            raise ValueError(f"{'; '.join(ways)}: give one of them")
        return self

    @property
    def _pairs(self) -> tuple[tuple[str, ...], ...]:
        return ()

    @property
    def _ways(self) -> tuple[tuple[str, ...], ...]:
        return ()

    _endpoint_variables: ClassVar[tuple[str, ...]] = ()

    @property
    def service_url(self) -> str | None:
        """The endpoint as this process sees it; None: the cloud itself.

        Raises:
            ConfigurationError: The environment variable that counts holds no URL.
        """
        if self.endpoint:
            return self.endpoint
        name = next((name for name in self._endpoint_variables if os.environ.get(name)), None)
        try:
            return name and _checked_endpoint(os.environ[name])
        except ValueError as error:
            raise ConfigurationError(f"the environment variable {name}: {error}") from None

    @property
    def values_held(self) -> list[str]:
        """The fields that hold a secret itself, and not the name of the variable that does."""
        return [name for name in type(self).model_fields if isinstance(getattr(self, name), SecretStr)]

    def matches(self, uri: str) -> bool:
        """Whether they are for this URI: `prefix` ends at a segment of its path."""
        prefix = self.prefix
        return uri == prefix or uri.startswith(prefix if prefix.endswith("/") else f"{prefix}/")


class GCSCredentials(Credentials):
    """Google Cloud Storage. With nothing given: application default credentials."""

    prefix: Annotated[str, Field(pattern=r"^gs://")] = "gs://"
    service_account_file: str | None = None
    """Path of a service account's JSON key."""
    service_account_json: Secret | None = None
    """The JSON key itself."""
    impersonate: str | None = None
    """E-mail of a service account to act as; the other credentials only have to be allowed to do that."""
    hmac_access_key_id: str | None = None
    hmac_secret: Secret | None = None
    """An HMAC key: the bucket is then spoken to through its S3 API."""
    user_project: str | None = None
    """The project that pays for requests to a bucket whose requesters pay."""
    iam_endpoint: Endpoint = "https://iamcredentials.googleapis.com"
    """URL of the service that impersonates."""

    _endpoint_variables = ("STORAGE_EMULATOR_HOST", "API_ENDPOINT_OVERRIDE")

    @field_validator("service_account_file")
    @classmethod
    def _is_path(cls, value: str | None) -> str | None:
        if value is not None and "{" in value:
            raise ValueError("a path is expected; the key itself goes into service_account_json")
        return value

    @property
    def _pairs(self) -> tuple[tuple[str, ...], ...]:
        return (("hmac_access_key_id", "hmac_secret"),)

    @property
    def _ways(self) -> tuple[tuple[str, ...], ...]:
        return (
            ("anonymous",),
            ("service_account_file",),
            ("service_account_json",),
            ("hmac_access_key_id", "hmac_secret"),
        )


class S3Credentials(Credentials):
    """S3 and what speaks its protocol. With nothing given: botocore's default chain (environment, profile, roles)."""

    prefix: Annotated[str, Field(pattern=r"^s3://")] = "s3://"
    access_key_id: str | None = None
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    profile: str | None = None
    """Of the AWS configuration files."""
    role_arn: str | None = None
    """A role to assume with the other credentials; its session is renewed before it ends."""
    role_session_name: str = "shardmill"
    external_id: Secret | None = None
    sts_endpoint: Endpoint | None = None
    region: str | None = None
    addressing: Literal["path", "virtual"] | None = None
    """By default `path` where an endpoint is given, else `virtual`."""

    _endpoint_variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

    @property
    def _pairs(self) -> tuple[tuple[str, ...], ...]:
        return (("access_key_id", "secret_access_key"),)

    @property
    def _ways(self) -> tuple[tuple[str, ...], ...]:
        return (("anonymous",), ("access_key_id", "secret_access_key"), ("profile",))

    @property
    def path_style(self) -> bool:
        """Whether the bucket stands in the URL's path."""
        return self.addressing == "path" or (self.addressing is None and self.service_url is not None)


def load_credentials(file: str | Path) -> tuple[Credentials, ...]:
    """The credentials that a YAML file lists under `gcs` and `s3`.

    Raises:
        ConfigurationError: The file cannot be read, or is none of credentials. It shows no values.
    """
    import yaml

    try:
        text = Path(file).read_text("utf-8")
        content = yaml.safe_load(text)
    except OSError as error:
        raise ConfigurationError(f"cannot read the credentials file {file}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError):
        # The parser's own message quotes the line, which may hold a secret.
        raise ConfigurationError(f"the credentials file {file} is not YAML") from None
    if not isinstance(content, Mapping) or not content.keys() <= _KINDS.keys():
        raise ConfigurationError(f"the credentials file {file} has to hold lists named {' or '.join(_KINDS)}")
    found: list[Credentials] = []
    for kind, entries in content.items():
        if not isinstance(entries, list | None):
            raise ConfigurationError(f"{file}: `gcs` and `s3` hold lists: begin each entry of `{kind}` with a dash")
        for number, entry in enumerate(entries or ()):
            try:
                found.append(_KINDS[kind].model_validate(entry))
            except ValidationError as error:
                line = YamlText(text, str(file)).line((kind, number))
                place = f"{file}, line {line}, entry {number + 1} of `{kind}`"
                raise ConfigurationError(f"{place}: {described(error)}") from None
    return tuple(found)


_KINDS: dict[str, type[Credentials]] = {"gcs": GCSCredentials, "s3": S3Credentials}


def described(error: ValidationError) -> str:
    """The problems with their fields, without the values that were given."""
    problems = error.errors(include_input=False, include_context=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'credentials'}: {_words(e, error.title)}" for e in problems)


def _words(problem: ErrorDetails, title: str) -> str:
    if problem["type"] != "extra_forbidden":
        return problem["msg"].removeprefix("Value error, ")
    known = [name for kind in _KINDS.values() if kind.__name__ == title for name in kind.model_fields]
    return f"is no field{did_you_mean(problem['loc'][-1], known)}"
