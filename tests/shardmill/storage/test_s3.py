"""Every way to be somebody to S3, against servers that enforce it: SeaweedFS, and moto for sessions and roles."""

import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shardmill.errors import AccessDeniedError, ConfigurationError, StorageError
from shardmill.storage import ObjectInfo, S3Credentials, Storage, s3, s3_credentials
from tests.servers import S3Keys, S3Server, STSServer
from tests.servers.fixtures import StartProxy
from tests.shardmill.storage.conftest import PROMPT, SHORT, assert_reads, of_keys, use


@pytest.fixture(autouse=True)
def no_settings_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    """URI of a bucket with an object `a`."""
    name = s3_server.make_bucket(f"private-{uuid.uuid4().hex[:8]}")
    s3_server.client().put_object(Bucket=name, Key="a", Body=b"data")
    return f"s3://{name}"


def of(server: S3Server | STSServer, **given: Any) -> Storage:
    return Storage((S3Credentials(endpoint=server.url, **{"region": server.region} | SHORT | given),))


def reads(storage: Storage, folder: str) -> list[Callable[[], object]]:
    """Every verb that reads; lists by both client libraries, and asks for an object's head."""
    return [
        lambda: storage.read(f"{folder}/a"),
        lambda: storage.stat(f"{folder}/a"),
        lambda: storage.open(f"{folder}/a"),
        lambda: list(storage.list(folder)),
        lambda: list(storage.list(f"{folder}/below")),
        lambda: storage.read(f"{folder}/a\n"),
    ]


def assert_denied(acts: list[Callable[[], object]], *says: str) -> None:
    for act in acts:
        started = time.monotonic()
        with pytest.raises(AccessDeniedError) as caught:
            act()
        assert time.monotonic() - started < PROMPT
        assert all(each in str(caught.value) for each in says), str(caught.value)
        assert "\n" not in str(caught.value)


# Keys


def test_keys(s3_server: S3Server, bucket: str) -> None:
    use(of_keys(s3_server.writer, s3_server.url), bucket)


def test_a_reader_reads_and_lacks_the_permission_to_write(s3_server: S3Server, bucket: str) -> None:
    storage = of_keys(s3_server.reader, s3_server.url)
    assert_reads(storage, bucket)
    assert_denied([lambda: storage.check_writable(bucket)], bucket, "LABREADER", "s3:PutObject")


def test_keys_for_another_bucket_lack_the_permission(s3_server: S3Server, bucket: str) -> None:
    keys = s3_server.identity(f"other{uuid.uuid4().hex[:6]}", "Read:public", "List:public")
    storage = of_keys(keys, s3_server.url)
    assert_denied(reads(storage, bucket), bucket, keys.access_key_id, "lacks the permission s3:")


def test_a_wrong_secret_and_an_unknown_key_are_not_accepted(s3_server: S3Server, bucket: str) -> None:
    secret = "canary-secret-51e2"
    for key in (s3_server.writer.access_key_id, "UNKNOWN"):
        storage = of_keys(S3Keys(key, secret), s3_server.url)
        assert_denied(reads(storage, bucket), bucket, key, "does not accept the credentials")
        assert_denied([lambda s=storage: s.replace(f"{bucket}/b", b"", None)], "does not accept the credentials")  # type: ignore[misc]
        for act in reads(storage, bucket):
            with pytest.raises(AccessDeniedError) as caught:
                act()
            assert secret not in str(caught.value)


def test_revoked_keys_are_refused_and_work_again_with_the_same_storage(s3_server: S3Server, bucket: str) -> None:
    keys = s3_server.identity(f"leaver{uuid.uuid4().hex[:6]}", "Read", "List", "Write")
    storage = of_keys(keys, s3_server.url)
    use(storage, bucket)
    for _ in range(2):
        s3_server.revoke(keys)
        assert_denied(reads(storage, bucket), bucket, keys.access_key_id, "does not accept the credentials")
        s3_server.allow(keys)
        use(storage, bucket)


