"""A transform server on a free port of this process, a dataset to serve, and a stand-in of an AIStore target."""

import io
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from shardmill.dataset import Dataset
from shardmill.samples import EncodedSample
from shardmill.serving.limits import Limits
from shardmill.serving.listening import Listener, listen
from shardmill.serving.server import DatasetServer
from shardmill.shards.reader import ShardSet
from shardmill.shards.ustar import TarWriter, read_samples

SEEDED = {
    "masks": ["trimap.png"],
    "operations": [
        {"operation": "RandomResizedCrop", "arguments": {"size": 48}},
        {"operation": "RandomHorizontalFlip"},
    ],
    "seed": 7,
}
"""A transform whose result depends on the sample's key and on the epoch."""


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL of a server with this handler, on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def until(holds: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.005)


def tar_of(*samples: EncodedSample) -> bytes:
    """A shard as Shardmill writes it."""
    stream = io.BytesIO()
    tar = TarWriter(stream)
    for sample in samples:
        for name in sorted(sample.components):
            tar.write(sample.key, name, sample.components[name])
    tar.close()
    return stream.getvalue()


def samples_of(tar: bytes) -> dict[str, dict[str, bytes]]:
    """Key → components."""
    return {each.key: dict(each.components) for each in read_samples(io.BytesIO(tar), "the answer")}


def tars(shards: ShardSet) -> list[bytes]:
    """The data files of a committed partition, in order."""
    return [Path(url.removeprefix("file://")).read_bytes() for url in shards.urls]


@dataclass
class Serving:
    """A server that is running."""

    server: DatasetServer
    listener: Listener
    url: str
    client: httpx.Client
    port: int

    @property
    def held(self) -> int:
        """Bytes of bodies and results."""
        return self.server._budget.taken

    @property
    def in_work(self) -> int:
        """Requests."""
        return self.server._admission.count


Serve = Callable[..., AbstractContextManager[Serving]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """`with serve(dataset, requests=2) as serving:` runs a server; nothing of it is left afterwards."""

    @contextmanager
    def run(
        dataset: Dataset, transform: str | None = None, target: str = "", token: str = "", **limits: Any
    ) -> Iterator[Serving]:
        monkeypatch.setenv("AIS_TARGET_URL", target)
        before = set(threading.enumerate())
        held = Limits(**{"threads": 2, **limits})
        server = DatasetServer(dataset, transform, held, token)
        with listen("127.0.0.1", 0) as socket:
            listener = Listener(server, held)
            thread = threading.Thread(target=listener.run, args=([socket],))
            thread.start()
            until(lambda: listener.started or not thread.is_alive())
            port = socket.getsockname()[1]
            try:
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                    yield Serving(server, listener, f"http://127.0.0.1:{port}", client, port)
                    until(lambda: not server._budget.taken and not server._admission.count)
            finally:
                listener.should_exit = True
                thread.join(60)
        assert not thread.is_alive()
        until(lambda: set(threading.enumerate()) <= before)

    return run


@pytest.fixture
def dataset(tmp_path: Path, images, make_dataset) -> Dataset:
    """24 samples in the folder `raw`, in two shards or so, with a transform that draws."""
    images(tmp_path / "raw", 24)
    return make_dataset(tmp_path / "raw", tmp_path / "root", transform=SEEDED)


@dataclass
class Target:
    """A stand-in of an AIStore target: has objects, takes those that are put, and says what it was asked."""

    objects: dict[str, bytes] = field(default_factory=dict)
    put: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    """Method, path as it came, headers."""
    answers: list[tuple[int, bytes, Mapping[str, str]]] = field(default_factory=list)
    """For the next PUTs, first the first; else 200 without content, as a target answers that has stored an object."""
    url: str = ""


@pytest.fixture
def target() -> Iterator[Target]:
    """An AIStore target on a free port."""
    state = Target()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.asked.append(("GET", self.path, {name.lower(): value for name, value in self.headers.items()}))
            data = state.objects.get(unquote(urlsplit(self.path).path).removeprefix("/v1/etl/_object/pets/secret/"))
            self._answer(404 if data is None else 200, data or b"", {})

        def do_PUT(self) -> None:
            state.asked.append(("PUT", self.path, {name.lower(): value for name, value in self.headers.items()}))
            data = self.rfile.read(int(self.headers["content-length"]))
            status, content, headers = state.answers.pop(0) if state.answers else (200, b"", {})
            if status == 0:  # the connection breaks
                self.close_connection = True
                return
            state.put[unquote(urlsplit(self.path).path)] = data
            self._answer(status, content, headers)

        def _answer(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as url:
        state.url = f"{url}/v1/etl/_object/pets/secret"
        yield state


@pytest.fixture
def served_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the server logs."""
    caplog.set_level(logging.INFO, "shardmill.serve")
    return caplog
