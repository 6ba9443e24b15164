"""Places to store at: a folder of its own for every test, on a local disk, on GCS and on S3."""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shardmill.storage import Credentials, GCSCredentials, S3Credentials, Storage, join_uri
from shardmill.storage.stores import _object_store
from tests.servers import GCSServer, S3Keys, S3Server

SHORT: dict[str, Any] = {"request_seconds": 60.0, "deadline_seconds": 600.0}
PROMPT = 60.0
"""Seconds within which a busy machine says what is not tried again: far from the deadline."""


@dataclass(frozen=True)
class Place:
    """A folder that a writer and a reader have, and a way to put objects there that is not ours."""

    kind: str
    folder: str
    writer: tuple[Credentials, ...]
    reader: tuple[Credentials, ...]
    put: Callable[[str, bytes], None]
    """`put("gs://bucket/a", b"data")`, by the store's own client."""
    server_url: str = ""

    @property
    def storage(self) -> Storage:
        return Storage(self.writer)

    def uri(self, name: str) -> str:
        return join_uri(self.folder, name)

    def through(self, endpoint: str, **options: Any) -> Storage:
        """The writer's storage by another way: a proxy, with deadlines of its own."""
        return Storage(tuple(item.model_copy(update={"endpoint": endpoint, **options}) for item in self.writer))


def of_key(key: dict[str, str], endpoint: str, **options: Any) -> Storage:
    """A storage of a GCS service account."""
    credentials = GCSCredentials(endpoint=endpoint, service_account_json=json.dumps(key), **SHORT | options)
    return Storage((credentials,))


def of_keys(keys: S3Keys, endpoint: str, **options: Any) -> Storage:
    """A storage of S3 keys."""
    credentials = S3Credentials(
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=keys.access_key_id,
        secret_access_key=keys.secret_access_key,
        **SHORT | options,
    )
    return Storage((credentials,))


def use(storage: Storage, folder: str) -> None:
    """Every verb once, by both client libraries."""
    uri = f"{folder}/used-{uuid.uuid4().hex}"
    storage.check_writable(folder)
    version = storage.replace(uri, b"used", None)
    assert storage.read_version(uri)[1].version == version
    assert uri in {info.uri for info in storage.list(folder)}
    storage.delete(uri)
    with pytest.raises(FileNotFoundError):
        storage.read(f"{folder}/odd\n{uri}")


def assert_reads(storage: Storage, folder: str) -> None:
    """The folder holds `a`, and it can be read."""
    assert storage.read(f"{folder}/a") == b"data"
    assert f"{folder}/a" in {info.uri for info in storage.list(folder)}


@pytest.fixture(autouse=True)
def no_stores_of_other_tests() -> None:
    """What a store found in one test's environment is not for the next."""
    _object_store.cache_clear()


@pytest.fixture(scope="session")
def gcs_place(gcs_server: GCSServer) -> Place:
    from google.cloud import storage
    from google.oauth2 import service_account

    bucket = gcs_server.make_bucket(f"place-{uuid.uuid4().hex[:8]}")
    writer = gcs_server.account(f"writer-{bucket}", {bucket: "rw"})
    reader = gcs_server.account(f"reader-{bucket}", {bucket: "r"})
    credentials = service_account.Credentials.from_service_account_info(writer)
    client = storage.Client("lab", credentials=credentials, client_options={"api_endpoint": gcs_server.url})

    def put(uri: str, data: bytes) -> None:
        client.bucket(bucket).blob(uri.removeprefix(f"gs://{bucket}/")).upload_from_string(data)

    writes, reads = (of_key(key, gcs_server.url).credentials for key in (writer, reader))
    return Place("gcs", f"gs://{bucket}", writes, reads, put, gcs_server.url)


@pytest.fixture(scope="session")
def s3_place(s3_server: S3Server) -> Place:
    bucket = s3_server.make_bucket(f"place-{uuid.uuid4().hex[:8]}")
    client = s3_server.client()

    def put(uri: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=uri.removeprefix(f"s3://{bucket}/"), Body=data)

    writes, reads = (of_keys(keys, s3_server.url).credentials for keys in (s3_server.writer, s3_server.reader))
    return Place("s3", f"s3://{bucket}", writes, reads, put, s3_server.url)


def _own_folder(place: Place) -> Place:
    return Place(
        place.kind,
        join_uri(place.folder, uuid.uuid4().hex[:8]),
        place.writer,
        place.reader,
        place.put,
        place.server_url,
    )


def _local_place(tmp_path: Path) -> Place:
    def put(uri: str, data: bytes) -> None:
        file = Path(uri.removeprefix("file://"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    return Place("local", f"file://{tmp_path}/place", (), (), put)


@pytest.fixture(params=["gcs", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    """A new folder on each object store."""
    return _own_folder(request.getfixturevalue(f"{request.param}_place"))


@pytest.fixture(params=["local", "gcs", "s3"])
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A new folder on every kind of store."""
    if request.param == "local":
        return _local_place(tmp_path)
    return _own_folder(request.getfixturevalue(f"{request.param}_place"))
