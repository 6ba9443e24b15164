"""The servers enforce what they promise, and the proxy breaks what it is told to."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import (
    AlreadyExistsError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import GCSStore, S3Store

from tests.servers import GCSServer, PubSubServer, S3Keys, S3Server, SQSServer, STSServer
from tests.servers.fixtures import StartProxy
from tests.servers.postgres import PostgresServer, installed
from tests.servers.processes import accepts

HTTP = {"allow_http": True}
ONCE = {"max_retries": 0}


def gcs_store(url: str, bucket: str, key: dict[str, str]) -> GCSStore:
    config = {"service_account_key": json.dumps(key), "base_url": url}
    return GCSStore(bucket, config=config, client_options=HTTP, retry_config=ONCE)


def s3_store(url: str, bucket: str, keys: S3Keys) -> S3Store:
    return S3Store(
        bucket,
        endpoint=url,
        region=S3Server.region,
        access_key_id=keys.access_key_id,
        secret_access_key=keys.secret_access_key,
        client_options=HTTP,
        retry_config=ONCE,
    )


@pytest.fixture(params=["gcs", "s3"])
def stores(request: pytest.FixtureRequest) -> tuple[Any, Any, str]:
    """A writer's and a reader's store on one bucket, and the server's URL."""
    bucket = request.getfixturevalue(f"{request.param}_bucket")
    server = request.getfixturevalue(f"{request.param}_server")
    if request.param == "s3":
        return (
            s3_store(server.url, bucket, server.writer),
            s3_store(server.url, bucket, server.reader),
            server.url,
        )
    writer = server.account(f"writer-{bucket}", {bucket: "rw"})
    reader = server.account(f"reader-{bucket}", {bucket: "r"})
    return gcs_store(server.url, bucket, writer), gcs_store(server.url, bucket, reader), server.url


def test_reader_cannot_write(stores: tuple[Any, Any, str]) -> None:
    writer, reader, _ = stores
    writer.put("a", b"1")
    assert reader.get("a").bytes() == b"1"
    with pytest.raises(PermissionDeniedError):
        reader.put("b", b"2")
    with pytest.raises((PermissionDeniedError, GenericError), match="Denied"):
        reader.delete("a")
    assert [each["path"] for each in writer.list().collect()] == ["a"]


def test_one_of_sixteen_racing_creates_wins(stores: tuple[Any, Any, str]) -> None:
    writer, _, _ = stores

    def create(number: int) -> bool:
        try:
            writer.put("race", str(number).encode(), mode="create")
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        won = list(threads.map(create, range(16)))
    assert sum(won) == 1
    assert int(writer.get("race").bytes().to_bytes()) == won.index(True)


def test_e_tag_is_the_same_wherever_it_is_told(stores: tuple[Any, Any, str]) -> None:
    writer, reader, _ = stores
    put = writer.put("a/ü b.jpg", b"data")["e_tag"]
    found = reader.get("a/ü b.jpg")
    assert {put, reader.list().collect()[0]["e_tag"], reader.head("a/ü b.jpg")["e_tag"], found.meta["e_tag"]} == {put}


def test_ranges_hold_to_if_match(stores: tuple[Any, Any, str]) -> None:
    writer, reader, _ = stores
    e_tag = writer.put("a", b"0123456789")["e_tag"]
    part = reader.get("a", options={"range": (2, 5), "if_match": e_tag})
    assert (part.bytes(), part.range, part.meta["size"]) == (b"234", (2, 5), 10)
    writer.put("a", b"9876543210")
    with pytest.raises(PreconditionError):
        reader.get("a", options={"range": (2, 5), "if_match": e_tag})


def test_multipart_uploads_are_whole(stores: tuple[Any, Any, str]) -> None:
    writer, reader, _ = stores
    data = os.urandom(6 << 20)
    writer.put("big", data, chunk_size=5 << 20, use_multipart=True)
    assert reader.get("big").bytes().to_bytes() == data


