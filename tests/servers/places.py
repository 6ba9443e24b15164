"""Places to store a dataset: a local folder, or a fresh bucket with an identity that may read and write it."""

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from shardmill.storage import Credentials, GCSCredentials, S3Credentials, Storage
from shardmill.storage.credentials import reveal
from tests.servers.gcs import GCSServer
from tests.servers.seaweedfs import S3Keys, S3Server

Kind = Literal["file", "gs", "s3"]
KINDS: tuple[Kind, ...] = ("file", "gs", "s3")
BUCKETS: tuple[Kind, ...] = ("gs", "s3")


@dataclass(frozen=True)
class Place:
    """Where something is stored, and who may."""

    kind: Kind
    uri: str
    credentials: tuple[Credentials, ...] = ()
    email: str = ""
    """Of the GCS account."""
    keys: S3Keys | None = None

    @property
    def storage(self) -> Storage:
        return Storage(self.credentials)

    @property
    def identity(self) -> str:
        return self.storage.store(self.uri).identity

    def put(self, name: str, data: bytes) -> str:
        """Store an object and return its URI."""
        uri = f"{self.uri}/{name}"
        info = self.storage.stat(uri)
        self.storage.replace(uri, data, info.version if info else None)
        return uri

    def fill(self, folder: Path) -> None:
        """Store every file of a local folder."""
        for file in sorted(folder.iterdir()):
            self.put(file.name, file.read_bytes())

    def contents(self, below: str = "") -> dict[str, tuple[str, str]]:
        """Name → (sha256, version) of every object."""
        infos = list(self.storage.list(f"{self.uri}/{below}".rstrip("/")))
        return {
            info.uri.removeprefix(f"{self.uri}/"): (
                hashlib.sha256(self.storage.read(info.uri)).hexdigest(),
                info.version,
            )
            for info in infos
        }

    def through(self, endpoint: str, deadline_seconds: float = 120.0) -> "Place":
        """The same place behind a proxy."""
        update = {"endpoint": endpoint, "deadline_seconds": deadline_seconds}
        return Place(
            self.kind, self.uri, tuple(item.model_copy(update=update) for item in self.credentials), self.email
        )


NewPlace = Callable[..., Place]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> NewPlace:
    """`place("gs")` makes a bucket and an account that may read and write it; `place("s3", at=other, may="r")` another
    identity on the same bucket.
    """

    def make(kind: Kind, *, at: Place | None = None, may: str = "rw") -> Place:
        name = f"place-{uuid.uuid4().hex[:12]}"
        if kind == "file":
            folder = tmp_path / name
            folder.mkdir()
            return Place("file", f"file://{folder}")
        if kind == "gs":
            gcs: GCSServer = request.getfixturevalue("gcs_server")
            bucket = at.uri.removeprefix("gs://") if at else gcs.make_bucket(name)
            key = gcs.account(f"{may}-{name}", {bucket: may})
            uri = f"gs://{bucket}"
            google = GCSCredentials(prefix=uri, endpoint=gcs.url, service_account_json=json.dumps(key))
            return Place("gs", uri, (google,), email=key["client_email"])
        s3: S3Server = request.getfixturevalue("s3_server")
        bucket = at.uri.removeprefix("s3://") if at else s3.make_bucket(name)
        actions = ("Read", "List", *(("Write", "Tagging") if "w" in may else ()))
        keys = s3.identity(f"{may}{name}", *(f"{action}:{bucket}" for action in actions))
        uri = f"s3://{bucket}"
        amazon = S3Credentials(
            prefix=uri,
            endpoint=s3.url,
            region=s3.region,
            access_key_id=keys.access_key_id,
            secret_access_key=keys.secret_access_key,
        )
        return Place("s3", uri, (amazon,), keys=keys)

    return make


SECRETS = ("service_account_json", "secret_access_key", "session_token", "hmac_secret", "external_id")
"""Fields of credentials that hold one."""


def secrets_of(*credentials: Credentials) -> list[str]:
    """Every secret in them."""
    return [reveal(value) for item in credentials for field in SECRETS if (value := getattr(item, field, None))]


def named_secrets(variable: str, *credentials: Credentials) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The fields of each of the credentials, secrets as `{env: NAME}`, and the environment that holds these."""
    environment: dict[str, str] = {}
    fields: list[dict[str, Any]] = []
    for number, item in enumerate(credentials):
        given = item.model_dump(exclude_unset=True)
        for field in SECRETS:
            if given.get(field) is not None:
                name = f"{variable}_{number}_{field.upper()}"
                environment[name] = reveal(getattr(item, field))
                given[field] = {"env": name}
        fields.append(given)
    return fields, environment


def credentials_file(file: Path, *places: Place) -> tuple[Path, dict[str, str]]:
    """A credentials file whose secrets are `{env: NAME}`, and the environment that holds them."""
    fields, environment = named_secrets("SECRET", *(item for place in places for item in place.credentials))
    kinds = {kind: [each for each in fields if each["prefix"].startswith(scheme)] for kind, scheme in _SCHEMES}
    file.write_text(yaml.safe_dump(kinds))
    return file, environment


_SCHEMES = (("gcs", "gs://"), ("s3", "s3://"))
