"""A transform that a server runs: `shardmill serve`, or any other of AIStore's ETL contract that takes shards."""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import threading
import time
from operator import itemgetter
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from shardmill.errors import ConfigurationError, CorruptionError, Rejected, ServerError
from shardmill.samples import EncodedSample
from shardmill.shards.ustar import TarWriter, read_samples
from shardmill.sources.names import encode_component

TOKEN = "SHARDMILL_SERVE_TOKEN"
"""Variable of the environment with the server's token."""
_REPORT = "__report__/samples"
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 5.0
_PASSING = (502, 503, 504)
"""What a server, or one before it, answers that has too much to do or is being replaced."""


class ThroughServer:
    """`EncodedSample -> [EncodedSample]`, as `SampleTransform`, computed by a server.

    A sample goes there as a shard of one, and comes back as what the server makes of it: what the offline stage stores,
    encoded. Threads share it, each with a connection of its own; it pickles without them.

    Example:
        stream = ShardStream("gs://ours/pets/webdataset_shards/2026-01", transform=ThroughServer("http://10.0.0.7:8000"))
    """

    has_custom = True
    """What the server does is not known here: it may make none or several of a sample."""

    def __init__(self, url: str, timeout: float = 60.0, patience: float = 120.0) -> None:
        """The server's token, if it asks for one, is taken from `SHARDMILL_SERVE_TOKEN` in each process.

        Args:
            url: `http://host:port`, or https; a path in it comes before the objects' names.
            timeout: Seconds that the server may be silent.
            patience: Seconds for which a sample is sent again while the server is busy, or cannot be reached.

        Raises:
            ConfigurationError: `url` is none.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ConfigurationError(f"{url!r} is no server: write http://host:port")
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._patience = patience
        self._threads = threading.local()
        self._stop = threading.Event()

    def __reduce__(self) -> tuple[Any, ...]:
        return ThroughServer, (self._url, self._timeout, self._patience)

    def until(self, stop: threading.Event) -> ThroughServer:
        """The same, which is patient no longer than until `stop` is set."""
        made = ThroughServer(self._url, self._timeout, self._patience)
        made._stop = stop
        return made

    def __repr__(self) -> str:
        return f"ThroughServer({self._url!r})"

    def __call__(self, sample: EncodedSample, epoch: int | None = None) -> list[EncodedSample]:
        """What the server makes of a sample, by default for the epoch of its own dataset file.

        Raises:
            Rejected: The server rejects the sample.
            ServerError: It cannot be reached, or refuses.
        """
        arguments = json.dumps({"report": True} | ({} if epoch is None else {"epoch": epoch}), separators=(",", ":"))
        path = f"{urlsplit(self._url).path}/samples/{quote(sample.key)}.tar?{urlencode({'etl_args': arguments})}"
        status, data = self._answer(path, _shard_of(sample))
        if status != 200:
            told = {"reason": "without a reason", "detail": "", **_told(data)}
            reason, detail = str(told["reason"]), str(told["detail"])
            if status == 422:
                raise Rejected(reason, detail)
            said = f"{reason}: {detail}" if detail else reason
            raise ServerError(f"{self._url} answers {status} for {sample.key}: {said}", status)
        try:
            made = list(read_samples(io.BytesIO(data), f"what {self._url} made of {sample.key}"))
            if made and made[0].key == _REPORT:
                rejects = json.loads(made.pop(0).components["json"])["rejects"]
                for reason, detail, may_pass in map(itemgetter("reason", "detail", "may_pass"), rejects.values()):
                    raise Rejected(reason, detail, may_pass)
        except (CorruptionError, ValueError, KeyError, TypeError) as error:
            raise ServerError(f"{self._url} does not answer with a shard for {sample.key}: {error}") from error
        return made

    def _answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body, once the server has something to say. What is sent has no effect there: it is sent again."""
        deadline, wait = time.monotonic() + self._patience, _FIRST_WAIT
        while True:
            try:
                status, data = self._send(path, body)
                why: object = f"it answers {status}: {_told(data).get('reason', 'without a reason')}"
            except (OSError, http.client.HTTPException) as error:
                status, data, why = 503, b"", f"{type(error).__name__}: {error}"
            if status not in _PASSING:
                return status, data
            if time.monotonic() + wait > deadline:
                raise ServerError(f"{self._url} gives no result for {self._patience:g} s; {why}")
            if self._stop.wait(wait * random.uniform(0.5, 1)):
                raise ServerError(f"{self._url} gave no result before it was given up; {why}")
            wait = min(2 * wait, _LONGEST_WAIT)

    def _send(self, path: str, body: bytes) -> tuple[int, bytes]:
        held = getattr(self._threads, "held", None)
        if held is None:
            held = self._threads.held = _Connection(self._url, self._timeout)
        token = os.environ.get(TOKEN)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            held.connection.request("PUT", path, body, headers)
            with held.connection.getresponse() as response:
                return response.status, response.read()
        except BaseException:
            held.connection.close()  # the next request opens it again
            raise


class _Connection:
    """Closed when its thread ends."""

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.connection = kind(str(parts.hostname), parts.port, timeout=timeout)

    def __del__(self) -> None:
        self.connection.close()


def _shard_of(sample: EncodedSample) -> bytes:
    stream = io.BytesIO()
    tar = TarWriter(stream)
    for name in sorted(sample.components):
        tar.write(sample.key, encode_component(name), sample.components[name])
    tar.close()
    return stream.getvalue()


def _told(data: bytes) -> dict[str, Any]:
    """What a refusal says, if it is JSON."""
    try:
        told = json.loads(data)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