def test_s3_refuses_wrong_and_revoked_keys(s3_server: S3Server, s3_bucket: str) -> None:
    keys = s3_server.identity("leaver", f"Read:{s3_bucket}", f"List:{s3_bucket}")
    wrong = s3_store(s3_server.url, s3_bucket, S3Keys(keys.access_key_id, "wrong"))
    with pytest.raises(GenericError, match="SignatureDoesNotMatch"):
        wrong.list().collect()
    store = s3_store(s3_server.url, s3_bucket, keys)
    assert store.list().collect() == []
    s3_server.revoke(keys)
    with pytest.raises(GenericError, match="InvalidAccessKeyId"):
        store.list().collect()
    s3_server.allow(keys)
    assert store.list().collect() == []


def test_s3_anonymous_may_read_public_only(s3_server: S3Server, s3_bucket: str) -> None:
    def store(bucket: str) -> S3Store:
        options: dict[str, Any] = {"endpoint": s3_server.url, "region": s3_server.region, "retry_config": ONCE}
        return S3Store(bucket, skip_signature=True, client_options=HTTP, **options)

    store("public").list().collect()
    with pytest.raises(PermissionDeniedError):
        store("public").put("a", b"1")
    with pytest.raises(GenericError, match="AccessDenied"):
        store(s3_bucket).list().collect()


def test_gcs_refuses_wrong_and_revoked_keys(gcs_server: GCSServer, gcs_bucket: str) -> None:
    key = gcs_server.account(f"leaver-{gcs_bucket}", {gcs_bucket: "rw"})
    other = gcs_server.account(f"other-{gcs_bucket}", {})
    with pytest.raises(UnauthenticatedError):
        gcs_store(gcs_server.url, gcs_bucket, {**key, "private_key": other["private_key"]}).put("a", b"1")
    store = gcs_store(gcs_server.url, gcs_bucket, key)
    store.put("a", b"1")
    gcs_server.revoke(key["client_email"])
    with pytest.raises(UnauthenticatedError):
        store.head("a")
    gcs_server.restore(key["client_email"])
    store.head("a")
    gcs_server.set_roles(key["client_email"], {gcs_bucket: "w"})
    with pytest.raises(PermissionDeniedError):
        store.head("a")


def test_gcs_tokens_expire(gcs_server: GCSServer, gcs_bucket: str) -> None:
    from google.auth.exceptions import RefreshError
    from google.auth.transport.requests import Request
    from google.oauth2 import service_account

    scopes = ["https://www.googleapis.com/auth/devstorage.read_write"]
    key = gcs_server.account(f"token-{gcs_bucket}", {gcs_bucket: "rw"})
    credentials = service_account.Credentials.from_service_account_info(key, scopes=scopes)

    def provide() -> dict[str, Any]:
        credentials.refresh(Request())
        return {"token": credentials.token, "expires_at": credentials.expiry.replace(tzinfo=UTC)}

    def store() -> GCSStore:
        config = {"base_url": gcs_server.url}
        return GCSStore(gcs_bucket, config=config, credential_provider=provide, client_options=HTTP, retry_config=ONCE)

    first = store()
    first.put("a", b"1")
    gcs_server.expire_tokens()
    with pytest.raises(UnauthenticatedError):
        first.head("a")
    store().head("a")
    gcs_server.revoke(key["client_email"])
    with pytest.raises(RefreshError, match="invalid_grant"):
        provide()


def test_gcs_requester_pays(gcs_server: GCSServer, gcs_bucket: str) -> None:
    bucket = gcs_server.make_bucket(f"{gcs_bucket}-pays", requester_pays=True)
    key = gcs_server.account(f"payer-{gcs_bucket}", {bucket: "rw"})
    with pytest.raises(GenericError, match="UserProjectMissing"):
        gcs_store(gcs_server.url, bucket, key).put("a", b"1")
    options = {**HTTP, "default_headers": {"x-goog-user-project": gcs_server.project}}
    config = {"service_account_key": json.dumps(key), "base_url": gcs_server.url}
    GCSStore(bucket, config=config, client_options=options).put("a", b"1")


