import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shardmill.errors import ConfigurationError
from shardmill.storage import Credentials, GCSCredentials, S3Credentials, Storage, load_credentials
from shardmill.storage.credentials import FromEnvironment, reveal
from tests.servers import S3Server
from tests.shardmill.storage.conftest import SHORT

Start = Callable[..., subprocess.Popen[str]]

CANARY = "canary-7f3c9a51e2"


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        (S3Credentials, {"access_key_id": "A"}, "belong together; only access_key_id is given"),
        (S3Credentials, {"secret_access_key": CANARY}, "belong together; only secret_access_key is given"),
        (GCSCredentials, {"hmac_secret": CANARY}, "belong together"),
        (S3Credentials, {"anonymous": True, "profile": "p"}, "give one of them"),
        (S3Credentials, {"profile": "p", "access_key_id": "A", "secret_access_key": CANARY}, "give one of them"),
        (GCSCredentials, {"anonymous": True, "service_account_file": "/k.json"}, "give one of them"),
        (GCSCredentials, {"service_account_json": CANARY, "service_account_file": "/k.json"}, "give one of them"),
        (GCSCredentials, {"service_account_file": json.dumps({"private_key": CANARY})}, "a path is expected"),
        (S3Credentials, {"secret": CANARY}, "Extra inputs are not permitted"),
        (S3Credentials, {"prefix": "gs://bucket"}, "prefix"),
        (GCSCredentials, {"prefix": "s3://bucket"}, "prefix"),
        (S3Credentials, {"secret_access_key": {"env": "A", "value": CANARY}, "access_key_id": "A"}, "not permitted"),
        (S3Credentials, {"session_token": [CANARY]}, "session_token"),
        (S3Credentials, {"request_seconds": 0}, "request_seconds"),
        (S3Credentials, {"deadline_seconds": -1}, "deadline_seconds"),
        (S3Credentials, {"addressing": CANARY}, "addressing"),
        (S3Credentials, {"endpoint": f"http://{CANARY} x:y"}, "an endpoint is a URL such as"),
        (S3Credentials, {"endpoint": f"http://user:{CANARY}@127.0.0.1:9000"}, "an endpoint is a URL such as"),
        (S3Credentials, {"sts_endpoint": f"{CANARY}:9000"}, "an endpoint is a URL such as"),
        (GCSCredentials, {"iam_endpoint": f"ftp://{CANARY}"}, "an endpoint is a URL such as"),
    ],
)
def test_what_does_not_fit_is_refused_without_showing_values(
    kind: type[Credentials], fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError, match=says) as caught:
        kind(**fields)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "credentials"), [("AWS_ENDPOINT_URL", S3Credentials()), ("STORAGE_EMULATOR_HOST", GCSCredentials())]
)
def test_an_endpoint_of_the_environment_that_is_no_url_is_named(
    variable: str, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "localhost:9000")
    with pytest.raises(ConfigurationError, match=f"{variable}: an endpoint is a URL such as"):
        assert credentials.service_url


@pytest.mark.parametrize("field", ["access_key_id", "secret_access_key", "session_token"])
def test_a_key_that_was_copied_with_a_line_break_is_named(field: str, s3_server: S3Server) -> None:
    fields = {"access_key_id": "A", "secret_access_key": CANARY, "endpoint": s3_server.url}
    storage = Storage((S3Credentials(**{**fields, field: f"{CANARY}\n"}),))
    with pytest.raises(ConfigurationError, match="a line break or another character that none has") as caught:
        storage.read("s3://bucket/x")
    assert CANARY not in str(caught.value)


def test_credentials_count_for_their_prefix_and_the_longest_wins() -> None:
    items = [
        S3Credentials(prefix="s3://", access_key_id="all", secret_access_key="x"),
        S3Credentials(prefix="s3://lab", access_key_id="bucket", secret_access_key="x"),
        S3Credentials(prefix="s3://lab/a/b", access_key_id="folder", secret_access_key="x"),
        GCSCredentials(prefix="gs://lab", service_account_file="/none"),
    ]
    for order in (items, items[::-1]):
        storage = Storage(tuple(order))
        identities = {
            uri: storage.store(uri).identity
            for uri in ("s3://lab/a/b", "s3://lab/a/b/c", "s3://lab/a/bc", "s3://lab", "s3://laboratory/a")
        }
        assert list(identities.values()) == [
            "access key folder",
            "access key folder",
            "access key bucket",
            "access key bucket",
            "access key all",
        ]
        assert storage.store("gs://lab/x").identity == "the service account"
        assert storage.store("gs://other").identity == "the application default credentials"


def test_no_representation_shows_a_secret() -> None:
    items = (
        S3Credentials(access_key_id="A", secret_access_key=CANARY, session_token=CANARY, external_id=CANARY),
        GCSCredentials(service_account_json=CANARY),
        GCSCredentials(prefix="gs://b", hmac_access_key_id="A", hmac_secret=CANARY),
    )
    storage = Storage(items)
    for item in items:
        for text in (repr(item), str(item), item.model_dump_json(), repr(item.model_dump()), f"{item}"):
            assert CANARY not in text
    assert CANARY not in repr(storage)
    for uri in ("s3://b/x", "gs://c/x", "gs://b/x"):
        assert CANARY not in repr(storage.store(uri))
        assert CANARY not in storage.store(uri).identity


# Secrets in the environment


