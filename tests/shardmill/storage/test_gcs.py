"""Every way to be somebody to Google Cloud Storage, against a server that enforces it."""

import json
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shardmill.errors import AccessDeniedError, ConfigurationError, ConflictError, StorageError
from shardmill.storage import GCSCredentials, Storage
from tests.servers import GCSServer, S3Server
from tests.servers.fixtures import StartProxy
from tests.shardmill.storage.conftest import PROMPT, SHORT, assert_reads, of_key, use

Key = dict[str, str]


@dataclass(frozen=True)
class Bucket:
    """A private bucket with an object `a`, a writer and a reader of its own."""

    server: GCSServer
    name: str
    writer: Key
    reader: Key

    @property
    def uri(self) -> str:
        return f"gs://{self.name}"

    def storage(self, **options: Any) -> Storage:
        return Storage((GCSCredentials(endpoint=self.server.url, **SHORT | options),))


@pytest.fixture(scope="module")
def bucket(gcs_server: GCSServer) -> Bucket:
    name = gcs_server.make_bucket(f"private-{uuid.uuid4().hex[:8]}")
    writer = gcs_server.account(f"writer-{name}", {name: "rw"})
    reader = gcs_server.account(f"reader-{name}", {name: "r"})
    of_key(writer, gcs_server.url).replace(f"gs://{name}/a", b"data", None)
    return Bucket(gcs_server, name, writer, reader)


@pytest.fixture
def leaver(bucket: Bucket) -> Key:
    """The key of an account that a test may revoke."""
    return bucket.server.account(f"leaver-{uuid.uuid4().hex[:8]}", {bucket.name: "rw"})


# Service accounts