def test_gcs_impersonation_needs_permission(gcs_server: GCSServer, gcs_bucket: str) -> None:
    from google.auth import impersonated_credentials
    from google.auth.exceptions import RefreshError
    from google.auth.transport.requests import Request
    from google.oauth2 import service_account

    scope = "https://www.googleapis.com/auth/"
    key = gcs_server.account(f"source-{gcs_bucket}", {})
    target = gcs_server.account(f"target-{gcs_bucket}", {gcs_bucket: "r"})["client_email"]
    source = service_account.Credentials.from_service_account_info(key, scopes=[scope + "cloud-platform"])
    url = f"{gcs_server.iam_url}/v1/projects/-/serviceAccounts/{target}:generateAccessToken"
    credentials = impersonated_credentials.Credentials(
        source, target, [scope + "devstorage.read_only"], iam_endpoint_override=url
    )
    with pytest.raises(RefreshError, match="getAccessToken"):
        credentials.refresh(Request())
    gcs_server.allow_impersonation(key["client_email"], target)
    credentials.refresh(Request())
    expires = credentials.expiry.replace(tzinfo=UTC)
    store = GCSStore(
        gcs_bucket,
        config={"base_url": gcs_server.url},
        credential_provider=lambda: {"token": credentials.token, "expires_at": expires},
        client_options=HTTP,
        retry_config=ONCE,
    )
    assert store.list().collect() == []
    with pytest.raises(PermissionDeniedError):
        store.put("a", b"1")


NAMES = [
    "ü n\U0001f600",
    "a#b?c%2F+d&e;=%20",
    "x*[y]{z}",
    ".hidden",
    "a/..",
    "a/../b",
    "a//b",
    "/leading",
    "trailing/",
    "line\nbreak",
    "q\"<>'\\",
    "n" * 1024,
]


def test_gcs_keeps_any_name(gcs_server: GCSServer, gcs_bucket: str) -> None:
    from google.cloud import storage

    key = gcs_server.account(f"names-{gcs_bucket}", {gcs_bucket: "rw"})
    options = {"api_endpoint": gcs_server.url}
    bucket = storage.Client.from_service_account_info(key, client_options=options).bucket(gcs_bucket)
    for name in NAMES:
        bucket.blob(name).upload_from_string(name.encode())
    listed = {blob.name: blob for blob in bucket.list_blobs()}
    assert list(listed) == sorted(NAMES, key=str.encode)
    assert [listed[name].download_as_bytes() for name in NAMES] == [name.encode() for name in NAMES]
    assert gcs_server.requests["operations"]["json.objects.list"] > 0


def test_sts_lets_only_the_user_assume_and_only_the_role_read(sts_server: STSServer) -> None:
    from botocore.exceptions import ClientError

    def assume(keys: S3Keys) -> dict[str, str]:
        sts = sts_server.client("sts", keys)
        credentials: dict[str, str] = sts.assume_role(RoleArn=sts_server.role_arn, RoleSessionName="test")[
            "Credentials"
        ]
        return credentials

    with pytest.raises(ClientError, match="not authorized to perform: sts:AssumeRole"):
        assume(sts_server.stranger)
    with pytest.raises(ClientError, match="Access Denied"):
        sts_server.client("s3", sts_server.keys).list_objects_v2(Bucket=sts_server.bucket)
    role = assume(sts_server.keys)
    keys = S3Keys(role["AccessKeyId"], role["SecretAccessKey"])
    s3 = sts_server.client("s3", keys, role["SessionToken"])
    s3.put_object(Bucket=sts_server.bucket, Key="a", Body=b"1")
    assert s3.get_object(Bucket=sts_server.bucket, Key="a")["Body"].read() == b"1"