def test_a_secret_that_changes_in_the_environment_is_read_again(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_S3_SECRET", "outdated-secret")
    storage = of(s3_server, access_key_id=s3_server.writer.access_key_id, secret_access_key={"env": "LAB_S3_SECRET"})
    assert_denied(reads(storage, bucket), "does not accept the credentials")
    monkeypatch.setenv("LAB_S3_SECRET", s3_server.writer.secret_access_key)
    use(storage, bucket)


# Anonymous callers


def test_anyone_reads_the_public_bucket_and_nobody_writes_it(s3_server: S3Server, bucket: str) -> None:
    s3_server.client().put_object(Bucket="public", Key="a", Body=b"data")
    storage = of(s3_server, anonymous=True)
    assert_reads(storage, "s3://public")
    assert storage.stat("s3://public/missing") is None
    writes: list[Callable[[], object]] = [
        lambda: storage.check_writable("s3://public"),
        lambda: storage.replace("s3://public/b", b"x", None),
        lambda: storage.delete("s3://public/a"),
    ]
    assert_denied(writes, "s3://public", "an anonymous caller lacks the permission s3:")
    assert_denied(reads(storage, bucket), bucket, "an anonymous caller lacks the permission s3:")


# What botocore finds


def test_keys_of_the_environment(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.writer.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.writer.secret_access_key)
    storage = of(s3_server)
    use(storage, bucket)
    assert storage.store(bucket).identity == "the default AWS credentials, access key LABWRITER"


def test_the_environment_gives_endpoint_and_region_too(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.writer.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.writer.secret_access_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("AWS_REGION", s3_server.region)
    use(Storage((S3Credentials(prefix=bucket, **SHORT),)), bucket)


def test_a_profile(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile lab]\nregion = us-east-1\n")
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id = {s3_server.writer.access_key_id}\n"
        f"aws_secret_access_key = {s3_server.writer.secret_access_key}\n"
    )
    storage = of(s3_server, profile="lab", region=None)
    use(storage, bucket)
    assert storage.store(bucket).identity == "profile lab, access key LABWRITER"


def test_a_profile_that_is_mended_is_read_again(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    text = "[lab]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
    (tmp_path / "credentials").write_text(text.format("OUTDATED", "outdated-secret"))
    storage = of(s3_server, profile="lab")
    assert_denied(reads(storage, bucket), "profile lab, access key OUTDATED")
    keys = s3_server.writer
    (tmp_path / "credentials").write_text(text.format(keys.access_key_id, keys.secret_access_key))
    use(storage, bucket)


def test_a_missing_profile_is_named(s3_server: S3Server, bucket: str) -> None:
    storage = of(s3_server, profile="nobody", region=None)
    for act in reads(storage, bucket):
        with pytest.raises(ConfigurationError, match="nobody"):
            act()


def test_no_credentials_at_all_is_told_quickly(s3_server: S3Server, bucket: str) -> None:
    storage = of(s3_server)
    for act in reads(storage, bucket):
        started = time.monotonic()
        with pytest.raises(ConfigurationError, match=r"no AWS credentials for s3://.*anonymous: true"):
            act()
        assert time.monotonic() - started < PROMPT


def test_metadata_servers_are_asked_only_where_nothing_else_is_given(
    s3_server: S3Server, bucket: str, fault_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = fault_proxy(s3_server.url, rate=1.0, kinds=("500",))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
    use(of(s3_server, access_key_id="LABWRITER", secret_access_key=s3_server.writer.secret_access_key), bucket)
    s3_server.client().put_object(Bucket="public", Key="a", Body=b"data")
    assert_reads(of(s3_server, anonymous=True), "s3://public")
    assert metadata.log == []
    with pytest.raises(ConfigurationError, match="no AWS credentials"):
        of(s3_server, prefix=bucket).read(f"{bucket}/a")
    assert metadata.log != []


# Sessions and roles


def role(sts_server: STSServer, keys: S3Keys, **given: Any) -> Storage:
    return of(
        sts_server,
        access_key_id=keys.access_key_id,
        secret_access_key=keys.secret_access_key,
        **{"role_arn": sts_server.role_arn, "sts_endpoint": sts_server.url} | given,
    )


def test_a_session_token(sts_server: STSServer) -> None:
    client = sts_server.client("sts", sts_server.keys)
    keys = client.assume_role(RoleArn=sts_server.role_arn, RoleSessionName="test")["Credentials"]
    given = {"access_key_id": keys["AccessKeyId"], "secret_access_key": keys["SecretAccessKey"]}
    use(of(sts_server, **given, session_token=keys["SessionToken"]), "s3://role-only/session")


def test_only_the_role_may_read_its_bucket(sts_server: STSServer) -> None:
    use(role(sts_server, sts_server.keys), "s3://role-only/role")
    own = role(sts_server, sts_server.keys, role_arn=None)
    assert_denied([lambda: own.read("s3://role-only/a")], sts_server.keys.access_key_id, "s3:GetObject")


def test_a_stranger_may_not_assume_the_role(sts_server: STSServer) -> None:
    storage = role(sts_server, sts_server.stranger)
    says = ("cannot assume", sts_server.role_arn, sts_server.stranger.access_key_id, "sts:AssumeRole")
    assert_denied(reads(storage, "s3://role-only"), *says)
    unknown = role(sts_server, S3Keys("UNKNOWN", "canary-secret"))
    assert_denied(reads(unknown, "s3://role-only"), "cannot assume", "UNKNOWN")


def test_a_role_of_a_profile(sts_server: STSServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(
        f"[profile lab]\nregion = us-east-1\nrole_arn = {sts_server.role_arn}\nsource_profile = base\n"
        "[profile base]\nregion = us-east-1\n"
    )
    keys = f"aws_access_key_id = {sts_server.keys.access_key_id}\naws_secret_access_key = "
    (tmp_path / "credentials").write_text(f"[base]\n{keys}{sts_server.keys.secret_access_key}\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts_server.url)
    use(of(sts_server, profile="lab"), "s3://role-only/profile")


def assumptions(proxy: Any) -> int:
    return sum(each.method == "POST" and each.target == "/" for each in proxy.log)


def test_a_session_of_a_role_is_used_until_shortly_before_its_end(
    sts_server: STSServer, fault_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = fault_proxy(sts_server.url)
    storage = role(sts_server, sts_server.keys, sts_endpoint=proxy.url)
    use(storage, "s3://role-only/once")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(storage.stat, ["s3://role-only/a"] * 16))
    assert assumptions(proxy) == 1
    monkeypatch.setattr(s3_credentials, "RENEW_BEFORE", timedelta(hours=2))
    storage.stat("s3://role-only/a")
    assert assumptions(proxy) > 1
    monkeypatch.undo()
    use(storage, "s3://role-only/renewed")


def test_a_role_server_that_fails_now_and_then_costs_only_time(sts_server: STSServer, fault_proxy: StartProxy) -> None:
    proxy = fault_proxy(sts_server.url, rate=0.6, kinds=("reset", "503", "truncate"))
    for number in range(4):
        use(role(sts_server, sts_server.keys, sts_endpoint=proxy.url, request_seconds=3 + number), "s3://role-only/now")
    assert len(proxy.log) > 4


def test_a_role_server_that_is_gone_is_an_error_within_the_deadline(
    sts_server: STSServer, fault_proxy: StartProxy
) -> None:
    proxy = fault_proxy(sts_server.url)
    proxy.dead = True
    options = {"sts_endpoint": proxy.url, "request_seconds": 1, "deadline_seconds": 2}
    storage = role(sts_server, sts_server.keys, **options)
    started = time.monotonic()
    with pytest.raises(StorageError, match="gave up after 2 s") as caught:
        storage.read("s3://role-only/a")
    assert time.monotonic() - started < PROMPT
    assert not isinstance(caught.value, AccessDeniedError)


def test_an_anonymous_caller_does_not_use_the_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_server.client().put_object(Bucket="public", Key="seen", Body=b"data")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    storage = Storage((S3Credentials(endpoint=s3_server.url, anonymous=True, **SHORT),))
    assert storage.read("s3://public/seen") == b"data"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "LABNOBODY")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary")
    assert "s3://public/seen" in {info.uri for info in storage.list("s3://public")}


# What SeaweedFS never answers, and S3 does


@pytest.fixture
def answering() -> Iterator[Callable[[int, str], str]]:
    """`answering(403, body)` is the URL of a server that answers just that, whatever it is asked."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                data = body.format(token=self.headers.get("x-amz-security-token")).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_HEAD = do_PUT = do_DELETE = answer

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def at(endpoint: str, **given: Any) -> Storage:
    keys = {"access_key_id": "A", "secret_access_key": "canary-secret", "session_token": "canary-token"}
    return Storage((S3Credentials(endpoint=endpoint, region="us-east-1", **{**keys, **SHORT, **given}),))


def test_an_answer_that_quotes_the_token_stays_out_of_the_error(answering: Callable[[int, str], str]) -> None:
    body = "<Error><Code>SignatureDoesNotMatch</Code><Quoted>x-amz-security-token:{token}</Quoted></Error>"
    storage = at(answering(403, body))
    for act in (
        lambda: storage.read("s3://b/a"),
        lambda: storage.read("s3://b/a\n"),
        lambda: list(storage.list("s3://b")),
        lambda: storage.replace("s3://b/a", b"", None),
    ):
        with pytest.raises(AccessDeniedError) as caught:
            act()
        told = "".join(traceback.format_exception(caught.value))
        assert "access key A" in told
        assert "canary" not in told
        assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (301, "PermanentRedirect", "the bucket is in another region; give its `region`"),
        (400, "AuthorizationHeaderMalformed", "the bucket is in another region; give its `region`"),
        (403, "RequestTimeTooSkewed", "this machine's clock is wrong"),
        (501, "NotImplemented", "the server lacks something that Shardmill needs"),
    ],
)
def test_what_no_other_try_can_mend_is_said_at_once(
    answering: Callable[[int, str], str], status: int, code: str, says: str
) -> None:
    storage = at(answering(status, f"<Error><Code>{code}</Code></Error>"))
    started = time.monotonic()
    with pytest.raises(StorageError, match=says):
        storage.read("s3://b/a")
    assert time.monotonic() - started < SHORT["deadline_seconds"] / 2


def test_virtual_addressing_puts_the_bucket_before_the_host_of_an_endpoint() -> None:
    storage = at("https://s3.example.org:9000", addressing="virtual")
    client = storage.store("s3://b/a").connect("b", {})  # type: ignore[attr-defined]
    assert client.config["endpoint"] == "https://b.s3.example.org:9000"


def test_a_server_that_never_ends_a_listing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    page = [ObjectInfo(f"s3://b/{number}", 1, "v", 0.0) for number in range(3)]
    monkeypatch.setattr(s3.S3Store, "page", lambda *_: (page, False))
    with pytest.raises(StorageError, match="cannot list s3://b: the server begins anew"):
        list(at("http://127.0.0.1:9").list("s3://b"))
