from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from shardmill.storage import GCSCredentials, S3Credentials, Storage
from shardmill.storage.check import check_storage, impatient
from shardmill.storage.object_store import UPLOAD_PART_BYTES
from tests.servers import S3Keys, S3Server
from tests.servers.fixtures import StartProxy
from tests.shardmill.storage.conftest import Place, of_keys

ALL = ["list", "read", "write", "replace", "delete"]


def check(place: Place, storage: Storage, source_only: bool = False) -> dict[str, str | None]:
    """Verb → problem; nothing of the check is left behind."""
    before = {info.uri for info in place.storage.list(place.folder)}
    findings = {finding.verb: finding.problem for finding in check_storage(storage, place.folder, source_only)}
    assert everything(place) == before
    return findings


def everything(place: Place) -> set[str]:
    """What stands in the folder, our own probes too."""
    files = place.storage.filesystem(place.folder)
    files.invalidate_cache()
    scheme = place.folder.partition("://")[0]
    found = {f"{scheme}://{name.removeprefix(f'{scheme}://')}" for name in files.find(place.folder)}
    return found - {place.folder}  # SeaweedFS keeps a folder for a while when its last object is gone


def test_a_writer_may_do_everything(any_place: Place) -> None:
    assert check(any_place, any_place.storage) == dict.fromkeys(ALL)
    any_place.put(any_place.uri("a"), b"")
    assert check(any_place, any_place.storage) == dict.fromkeys(ALL)
    assert check(any_place, any_place.storage, source_only=True) == {"list": None, "read": None}


def test_a_reader_may_be_a_source_and_is_told_what_it_lacks(place: Place) -> None:
    for content in (None, b"", b"data"):
        if content is not None:
            place.put(place.uri("a"), content)
        reader = Storage(place.reader)
        assert check(place, reader, source_only=True) == {"list": None, "read": None}
        findings = check(place, reader)
        assert (findings["list"], findings["read"]) == (None, None)
        permission = {"gcs": "storage.objects.create", "s3": "s3:PutObject"}[place.kind]
        assert permission in str(findings["write"])
        assert "replace" not in findings


def test_wrong_keys_may_do_nothing(s3_place: Place, s3_server: S3Server) -> None:
    storage = of_keys(S3Keys(s3_server.writer.access_key_id, "canary-secret"), s3_server.url)
    findings = {each.verb: each.problem for each in check_storage(storage, s3_place.folder)}
    assert all("LABWRITER" in str(findings[verb]) for verb in ("list", "write"))
    assert "canary" not in str(findings)


@pytest.mark.parametrize(
    "credentials", [S3Credentials(profile="nobody"), GCSCredentials(service_account_file="/none.json")]
)
def test_credentials_that_are_none_are_a_finding(credentials: S3Credentials | GCSCredentials) -> None:
    [first, *_] = check_storage(Storage((credentials,)), f"{credentials.prefix}bucket/a")
    assert first.problem


def test_a_bucket_that_does_not_exist_is_a_finding_of_every_verb(place: Place) -> None:
    findings = list(check_storage(place.storage, f"{place.folder.partition('://')[0]}://no-such-bucket/a"))
    assert [finding.verb for finding in findings] == ["list", "read", "write"]
    assert all("there is no bucket" in str(finding.problem) for finding in findings[:2]), findings
    assert findings[2].problem  # SeaweedFS says that the permission is missing


def test_a_store_that_fails_is_a_finding(place: Place, fault_proxy: StartProxy) -> None:
    proxy = fault_proxy(place.server_url, rate=1.0, kinds=("500",))
    storage = place.through(proxy.url, request_seconds=1, deadline_seconds=0.5)
    assert all(finding.problem for finding in check_storage(storage, place.folder))


# Stores that are almost right


class Forgetful(Storage):
    """Knows whether an object is there, and not whether it is still the same."""

    def replace(self, uri: str, data: bytes, expected: str | None) -> str:
        present = self.stat(uri)
        return super().replace(uri, data, present.version if present and expected else expected)


class Garbling(Storage):
    """Gives other bytes than it was given."""

    def read(self, uri: str) -> bytes:
        return super().read(uri)[::-1]


