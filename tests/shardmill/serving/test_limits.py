"""However many clients come, whatever they send and how slowly: each is answered or refused, and nothing is left."""

import asyncio
import contextlib
import errno
import gc
import resource
import socket
import threading
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest

from shardmill.samples import EncodedSample
from shardmill.serving.limits import IN_MEMORY, Budget, Spool
from shardmill.serving.listening import Complaints, listen
from shardmill.serving.refusals import Refusal
from tests.shardmill.serving.conftest import Serve, Serving, tar_of, until

HEAVY = 16 << 20
"""Bytes of a response that no socket's buffers hold."""
WAITS = """
    import threading

    begun, go_on = threading.Semaphore(0), threading.Event()

    def transform(sample):
        begun.release()
        go_on.wait(60)
        return sample
"""


def image_of(dataset) -> bytes:
    return (Path(dataset.spec.source.uri) / "image_00000.jpg").read_bytes()


def heavy(dataset) -> bytes:
    """A shard that comes out as large as it goes in."""
    return tar_of(EncodedSample("image", {"jpg": image_of(dataset), "bin": bytes(HEAVY)}))


def connected(serving: Serving) -> socket.socket:
    return socket.create_connection(("127.0.0.1", serving.port), timeout=30)


def head(length: int, path: str = "/pets/image.jpg") -> bytes:
    return f"PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


@pytest.fixture
def waiting(tmp_path: Path, images, make_dataset, write_module):
    """A dataset whose transform waits, and the module that says when it has begun and lets it go on."""
    import importlib

    images(tmp_path / "raw", 1)
    name = write_module(WAITS)
    module = importlib.import_module(name)
    yield (
        make_dataset(
            tmp_path / "raw", tmp_path / "root", transform={"operations": [{"operation": f"{name}:transform"}]}
        ),
        module,
    )
    module.go_on.set()


def test_of_hundreds_at_once_each_is_answered_or_told_to_come_again(dataset, serve: Serve) -> None:
    image = image_of(dataset)

    async def all_at_once(serving: Serving) -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=serving.url, limits=limits, timeout=120) as client:
            requests = [
                client.put("/pets/image_00000.jpg", content=image if number % 3 else b"broken") for number in range(300)
            ]
            return await asyncio.gather(*requests)

    with serve(dataset, requests=40) as serving:
        expected = serving.client.put("/pets/image_00000.jpg", content=image).content
        answers = asyncio.run(all_at_once(serving))
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) <= {200, 422, 503}
        assert statuses[200] > 10
        assert statuses[422] > 5
        assert all(answer.content == expected for answer in answers if answer.status_code == 200)
        assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 503)


