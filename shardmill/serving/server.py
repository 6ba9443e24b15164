"""The server: AIStore's own FastAPI server, with a dataset's transform, and requests handled within limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from aistore.sdk.const import HEADER_NODE_URL, QPARAM_ETL_ARGS, QPARAM_ETL_FQN
from aistore.sdk.errors import InvalidPipelineError
from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer
from aistore.sdk.etl.webserver.utils import parse_etl_pipeline
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from typing_extensions import override

from shardmill.dataset import Dataset, load_dataset
from shardmill.library_threads import limit_this_thread, one_thread_each
from shardmill.samples import image_format
from shardmill.serving.arguments import Arguments, parse_arguments
from shardmill.serving.direct_put import Delivered, DirectPut
from shardmill.serving.gate import Admission, ClientGoneError, Gate, log
from shardmill.serving.limits import IN_MEMORY, SAMPLE_BYTES, Budget, Limits, Spool
from shardmill.serving.names import Named, ObjectNames, is_shard, object_path
from shardmill.serving.plan import ServedTransform
from shardmill.serving.pulled import DatasetObjects
from shardmill.serving.refusals import Refusal
from shardmill.serving.result import HeldResponse, Result
from shardmill.storage import Storage, load_credentials
from shardmill.temporary import temporary_directory

TARGET = "AIS_TARGET_URL"
DATASET = "SHARDMILL_DATASET"
TOKEN = "SHARDMILL_SERVE_TOKEN"
_NODES = HEADER_NODE_URL.lower()


class DatasetServer(FastAPIServer):
    """Serves a dataset's transform.

    Without arguments, as AIStore's runtime makes it, the dataset file is that at `SHARDMILL_DATASET`, or its text; the
    transform `SHARDMILL_TRANSFORM`, and the credentials those at `SHARDMILL_CREDENTIALS`.
    """

    def __init__(
        self,
        dataset: Dataset | None = None,
        transform: str | None = None,
        limits: Limits | None = None,
        token: str | None = None,
    ) -> None:
        """`transform` names one of several. With a `token` only those who send it are answered.

        Raises:
            ConfigurationError: The dataset has no such transform, or it cannot be built.
        """
        dataset = dataset or _from_the_environment()
        self._transform = ServedTransform(dataset, transform or os.environ.get("SHARDMILL_TRANSFORM") or None)
        self._names, self._objects = ObjectNames(dataset), DatasetObjects(dataset)
        self._limits = limits or Limits()
        self._token = token or os.environ.get(TOKEN) or None
        self._budget, self._admission = Budget(self._limits.held_bytes), Admission(self._limits.requests)
        self._open = contextlib.ExitStack()
        with _some_target():
            super().__init__()
        self.host_target = os.environ.get(TARGET, "")
        self.logger.addFilter(_in_one_line)

    @override
    def _setup_app(self) -> None:
        self.app = FastAPI(openapi_url=None)  # every path is an object's name
        super()._setup_app()
        self.app.add_middleware(Gate, limits=self._limits, admission=self._admission, token=self._token)

    @override
    async def startup_event(self) -> None:
        await super().startup_event()
        self._open.enter_context(one_thread_each())
        threads = self._limits.threads
        self._shards = self._open.enter_context(ThreadPoolExecutor(threads, "shardmill-shard"))
        self._samples = self._open.enter_context(ThreadPoolExecutor(threads, "shardmill-sample", limit_this_thread))

    @override
    async def shutdown_event(self) -> None:
        self._open.close()
        await super().shutdown_event()

    @override
    async def _handle_request(self, path: str, request: Request, is_get: bool) -> Response:
        """Answer a GET or PUT. What cannot be answered is raised as a `Refusal`, which the gate sends."""
        query = request.query_params
        etl_args = query.get(QPARAM_ETL_ARGS, "").strip()
        arguments = parse_arguments(etl_args)
        if query.get(QPARAM_ETL_FQN):
            raise Refusal(403, "not served", "no file is read by a path that a request gives (etl_fqn)")
        name, nodes = object_path(path), self._nodes(request.headers)
        named = None if is_shard(name) else self._names.name(name)
        body = Spool(self._budget, self._limits.body_bytes)
        try:
            await (self._pull(path, name, body) if is_get else self._push(request, body))
            etag = self._etag(arguments, named, body)
        except BaseException:
            body.close()
            raise
        if not nodes[0] and _matches(request.headers.get("if-none-match", ""), etag):
            body.close()
            return Response(status_code=304, headers={"etag": etag})
        result = await self._computed(request, body, arguments, named, name)
        if not nodes[0]:
            return HeldResponse(result, headers={"etag": etag})
        delivered = await self._sent_on(result, nodes, path, etl_args)
        return HeldResponse(Result(delivered.content, self.get_mime_type()), delivered.status, delivered.headers)

    @override
    def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
        """The bytes that an object becomes: for messages over a WebSocket, which come and go whole.

        Raises:
            Refusal: It becomes none.
        """
        assert isinstance(data, bytes)  # paths are never read
        name, arguments = object_path(path.lstrip("/")), parse_arguments(etl_args)
        named = None if is_shard(name) else self._names.name(name)
        body = Spool(self._budget, self._limits.body_bytes)
        try:
            body.write(data)
            executor = self._shards if named is None else self._samples
            result = executor.submit(self._result, body, arguments, named, name, threading.Event()).result()
        finally:
            body.close()
        try:
            log.info("WS %s, %d bytes in, %d out", ascii(path), len(data), result.size)
            return b"".join(result.pieces())
        finally:
            result.content.close()

    @override
    async def _direct_put_with_retry(
        self, direct_put_url: str, data: bytes, remaining_pipeline: str = "", path: str = "", etl_args: str = ""
    ) -> tuple[int, bytes, int]:
        """Send what a message over a WebSocket became on, within the limits of requests.

        Raises:
            Refusal: The next one cannot be reached, or nothing is sent on here.
        """
        self._check_that_results_are_sent_on()
        content = Spool(self._budget)
        try:
            content.write(data)
        except BaseException:
            content.close()
            raise
        nodes = direct_put_url, remaining_pipeline
        delivered = await self._sent_on(Result(content, self.get_mime_type()), nodes, path, etl_args)
        with contextlib.closing(delivered.content):
            return delivered.status, delivered.content.reader().read(), delivered.length

    @override
    async def _get_fqn_content(self, path: str) -> bytes:
        raise Refusal(403, "not served", "no file is read by a path that a request gives (fqn)")

    @property
    def _http(self) -> httpx.AsyncClient:
        client: httpx.AsyncClient = self.client
        return client

    def _nodes(self, headers: Mapping[str, str]) -> tuple[str, str]:
        """Where the result goes: the next node, and the others for it. Empty where it is the answer."""
        try:
            nodes: tuple[str, str] = parse_etl_pipeline(headers.get(_NODES, ""))
        except InvalidPipelineError as error:
            raise Refusal(400, "bad pipeline", str(error)) from error
        if nodes[0]:
            self._check_that_results_are_sent_on()
        return nodes

    def _check_that_results_are_sent_on(self) -> None:
        if not self.host_target:
            raise Refusal(403, "not served", f"results are sent on only where {TARGET} says which AIStore this is")

    async def _sent_on(self, result: Result, nodes: tuple[str, str], path: str, etl_args: str) -> Delivered:
        """What the next one answers; the result is let go of."""
        put = DirectPut(
            self._http,
            self.host_target,
            self.direct_put_retries,
            self._limits.timeout,
            self._budget,
            self._limits.body_bytes,
        )
        try:
            return await put.send(result, nodes, path, etl_args)
        finally:
            result.content.close()

    async def _push(self, request: Request, body: Spool) -> None:
        body.expect(int(request.headers.get("content-length", "0")))
        try:
            async for data in request.stream():
                if body.size + len(data) > IN_MEMORY:
                    await asyncio.to_thread(body.write, data)
                else:
                    body.write(data)
        except ClientDisconnect as error:
            raise ClientGoneError("the client is gone") from error

    async def _pull(self, path: str, name: str, body: Spool) -> None:
        if not self.host_target:
            await asyncio.wrap_future(self._shards.submit(self._objects.read_into, name, body))
            return
        url = f"{self.host_target}/{quote(path, safe='@')}"  # as the SDK's servers ask
        try:
            async with self._http.stream("GET", url, timeout=self._limits.timeout) as response:
                if response.status_code != 200:
                    status = response.status_code if 400 <= response.status_code < 600 else 502
                    raise Refusal(status, "target failed", f"the target answers {response.status_code} for {name}")
                body.expect(int(response.headers.get("content-length", "0")))
                async for data in response.aiter_bytes():
                    await asyncio.to_thread(body.write, data)
        except httpx.HTTPError as error:
            raise Refusal(
                502, "target failed", f"cannot read {name} from the target: {type(error).__name__}"
            ) from error

    def _etag(self, arguments: Arguments, named: Named | None, body: Spool) -> str:
        what = ("shard", str(arguments.report)) if named is None else named
        return self._transform.etag(arguments.epoch, body.sha256, *what)

    async def _computed(
        self, request: Request, body: Spool, arguments: Arguments, named: Named | None, name: str
    ) -> Result:
        """The result, computed in a thread; given up if the client goes."""
        executor, stop = self._shards if named is None else self._samples, threading.Event()
        job = executor.submit(self._result, body, arguments, named, name, stop)
        job.add_done_callback(lambda job: _let_go(job, body, stop))
        work, gone = asyncio.wrap_future(job), asyncio.ensure_future(_is_gone(request))
        either: set[asyncio.Future[Any]] = {work, gone}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                gone.result()  # or the rest of a body comes too slowly
                raise ClientGoneError("the client is gone")
            return work.result()
        except BaseException:
            stop.set()
            if not job.cancel():
                _let_go(job, body, stop)
            work.cancel()  # nobody looks at what becomes of it
            raise
        finally:
            gone.cancel()

    def _result(
        self, body: Spool, arguments: Arguments, named: Named | None, name: str, stop: threading.Event
    ) -> Result:
        """Make the result, in this thread and those of the samples."""
        content = Spool(self._budget)
        try:
            if named is None:
                most = 2 * self._limits.threads
                counts = self._transform.shard(
                    arguments.epoch, body.reader(), content, self._samples, most, name, stop.is_set
                )
                head = counts.report() if arguments.report else b""
                return Result(content, "application/x-tar", head, counts.headers())
            if body.size > SAMPLE_BYTES:
                raise Refusal(413, "too large", f"a sample has at most {SAMPLE_BYTES:,} bytes")
            made = self._transform.component(arguments.epoch, named, body.reader().read(), name)
            content.write(made.data)
            kind = image_format(made.name)
            media_type = f"image/{kind.lower()}" if kind else self.get_mime_type()
            return Result(content, media_type, headers={"shardmill-component": made.name})
        except BaseException:
            content.close()
            raise


def _in_one_line(record: logging.LogRecord) -> bool:
    """What a client names, such as a path, forges no line of the log."""
    record.msg, record.args = ascii(record.getMessage())[1:-1], ()
    return True


def _let_go(job: Future[Result], body: Spool, stop: threading.Event) -> None:
    """Close what nobody asks for any more."""
    if not job.done():
        return
    body.close()
    if stop.is_set() and not job.cancelled() and job.exception() is None:
        job.result().content.close()


async def _is_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _matches(given: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in given.split(",")]
    return etag in tags or "*" in tags


def _from_the_environment() -> Dataset:
    credentials = os.environ.get("SHARDMILL_CREDENTIALS")
    storage = Storage(load_credentials(Path(credentials)) if credentials else ())
    given = os.environ.get(DATASET, "")
    if "\n" not in given:
        return load_dataset(Path(given or "dataset.yaml"), storage)
    with temporary_directory() as folder:
        file = Path(folder, f"${DATASET}")
        file.write_text(given)
        return load_dataset(file, storage)


@contextlib.contextmanager
def _some_target() -> Iterator[None]:
    """The SDK's servers cannot be made without a target; this one works without AIStore, too."""
    if os.environ.get(TARGET):
        yield
        return
    os.environ[TARGET] = "http://unused.invalid"
    try:
        yield
    finally:
        del os.environ[TARGET]