@pytest.mark.parametrize(
    ("storage", "verb", "problem"),
    [(Forgetful(), "replace", "ignores write preconditions"), (Garbling(), "read", "is not what was written")],
)
def test_a_store_that_is_almost_right_is_found_out(folder: str, storage: Storage, verb: str, problem: str) -> None:
    findings = {each.verb: each.problem for each in check_storage(storage, folder) if each.problem}
    assert findings.keys() == {verb}
    assert problem in str(findings[verb])


def test_the_probe_is_so_large_that_it_goes_up_in_parts(folder: str) -> None:
    sizes: list[int] = []

    class Weighing(Storage):
        def publish(self, file: Path, uri: str) -> None:
            sizes.append(file.stat().st_size)
            super().publish(file, uri)

    assert not any(finding.problem for finding in check_storage(Weighing(), folder))
    assert sizes[0] > UPLOAD_PART_BYTES


def test_who_waits_for_an_answer_waits_no_longer_than_was_declared_nor_than_a_quarter_of_a_minute() -> None:
    declared = (S3Credentials(prefix="s3://a", deadline_seconds=5), S3Credentials(prefix="s3://b"))
    hasty = impatient(Storage(declared)).credentials
    assert [(item.prefix, item.deadline_seconds) for item in hasty] == [
        ("s3://a", 5),
        ("s3://b", 15),
        ("gs://", 15),
        ("s3://", 15),
    ]


# A store that ignores preconditions


@pytest.fixture
def heedless(s3_server: S3Server) -> Iterator[str]:
    """The S3 server behind a proxy that drops preconditions and signs anew, as if it had never heard of them."""
    import asyncio
    import threading

    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    keys = Credentials(s3_server.writer.access_key_id, s3_server.writer.secret_access_key)
    started, urls = threading.Event(), []

    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        url = f"{s3_server.url}{request.raw_path}"
        passed = {name: request.headers[name] for name in ("Content-Type", "Range") if name in request.headers}
        signed = AWSRequest(request.method, url, headers=passed, data=body)
        S3SigV4Auth(keys, "s3", s3_server.region).add_auth(signed)
        async with (
            ClientSession(auto_decompress=False) as session,
            session.request(request.method, url, headers=dict(signed.headers.items()), data=body or None) as upstream,
        ):
            kept = {
                name: upstream.headers[name]
                for name in ("ETag", "Last-Modified", "Content-Range")
                if name in upstream.headers
            }
            data = await upstream.read()
            reply = web.Response(status=upstream.status, body=data, headers=kept)
            if request.method == "HEAD":
                reply.headers["Content-Length"] = upstream.headers.get("Content-Length", "0")
            return reply

    async def serve() -> None:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_route("*", r"/{path:[\s\S]*}", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        urls.append(f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}")  # type: ignore[attr-defined]
        stopped.append((asyncio.get_running_loop(), asyncio.Event()))
        started.set()
        await stopped[0][1].wait()
        await runner.cleanup()

    stopped: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    yield urls[0]
    loop, event = stopped[0]
    loop.call_soon_threadsafe(event.set)
    thread.join(10)


def test_a_store_that_ignores_preconditions_is_found_out_and_every_run_says_so(
    heedless: str, s3_server: S3Server, s3_bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    storage = of_keys(s3_server.writer, heedless)
    folder = f"s3://{s3_bucket}/folder"
    findings = {each.verb: each.problem for each in check_storage(storage, folder)}
    assert {verb for verb, problem in findings.items() if problem} == {"replace"}, findings
    assert "ignores write preconditions" in str(findings["replace"])
    assert not storage.store(folder).honours_preconditions(folder)
    for _ in range(2):
        storage.check_writable(folder)
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"s3://{s3_bucket} ignores write preconditions: of two runs that commit one partition")
    assert list(of_keys(s3_server.writer, s3_server.url).list(folder)) == []


def test_a_store_that_honours_preconditions_is_known(any_place: Place) -> None:
    assert any_place.storage.store(any_place.folder).honours_preconditions(any_place.folder)