def test_a_service_account_by_file(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(json.dumps(bucket.writer))
    use(bucket.storage(service_account_file=str(tmp_path / "key.json")), bucket.uri)


def test_a_service_account_by_its_key(bucket: Bucket) -> None:
    use(bucket.storage(service_account_json=json.dumps(bucket.writer)), bucket.uri)


def test_a_service_account_by_a_variable(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", json.dumps(bucket.writer))
    use(bucket.storage(service_account_json={"env": "LAB_KEY"}), bucket.uri)


def test_no_token_is_asked_for_twice(bucket: Bucket, leaver: Key) -> None:
    bucket.server.reset_requests()
    storage = of_key(leaver, bucket.server.url)
    for _ in range(3):
        use(storage, bucket.uri)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(storage.read, [f"{bucket.uri}/a"] * 32))
    assert bucket.server.requests["tokens"] == 1


def test_nothing_but_the_endpoint_and_the_token_server_is_asked(
    bucket: Bucket, leaver: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    asked: set[str] = set()
    look_up = socket.getaddrinfo

    def record(host: Any, *arguments: Any, **options: Any) -> Any:
        asked.add(str(host))
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", record)
    use(of_key(leaver, bucket.server.url), bucket.uri)
    time.sleep(0.2)
    assert asked <= {"127.0.0.1"}


def broken(key: Key, **changes: Any) -> str:
    return json.dumps({name: value for name, value in {**key, **changes}.items() if value is not None})


def test_a_key_that_is_none_is_told_without_its_text(bucket: Bucket, leaver: Key, tmp_path: Path) -> None:
    pem = leaver["private_key"]
    secret = pem.splitlines()[1]
    cases: list[tuple[str, type[Exception], str]] = [
        (f"{{{secret}", ConfigurationError, "not a service account's JSON key"),
        (f'["{secret}"]', ConfigurationError, "not a service account's JSON key"),
        (broken(leaver, client_email=None), ConfigurationError, "it lacks client_email"),
        (broken(leaver, private_key=None, token_uri=None), ConfigurationError, "it lacks private_key, token_uri"),
        (broken(leaver, private_key=pem[: len(pem) // 2]), ConfigurationError, "private_key .* cannot be read"),
        (broken(leaver, private_key=f"x{secret}"), ConfigurationError, "private_key .* cannot be read"),
        (broken(leaver, private_key=bucket.reader["private_key"]), AccessDeniedError, leaver["client_email"]),
        (broken(leaver, client_email="nobody@lab.iam.gserviceaccount.com"), AccessDeniedError, "nobody@lab"),
    ]
    for text, kind, says in cases:
        (tmp_path / "key.json").write_text(text)
        for given in ({"service_account_json": text}, {"service_account_file": str(tmp_path / "key.json")}):
            storage = bucket.storage(**given)
            for act in (lambda s=storage: s.read(f"{bucket.uri}/a"), lambda s=storage: list(s.list(bucket.uri))):
                started = time.monotonic()
                with pytest.raises(kind, match=says) as caught:
                    act()
                assert time.monotonic() - started < PROMPT
                assert secret not in str(caught.value)
                assert "\n" not in str(caught.value)


def test_a_missing_key_file_is_named(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/none.json: No such file"):
        bucket.storage(service_account_file=str(tmp_path / "none.json")).read(f"{bucket.uri}/a")


@pytest.mark.parametrize("permission", ["storage.objects.get", "storage.objects.list"])
def test_an_account_without_a_role_is_named_on_its_first_request(bucket: Bucket, permission: str) -> None:
    key = bucket.server.account(f"nobody-{uuid.uuid4().hex[:8]}", {})
    storage = of_key(key, bucket.server.url)
    with pytest.raises(AccessDeniedError, match=f"{key['client_email']} lacks the permission {permission}"):
        storage.read(f"{bucket.uri}/a") if permission.endswith("get") else list(storage.list(bucket.uri))


# Tokens


def test_tokens_that_expire_in_mid_use_are_fetched_anew(bucket: Bucket, leaver: Key) -> None:
    storage = of_key(leaver, bucket.server.url)
    for _ in range(3):
        use(storage, bucket.uri)
        bucket.server.expire_tokens()
    acts: list[Callable[[], object]] = [
        lambda: storage.read(f"{bucket.uri}/a"),
        lambda: list(storage.list(bucket.uri)),
        lambda: storage.stat(f"{bucket.uri}/a"),
        lambda: storage.stat(f"{bucket.uri}//a"),
        lambda: storage.check_writable(bucket.uri),
    ]
    for act in acts:
        bucket.server.expire_tokens()
        act()


def test_tokens_that_expire_under_many_threads_are_fetched_anew(bucket: Bucket, leaver: Key) -> None:
    storage = of_key(leaver, bucket.server.url)

    def read(number: int) -> bool:
        if number % 10 == 0:
            bucket.server.expire_tokens()
        if number % 3:
            return storage.read(f"{bucket.uri}/a") == b"data"
        return storage.stat(f"{bucket.uri}//a") is None

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(100)))


def test_tokens_of_ten_seconds_are_enough(bucket: Bucket, leaver: Key) -> None:
    bucket.server.token_seconds = 10
    try:
        storage = of_key(leaver, bucket.server.url)
        for _ in range(3):
            use(storage, bucket.uri)
            bucket.server.expire_tokens()
    finally:
        bucket.server.token_seconds = 3600


def test_a_revoked_account_is_refused_and_a_restored_one_works_with_the_same_storage(
    bucket: Bucket, leaver: Key
) -> None:
    storage = of_key(leaver, bucket.server.url)
    use(storage, bucket.uri)
    for _ in range(2):
        bucket.server.revoke(leaver["client_email"])
        acts: list[Callable[[], object]] = [
            lambda: storage.read(f"{bucket.uri}/a"),
            lambda: list(storage.list(bucket.uri)),
            lambda: storage.stat(f"{bucket.uri}/a"),
            lambda: storage.read(f"{bucket.uri}//a"),
            lambda: storage.replace(f"{bucket.uri}/b", b"x", None),
            lambda: storage.delete(f"{bucket.uri}/a"),
        ]
        for act in acts:
            started = time.monotonic()
            with pytest.raises(AccessDeniedError, match=leaver["client_email"]):
                act()
            assert time.monotonic() - started < PROMPT
        bucket.server.restore(leaver["client_email"])
        use(storage, bucket.uri)


def test_a_role_that_is_taken_and_given_back(bucket: Bucket, leaver: Key) -> None:
    storage = of_key(leaver, bucket.server.url)
    use(storage, bucket.uri)
    bucket.server.set_roles(leaver["client_email"], {bucket.name: "r"})
    with pytest.raises(AccessDeniedError, match=r"lacks the permission storage\.objects\.create"):
        storage.check_writable(bucket.uri)
    assert_reads(storage, bucket.uri)
    bucket.server.set_roles(leaver["client_email"], {bucket.name: "rw"})
    use(storage, bucket.uri)


def test_a_key_file_that_is_replaced_is_read_again(bucket: Bucket, leaver: Key, tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text(json.dumps(leaver))
    storage = bucket.storage(service_account_file=str(file))
    use(storage, bucket.uri)
    bucket.server.revoke(leaver["client_email"])
    file.write_text(json.dumps(bucket.writer))
    use(storage, bucket.uri)


def test_a_token_server_that_fails_now_and_then_costs_only_time(
    bucket: Bucket, leaver: Key, fault_proxy: StartProxy
) -> None:
    proxy = fault_proxy(bucket.server.url, rate=0.5, kinds=("reset", "503"))
    key = {**leaver, "token_uri": f"{proxy.url}/token"}
    for number in range(3):
        storage = of_key(key, bucket.server.url, request_seconds=3 + number)  # a store of its own each
        assert_reads(storage, bucket.uri)
        bucket.server.expire_tokens()
        assert_reads(storage, bucket.uri)
    assert proxy.counts["reset"] + proxy.counts["503"] > 0


def test_a_token_server_that_is_gone_is_an_error_within_the_deadline(
    bucket: Bucket, leaver: Key, fault_proxy: StartProxy
) -> None:
    proxy = fault_proxy(bucket.server.url)
    proxy.dead = True
    key = {**leaver, "token_uri": f"{proxy.url}/token"}
    storage = of_key(key, bucket.server.url, request_seconds=1, deadline_seconds=2)
    started = time.monotonic()
    with pytest.raises(StorageError, match=f"gave up .* no token for {leaver['client_email']}") as caught:
        storage.read(f"{bucket.uri}/a")
    assert time.monotonic() - started < PROMPT
    assert not isinstance(caught.value, AccessDeniedError)


# Impersonation


def test_impersonation_needs_permission(bucket: Bucket, leaver: Key) -> None:
    options: dict[str, Any] = {
        "service_account_json": json.dumps(leaver),
        "impersonate": bucket.reader["client_email"],
        "iam_endpoint": bucket.server.iam_url,
    }
    storage = bucket.storage(**options)
    with pytest.raises(AccessDeniedError, match=r"iam\.serviceAccounts\.getAccessToken") as caught:
        assert_reads(storage, bucket.uri)
    assert bucket.reader["client_email"] in str(caught.value)
    bucket.server.allow_impersonation(leaver["client_email"], bucket.reader["client_email"])
    assert_reads(storage, bucket.uri)
    with pytest.raises(AccessDeniedError, match=f"{bucket.reader['client_email']} lacks the permission"):
        storage.check_writable(bucket.uri)
    bucket.server.expire_tokens()
    assert_reads(storage, bucket.uri)


# Application default credentials


def test_application_default_credentials(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key.json").write_text(json.dumps(bucket.writer))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    use(bucket.storage(), bucket.uri)
    bucket.server.expire_tokens()
    use(bucket.storage(), bucket.uri)


@pytest.mark.parametrize("content", [None, "no json", "{}", '{"type": "service_account"}'])
def test_no_application_default_credentials_is_told_at_once(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is None:
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    else:
        (tmp_path / "key.json").write_text(content)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    storage = bucket.storage()
    for act in (lambda: storage.read(f"{bucket.uri}/a"), lambda: list(storage.list(bucket.uri))):
        started = time.monotonic()
        with pytest.raises(ConfigurationError, match=r"GOOGLE_APPLICATION_CREDENTIALS.*anonymous: true") as caught:
            act()
        assert time.monotonic() - started < PROMPT
        assert "\n" not in str(caught.value)


# Anonymous callers


def test_anyone_reads_a_public_bucket_and_nobody_writes_it(bucket: Bucket) -> None:
    public = bucket.server.make_bucket(f"public-{uuid.uuid4().hex[:8]}", public=True)
    owner = bucket.server.account(f"owner-{public}", {public: "rw"})
    of_key(owner, bucket.server.url).replace(f"gs://{public}/a", b"data", None)
    storage = bucket.storage(anonymous=True)
    assert_reads(storage, f"gs://{public}")
    assert storage.stat(f"gs://{public}//a") is None
    writes: list[Callable[[], object]] = [
        lambda: storage.check_writable(f"gs://{public}"),
        lambda: storage.replace(f"gs://{public}/b", b"x", None),
        lambda: storage.delete(f"gs://{public}/a"),
    ]
    for write in writes:
        started = time.monotonic()
        with pytest.raises(AccessDeniedError, match=r"an anonymous caller lacks the permission storage\.objects"):
            write()
        assert time.monotonic() - started < PROMPT


def test_anonymous_callers_lack_the_permission_on_a_private_bucket(bucket: Bucket) -> None:
    storage = bucket.storage(anonymous=True)
    acts: list[Callable[[], object]] = [
        lambda: storage.read(f"{bucket.uri}/a"),
        lambda: storage.stat(f"{bucket.uri}/a"),
        lambda: list(storage.list(bucket.uri)),
        lambda: storage.read(f"{bucket.uri}//a"),
    ]
    for act in acts:
        with pytest.raises(AccessDeniedError, match=r"an anonymous caller lacks the permission storage\.objects"):
            act()


def test_an_emulator_by_its_variable(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """STORAGE_EMULATOR_HOST, with an emulator that checks nobody and with one that does. The former takes no PUT."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.server.upstream_url)
    storage = Storage((GCSCredentials(anonymous=True, **SHORT),))
    assert_reads(storage, bucket.uri)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.server.url)
    use(Storage((GCSCredentials(service_account_json=json.dumps(bucket.writer), **SHORT),)), bucket.uri)


# Requester pays


def test_a_bucket_whose_requesters_pay_needs_a_project(bucket: Bucket, leaver: Key) -> None:
    pays = bucket.server.make_bucket(f"pays-{uuid.uuid4().hex[:8]}", requester_pays=True)
    bucket.server.set_roles(leaver["client_email"], {pays: "rw"})
    use(of_key(leaver, bucket.server.url, user_project=bucket.server.project), f"gs://{pays}")
    storage = of_key(leaver, bucket.server.url)
    for act in (
        lambda: storage.read(f"gs://{pays}/a"),
        lambda: list(storage.list(f"gs://{pays}")),
        lambda: storage.check_writable(f"gs://{pays}"),
        lambda: storage.stat(f"gs://{pays}/a"),
    ):
        started = time.monotonic()
        with pytest.raises(StorageError, match="user_project") as caught:
            act()
        assert time.monotonic() - started < PROMPT
        assert "\n" not in str(caught.value)


# HMAC keys


def test_hmac_keys_speak_to_the_bucket_by_its_s3_api(s3_server: S3Server, s3_bucket: str) -> None:
    """Google's S3 API is stood in for by SeaweedFS: the signature, the versions and the URIs are the same."""
    credentials = GCSCredentials(
        prefix=f"gs://{s3_bucket}",
        endpoint=s3_server.url,
        hmac_access_key_id=s3_server.writer.access_key_id,
        hmac_secret=s3_server.writer.secret_access_key,
        **SHORT,
    )
    storage = Storage((credentials,))
    uri = f"gs://{s3_bucket}/a"
    version = storage.replace(uri, b"data", None)
    with pytest.raises(ConflictError, match=uri):
        storage.replace(uri, b"other", None)
    assert storage.read_version(uri)[1].version == version
    assert_reads(storage, f"gs://{s3_bucket}")
    assert storage.store(uri).identity == f"access key {s3_server.writer.access_key_id}"
    wrong = Storage((credentials.model_copy(update={"hmac_access_key_id": "UNKNOWN"}),))
    with pytest.raises(AccessDeniedError, match="UNKNOWN"):
        wrong.read(uri)