def test_no_more_requests_than_the_limit_are_in_work_and_health_is_no_request(waiting, serve: Serve) -> None:
    dataset, module = waiting
    image = image_of(dataset)
    with serve(dataset, requests=2) as serving:
        threads = [
            threading.Thread(target=serving.client.put, args=("/pets/image.jpg",), kwargs={"content": image})
            for _ in "ab"
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert module.begun.acquire(timeout=30)
        refused = serving.client.put("/pets/image.jpg", content=image)
        assert (refused.status_code, refused.json()["reason"], refused.headers["retry-after"]) == (503, "busy", "1")
        assert serving.client.get("/health").status_code == 200
        module.go_on.set()
        for thread in threads:
            thread.join()
        assert serving.client.put("/pets/image.jpg", content=image).status_code == 200


def test_oversized_bodies_are_refused_whole_or_chunked_pushed_or_pulled(dataset, serve: Serve) -> None:
    large = Path(dataset.spec.source.uri) / "large.jpg"
    large.write_bytes(bytes(200_001))
    with serve(dataset, body_bytes=200_000) as serving:
        for content in (bytes(8 << 20), (bytes(50_000) for _ in range(200))):  # more than sockets hold
            answer = serving.client.put("/pets/a.tar", content=content)
            assert (answer.status_code, answer.json()["reason"]) == (413, "too large")
        assert serving.client.get(str(large)).status_code == 413
        with contextlib.closing(connected(serving)) as first:  # all is sent before the answer is looked for
            first.sendall(head(8 << 20) + bytes(8 << 20))
            assert first.recv(100).startswith(b"HTTP/1.1 413")
        with contextlib.closing(connected(serving)) as claims:  # the body never comes
            claims.sendall(head(1 << 60))
            assert claims.recv(100).startswith(b"HTTP/1.1 413")


def test_all_bodies_and_results_together_have_a_bound(dataset, serve: Serve) -> None:
    shard = heavy(dataset)
    with serve(dataset, held_bytes=len(shard) + HEAVY // 2) as serving:
        answer = serving.client.put("/pets/a.tar", content=shard)  # there is no room for the result
        assert (answer.status_code, answer.json()["reason"]) == (503, "busy")
        with contextlib.closing(connected(serving)) as one:
            one.sendall(head(HEAVY, "/pets/a.tar"))
            until(lambda: serving.held >= HEAVY)
            assert serving.client.put("/pets/a.tar", content=bytes(HEAVY)).status_code == 503
            assert serving.client.put("/pets/image.jpg", content=image_of(dataset)).status_code == 200
        until(lambda: not serving.held)


@pytest.mark.parametrize("sent", [b"", b"PUT /pets/image.jpg HTTP/1.1\r\nhost:", b"\x16\x03\x01" * 5])
def test_a_client_that_sends_no_whole_head_is_cut_off(dataset, serve: Serve, sent: bytes) -> None:
    with serve(dataset, timeout=0.3) as serving, contextlib.closing(connected(serving)) as client:
        client.sendall(sent)
        assert client.recv(1000) in (b"",) or sent.startswith(b"\x16")
        image = image_of(dataset)
        with contextlib.closing(connected(serving)) as again:  # also on a connection that was answered before
            again.sendall(head(len(image)) + image)
            assert again.recv(12) == b"HTTP/1.1 200"
            again.sendall(b"PUT /pe")
            while again.recv(100_000):
                pass


def test_a_body_that_stops_or_drips_is_refused(dataset, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardmill.serving.gate.SLOWEST", 1 << 30)
    with serve(dataset, timeout=0.3) as serving:
        with contextlib.closing(connected(serving)) as stops:
            stops.sendall(head(1000) + b"x" * 10)
            assert stops.recv(100).startswith(b"HTTP/1.1 408")
        with contextlib.closing(connected(serving)) as drips:
            drips.sendall(head(100_000))
            drips.settimeout(0.02)
            answer = b""
            while not answer:
                drips.sendall(b"x")
                try:
                    answer = drips.recv(100)
                except TimeoutError:
                    continue
            assert answer.startswith(b"HTTP/1.1 408")


def test_a_client_that_takes_nothing_is_cut_off(dataset, serve: Serve, served_log) -> None:
    shard = heavy(dataset)
    with serve(dataset, timeout=0.5) as serving, contextlib.closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(("127.0.0.1", serving.port))
        client.sendall(head(len(shard), "/pets/a.tar") + shard)
        until(lambda: serving.held >= HEAVY)
        until(lambda: not serving.held and not serving.in_work)
        until(lambda: not serving.listener.server_state.connections)
    assert [line.partition(",")[0] for line in served_log.messages if "server" not in line.lower()] == [
        "PUT '/pets/a.tar' 200"
    ]


def test_a_client_that_drips_its_answer_is_cut_off(
    dataset, serve: Serve, served_log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardmill.serving.gate.SLOWEST", 1 << 40)
    shard = heavy(dataset)
    with serve(dataset, timeout=0.5) as serving, contextlib.closing(connected(serving)) as client:
        client.sendall(head(len(shard), "/pets/a.tar") + shard)
        taken, pause = 0, threading.Event()
        with contextlib.suppress(ConnectionError):
            while data := client.recv(1 << 15):
                taken += len(data)
                pause.wait(0.005)
        assert taken < len(shard)
        until(lambda: not serving.held and not serving.in_work)
    assert "the client reads too slowly" in served_log.text


def test_clients_that_break_off_leave_nothing(waiting, serve: Serve) -> None:
    dataset, module = waiting
    image = image_of(dataset)
    with serve(dataset) as serving:
        for part in (head(1000)[:20], head(1000), head(1000) + b"x" * 500, b"junk\r\n\r\n"):
            with contextlib.closing(connected(serving)) as client:
                client.sendall(part)
        with contextlib.closing(connected(serving)) as client:  # while it is computed
            client.sendall(head(len(image)) + image)
            assert module.begun.acquire(timeout=30)
        until(lambda: not serving.in_work)
        module.go_on.set()
        until(lambda: not serving.held)


def test_a_shard_that_nobody_waits_for_is_given_up(waiting, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    dataset, module = waiting
    image = image_of(dataset)
    shard = tar_of(*(EncodedSample(f"image_{number}", {"jpg": image}) for number in range(100)))
    with serve(dataset) as serving:
        with contextlib.closing(connected(serving)) as client:
            client.sendall(head(len(shard), "/pets/a.tar") + shard)
            assert module.begun.acquire(timeout=30)
        until(lambda: not serving.in_work)
        module.go_on.set()
        until(lambda: not serving.held)
    gc.collect()
    assert "never retrieved" not in caplog.text
    begun = 1
    while module.begun.acquire(blocking=False):
        begun += 1
    assert begun <= 20


def test_files_and_sockets_do_not_pile_up(dataset, serve: Serve) -> None:
    process, shard = psutil.Process(), heavy(dataset)

    def some(serving: Serving) -> None:
        for content in (shard, shard[:-512], b"x"):
            serving.client.put("/pets/a.tar", content=content)
        for path in ("/pets/image.jpg", "/pets/../x", f"{dataset.spec.source.uri}/nothing.jpg"):
            serving.client.put(path, content=b"x")
            serving.client.get(path)

    with serve(dataset) as serving:
        some(serving)
        until(lambda: not serving.held)
        before = process.num_fds()
        for _ in range(5):
            some(serving)
        until(lambda: not serving.held and process.num_fds() <= before)


def test_small_answers_do_not_wait_for_acknowledgements() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            asyncio.base_events._set_nodelay(accepted)  # type: ignore[attr-defined]  # what asyncio does to each
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_spool_gives_back_what_it_took_once() -> None:
    budget = Budget(100)
    one, other = Spool(budget, most=60), Spool(budget)
    one.expect(50)
    one.write(bytes(50))
    with pytest.raises(Refusal, match="too large"):
        one.write(bytes(11))
    with pytest.raises(Refusal, match="busy"):
        other.write(bytes(51))
    assert budget.taken == 50
    for _ in range(2):
        one.close()
        other.close()
    assert budget.taken == 0


def test_a_spool_that_the_disk_has_no_room_for_says_so_when_it_is_written() -> None:
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    budget = Budget(1 << 30)
    spool = Spool(budget)
    resource.setrlimit(resource.RLIMIT_FSIZE, (IN_MEMORY, most[1]))
    try:
        spool.write(bytes(IN_MEMORY))
        with pytest.raises(Refusal, match="cannot hold more"):
            spool.write(b"one more")
        spool.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert budget.taken == 0


def test_that_files_run_out_is_said_once(served_log) -> None:
    loop = asyncio.new_event_loop()
    try:
        complaints = Complaints()
        said = {"message": "socket.accept() out of system resource", "exception": OSError(errno.EMFILE, "too many")}
        for _ in range(100):
            complaints(loop, said)
        complaints(loop, {"message": "something else"})
    finally:
        loop.close()
    assert [record.getMessage() for record in served_log.records] == [
        "no connection is taken for a second: too many",
        "something else",
    ]