def attempts(store: Any, count: int) -> list[bool]:
    """Whether each of some reads of `a` succeeded."""

    def read(_: int) -> bool:
        try:
            return bool(store.get("a").bytes() == b"0123456789")
        except obstore.exceptions.BaseError:
            return False

    return [read(number) for number in range(count)]


def test_sqs_announces_what_changes_to_those_who_may_read_it(sqs_server: SQSServer) -> None:
    place = sqs_server.announcing()
    s3, sqs = (sqs_server.client(service, sqs_server.keys) for service in ("s3", "sqs"))
    s3.put_object(Bucket=place.bucket, Key="a b", Body=b"data")
    bodies = [
        json.loads(each["Body"])
        for each in sqs.receive_message(QueueUrl=place.queue, MaxNumberOfMessages=10)["Messages"]
    ]
    assert bodies[0]["Event"] == "s3:TestEvent"
    assert [body["Records"][0]["s3"]["object"]["key"] for body in bodies[1:]] == ["a+b"]
    for keys in (sqs_server.stranger, replace(sqs_server.keys, secret_access_key="wrong")):
        with pytest.raises(Exception, match="403"):
            sqs_server.client("sqs", keys).receive_message(QueueUrl=place.queue)


def test_pubsub_gives_a_message_again_until_it_is_acknowledged(gcs_server: GCSServer) -> None:
    from google.auth.transport.requests import AuthorizedSession
    from google.oauth2 import service_account

    name = "projects/lab/subscriptions/s"
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    key = gcs_server.account("subscriber", {})
    with PubSubServer(gcs_server.url) as server:
        server.subscribe(name)
        server.publish(name, {"objectId": "a"}, b"data")
        session = AuthorizedSession(service_account.Credentials.from_service_account_info(key, scopes=scopes))

        def ask(verb: str, **content: Any) -> Any:
            return session.post(f"{server.url}/v1/{name}:{verb}", json=content).json()

        first = ask("pull", maxMessages=10)["receivedMessages"]
        assert [each["message"]["attributes"] for each in first] == [{"objectId": "a"}]
        assert ask("pull", maxMessages=10) == {}
        server.let_pass(11)
        [again] = ask("pull", maxMessages=10)["receivedMessages"]
        assert again["ackId"] != first[0]["ackId"]
        ask("modifyAckDeadline", ackIds=[again["ackId"]], ackDeadlineSeconds=600)
        server.let_pass(300)
        assert ask("pull", maxMessages=10) == {}
        ask("acknowledge", ackIds=[again["ackId"]])
        server.let_pass(700)
        assert ask("pull", maxMessages=10) == {}
        session.credentials.token = "forged"
        gcs_server.revoke(key["client_email"])
        with pytest.raises(Exception, match="invalid_grant"):  # 401, and then no new token
            ask("pull", maxMessages=10)


@pytest.mark.parametrize("kind", ["reset", "500", "503", "429", "truncate"])
def test_faults_occur(kind: str, s3_server: S3Server, s3_bucket: str, fault_proxy: StartProxy) -> None:
    s3_store(s3_server.url, s3_bucket, s3_server.writer).put("a", b"0123456789")
    proxy = fault_proxy(s3_server.url, rate=1.0, kinds=(kind,))
    store = s3_store(proxy.url, s3_bucket, s3_server.reader)
    assert not any(attempts(store, 6))
    assert proxy.counts[kind] == 6
    proxy.rate = 0.0
    assert all(attempts(store, 6))


def test_the_same_seed_gives_the_same_faults(s3_server: S3Server, s3_bucket: str, fault_proxy: StartProxy) -> None:
    s3_store(s3_server.url, s3_bucket, s3_server.writer).put("a", b"0123456789")
    runs = []
    for seed in (1, 1, 2):
        proxy = fault_proxy(s3_server.url, rate=0.5, seed=seed, kinds=("reset", "500", "truncate"))
        attempts(s3_store(proxy.url, s3_bucket, s3_server.reader), 20)
        runs.append([exchange.fault for exchange in proxy.log])
    assert runs[0] == runs[1] != runs[2]