def test_a_secret_of_the_environment_is_read_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = S3Credentials.model_validate({"access_key_id": "A", "secret_access_key": {"env": "LAB_SECRET"}})
    assert isinstance(credentials.secret_access_key, FromEnvironment)
    with pytest.raises(ConfigurationError, match="LAB_SECRET, which is not set"):
        reveal(credentials.secret_access_key)
    with pytest.raises(ConfigurationError, match="LAB_SECRET, which is not set"):
        Storage((credentials,)).read("s3://bucket/a")
    monkeypatch.setenv("LAB_SECRET", "first")
    assert reveal(credentials.secret_access_key) == "first"
    monkeypatch.setenv("LAB_SECRET", "second")
    assert reveal(credentials.secret_access_key) == "second"


def test_a_secret_that_stands_in_the_environment_travels_as_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_SECRET", CANARY)
    storage = Storage((S3Credentials(access_key_id="A", secret_access_key=CANARY),))
    pickled = pickle.dumps(storage)
    assert CANARY.encode() not in pickled
    assert b"LAB_SECRET" in pickled
    assert pickle.loads(pickled) == storage


def test_a_short_value_is_not_taken_for_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_FLAG", "true")
    credentials = S3Credentials(access_key_id="A", secret_access_key="true")
    assert not isinstance(credentials.secret_access_key, FromEnvironment)


CHILD = """
import pickle, sys
from shardmill.errors import ConfigurationError
try:
    print(pickle.loads(bytes.fromhex(sys.argv[1])).read(sys.argv[2]))
except ConfigurationError as error:
    print("ConfigurationError", error)
"""


def test_another_process_needs_the_variable_too(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    s3_server.client().put_object(Bucket=s3_bucket, Key="a", Body=b"data")
    monkeypatch.setenv("LAB_SECRET", s3_server.reader.secret_access_key)
    credentials = S3Credentials(
        endpoint=s3_server.url,
        region="us-east-1",
        access_key_id=s3_server.reader.access_key_id,
        secret_access_key=s3_server.reader.secret_access_key,
        **SHORT,
    )
    storage = Storage((credentials,))
    assert storage.read(f"s3://{s3_bucket}/a") == b"data"
    pickled = pickle.dumps(storage).hex()
    assert start(CHILD, pickled, f"s3://{s3_bucket}/a").communicate(timeout=120)[0] == "b'data'\n"
    monkeypatch.delenv("LAB_SECRET")
    said = start(CHILD, pickled, f"s3://{s3_bucket}/a").communicate(timeout=120)[0]
    assert said.startswith("ConfigurationError")
    assert "LAB_SECRET" in said


# The file


def load(tmp_path: Path, text: str | bytes) -> tuple[Credentials, ...]:
    file = tmp_path / "storage.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_credentials(file)


def test_a_file_lists_credentials_by_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
gcs:
  - prefix: gs://photos
    service_account_file: /keys/photos.json
s3:
  - prefix: s3://photos
    access_key_id: A
    secret_access_key: {env: LAB_SECRET}
  - prefix: s3://public
    anonymous: true
"""
    first, second, third = load(tmp_path, text)
    assert first == GCSCredentials(prefix="gs://photos", service_account_file="/keys/photos.json")
    assert isinstance(second, S3Credentials)
    assert second.secret_access_key == FromEnvironment(env="LAB_SECRET")
    assert third.anonymous
    assert load(tmp_path, "gcs:\ns3: []\n") == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"s3:\n  - {{access_key_id: A, secret: {CANARY}}}", "secret: is no field$"),
        (
            f"gcs:\ns3:\n  - anonymous: true\n\n  - acess_key_id: {CANARY}",
            "line 5, entry 2 of `s3`: acess_key_id: is no field; did you mean 'access_key_id'",
        ),
        (f"s3:\n  - {{access_key_id: {CANARY}}}", "entry 1 of `s3`: credentials: access_key_id and .* belong together"),
        (f"s3:\n  - {{access_key_id: A, secret_access_key: [{CANARY}]}}", "secret_access_key"),
        (f"s3:\n  - {{access_key_id: A, secret_access_key: '{CANARY}", "is not YAML"),
        (f"s3: [{{\n{CANARY}: : {CANARY}", "is not YAML"),
        (f"\xff{CANARY}".encode("latin1"), "is not YAML"),
        (f"{CANARY}", "has to hold lists named gcs or s3"),
        (f"{CANARY}: []", "has to hold lists named gcs or s3"),
        (f"- {CANARY}", "has to hold lists named gcs or s3"),
        ("", "has to hold lists named gcs or s3"),
        (f"s3: {CANARY}", "hold lists: begin each entry of `s3` with a dash"),
        (f"s3: {{secret_access_key: {CANARY}}}", "hold lists: begin each entry of `s3` with a dash"),
        ("s3: 7", "hold lists"),
        (f"s3: [{CANARY}]", "line 1, entry 1 of `s3`: credentials: Input should be a valid dictionary"),
        (f'gcs:\n  - service_account_file: \'{{"private_key": "{CANARY}"}}\'', "a path is expected"),
    ],
)
def test_a_mistake_in_the_file_is_told_without_a_secret(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        load(tmp_path, text)
    error: BaseException | None = caught.value
    assert str(tmp_path / "storage.yaml") in str(error)
    while error is not None:
        assert CANARY not in str(error)
        error = error.__cause__ if error.__cause__ is not None or error.__suppress_context__ else error.__context__


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/none.yaml: No such file"):
        load_credentials(tmp_path / "none.yaml")


def test_a_storage_without_buckets_loads_no_client_library() -> None:
    code = (
        "import sys, shardmill.storage as s\n"
        "s.Storage((s.S3Credentials(), s.GCSCredentials())).stat('file:///tmp')\n"
        "print(sorted({'obstore', 'boto3', 'google.auth', 'google.cloud', 'gcsfs', 's3fs'} & {*sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "[]\n"