def test_a_reset_can_come_after_the_write_took_effect(
    gcs_server: GCSServer, gcs_bucket: str, fault_proxy: StartProxy
) -> None:
    key = gcs_server.account(f"lost-{gcs_bucket}", {gcs_bucket: "rw"})
    proxy = fault_proxy(gcs_server.url, rate=1.0, kinds=("reset",))
    broken, direct = (gcs_store(url, gcs_bucket, key) for url in (proxy.url, gcs_server.url))
    for number in range(12):
        with pytest.raises(GenericError):
            broken.put(str(number), b"1")
    assert 0 < len(direct.list().collect()) < 12


def test_slow_and_stalled_answers_are_whole(s3_server: S3Server, s3_bucket: str, fault_proxy: StartProxy) -> None:
    s3_store(s3_server.url, s3_bucket, s3_server.writer).put("a", b"0123456789")
    proxy = fault_proxy(s3_server.url, rate=1.0, kinds=("slow",), stall_seconds=0.4, slow_seconds=0.6)
    store = s3_store(proxy.url, s3_bucket, s3_server.reader)
    for kind, seconds in (("slow", 0.5), ("stall", 0.4)):
        proxy.kinds = (kind,)
        started = time.monotonic()
        assert attempts(store, 1) == [True]
        assert time.monotonic() - started >= seconds


def test_a_dead_proxy_resets_and_refuses_by_credential(
    s3_server: S3Server, s3_bucket: str, fault_proxy: StartProxy
) -> None:
    s3_store(s3_server.url, s3_bucket, s3_server.writer).put("a", b"0123456789")
    proxy = fault_proxy(s3_server.url)
    store = s3_store(proxy.url, s3_bucket, s3_server.reader)
    proxy.dead = True
    assert attempts(store, 2) == [False, False]
    proxy.dead = False
    proxy.refuse(s3_server.reader.access_key_id)
    with pytest.raises(GenericError, match="InvalidAccessKeyId"):
        store.list().collect()
    proxy.allow(s3_server.reader.access_key_id)
    assert attempts(store, 1) == [True]


@pytest.mark.skipif(installed() is None, reason="no PostgreSQL server on this machine: install Debian's postgresql")
def test_postgres_keeps_what_was_committed_through_a_kill_and_leaves_no_process() -> None:
    import psutil
    import psycopg2

    with PostgresServer() as server:
        database = server.make_database("kept")
        stranger = replace(database, password="wrong")
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(stranger.url)
        connection = psycopg2.connect(database.url)
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE numbers AS SELECT 1 AS number")
        connection.commit()
        cursor.execute("INSERT INTO numbers VALUES (2)")  # not committed
        server.kill()
        with pytest.raises(psycopg2.OperationalError):
            cursor.execute("SELECT 1")
        connection.close()
        server.restart()
        connection = psycopg2.connect(database.url)
        cursor = connection.cursor()
        cursor.execute("SELECT * FROM numbers")
        assert cursor.fetchall() == [(1,)]
        folder = str(server._folder)
        assert running_in(psutil.process_iter(["cwd"]), folder)
    connection.close()
    deadline = time.monotonic() + 60
    while running_in(psutil.process_iter(["cwd"]), folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not Path(folder).exists()


def running_in(processes: Iterable[Any], folder: str) -> list[Any]:
    return [process for process in processes if (process.info["cwd"] or "").startswith(folder)]


def test_servers_do_not_outlive_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import time; from tests.servers import GCSServer\n"
        "with GCSServer() as server: print(server.url, flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        assert accepts(port)
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 60
    while accepts(port):
        assert time.monotonic() < deadline
        time.sleep(0.02)
