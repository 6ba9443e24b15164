"""A proxy that breaks answers by a seeded plan: what networks, load balancers and overloaded stores do."""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, get_args

from aiohttp import ClientResponse, ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

Kind = Literal["reset", "500", "503", "429", "slow", "truncate", "stall"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SLOW_PIECES = 8
# Headers of one connection, not of the message. `Expect` was answered by us.
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect"}
)
AUTOMATIC_HEADERS = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


@dataclass(frozen=True)
class Fault:
    """One decision: what to break, and where in the exchange (`variant`, from 0 up to 1)."""

    kind: Kind
    variant: float


@dataclass(frozen=True)
class Exchange:
    """One request that the proxy saw and what it did to it: a kind, "refused", or "" for nothing."""

    method: str
    target: str
    fault: str


@dataclass(frozen=True)
class Answer:
    """An upstream's whole answer."""

    status: int
    headers: CIMultiDict[str]
    body: bytes


class FaultProxy:
    """An HTTP/1.1 proxy on 127.0.0.1 in front of one server; of every request, `rate` is broken in one of `kinds`.

    The same seed and the same sequence of requests give the same faults. Host is passed on as the client sent it.

    - reset: the connection is reset: before the server sees the request, after it took effect, or within the answer.
    - 500, 503: half of them after the request took effect. 503 and 429 carry `Retry-After: 1` half of the time.
    - slow: the answer takes `slow_seconds`. stall: it pauses for `stall_seconds`, before its first byte or half-way.
    - truncate: the whole Content-Length is promised, half of the body is sent. An answer without a body is lost whole.
    """

    def __init__(
        self,
        upstream: str,
        rate: float = 0.0,
        seed: int = 1,
        kinds: Iterable[Kind] = KINDS,
        stall_seconds: float = 3.0,
        slow_seconds: float = 0.3,
    ) -> None:
        self.rate = rate
        self.kinds = tuple(kinds)
        self.stall_seconds = stall_seconds
        self.slow_seconds = slow_seconds
        self.counts: Counter[str] = Counter()
        self.log: list[Exchange] = []
        self._upstream = upstream.rstrip("/")
        self._random = random.Random(seed)
        self._refusals: dict[str, int] = {}
        self._dead = False
        self._port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def dead(self) -> bool:
        """Whether every connection is accepted and reset at once."""
        return self._dead

    @dead.setter
    def dead(self, value: bool) -> None:
        self._dead = value
        if value:
            self._loop.call_soon_threadsafe(self._reset_all)

    def start(self) -> None:
        """Listen on a free port."""
        self._thread.start()
        self._ready.wait(10)
        if not self._port:
            raise RuntimeError("the fault proxy did not start")

    def stop(self) -> None:
        """Close every connection and the port."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(10)

    def refuse(self, credential: str, status: int = 403) -> None:
        """Answer `status` to requests whose credentials contain this text: an access key id, part of a token."""
        self._refusals[credential] = status

    def allow(self, credential: str) -> None:
        """Take back `refuse`."""
        self._refusals.pop(credential, None)

    # The loop's thread, from here on.

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        application = web.Application(client_max_size=1 << 31)
        application.router.add_route("*", r"/{path:[\s\S]*}", self._handle)
        runner = web.AppRunner(application, access_log=None, auto_decompress=False, shutdown_timeout=0.1)
        connector = TCPConnector(limit=256)
        timeout = ClientTimeout(total=300)
        async with ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            await runner.setup()
            self._server = runner.server
            listener = await self._loop.create_server(self._connect, "127.0.0.1", 0, backlog=512)
            self._port = listener.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stopped.wait()
            listener.close()
            await runner.cleanup()

    def _connect(self) -> asyncio.Protocol:
        if self._dead:
            self.counts["dead"] += 1
            return ResetAtOnce()
        assert self._server is not None
        protocol: asyncio.Protocol = self._server()
        return protocol

    def _reset_all(self) -> None:
        for connection in list(self._server.connections if self._server else ()):
            reset(connection.transport)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.counts["requests"] += 1
        refusal = self._refusal(request)
        fault = None if refusal else self._draw()
        self.log.append(
            Exchange(request.method, request.raw_path, "refused" if refusal else fault.kind if fault else "")
        )
        if self._dead:
            return self._lost(request)
        if refusal:
            self.counts["refused"] += 1
            await request.read()
            return refusal
        if fault is None:
            return await self._pass(request)
        self.counts[fault.kind] += 1
        return await self._break(request, fault)

    def _draw(self) -> Fault | None:
        """The next decision. Three draws a request, so that the plan doesn't depend on earlier outcomes."""
        chance, choice, variant = (self._random.random() for _ in range(3))
        kinds = self.kinds
        return Fault(kinds[int(choice * len(kinds))], variant) if kinds and chance < self.rate else None

    def _refusal(self, request: web.Request) -> web.Response | None:
        credentials = request.headers.get("Authorization", "") + request.query.get("X-Amz-Credential", "")
        status = next((status for text, status in self._refusals.items() if text in credentials), None)
        if status is None:
            return None
        if credentials.lower().startswith("bearer"):
            reason = "authError" if status == 401 else "forbidden"
            error = {"code": status, "message": "Invalid Credentials", "errors": [{"reason": reason}]}
            return web.json_response({"error": error}, status=status)
        text = "<Error><Code>InvalidAccessKeyId</Code><Message>The access key is revoked.</Message></Error>"
        return web.Response(status=status, content_type="application/xml", text=text)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        async with await self._send(request) as upstream:
            self.counts["bytes up"] += request.content_length or 0
            answer = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=_end_to_end(upstream))
            await answer.prepare(request)
            if request.method != "HEAD":
                async for piece in upstream.content.iter_chunked(1 << 18):
                    self.counts["bytes down"] += len(piece)
                    await answer.write(piece)
            await answer.write_eof()
            return answer

    async def _break(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        match fault.kind:
            case "reset":
                return await self._reset(request, fault.variant)
            case "500" | "503" | "429":
                return await self._fail(request, fault)
            case "slow":
                return await self._slow(request)
            case "stall":
                return await self._stall(request, fault.variant)
            case "truncate":
                answer = await self._fetch(request)
                return await self._cut(request, answer, abort=False)

    async def _reset(self, request: web.Request, variant: float) -> web.StreamResponse:
        if variant < 1 / 3:
            return self._lost(request)
        answer = await self._fetch(request)
        return self._lost(request) if variant < 2 / 3 else await self._cut(request, answer, abort=True)

    async def _fail(self, request: web.Request, fault: Fault) -> web.Response:
        if fault.kind != "429" and fault.variant >= 0.5:
            await self._fetch(request)  # it takes effect, and the client is told that it failed
        else:
            await request.read()
        status = int(fault.kind)
        # The second binary digit: whether there is a Retry-After doesn't hang together with taking effect.
        headers = {"Retry-After": "1"} if status != 500 and int(fault.variant * 4) % 2 else {}
        code = {500: "InternalError", 503: "SlowDown", 429: "TooManyRequests"}[status]
        text = f"<Error><Code>{code}</Code><Message>by the fault proxy</Message></Error>"
        return web.Response(status=status, headers=headers, content_type="application/xml", text=text)

    async def _slow(self, request: web.Request) -> web.StreamResponse:
        answer = await self._fetch(request)
        out = _begin(answer)
        size = max(1, -(-len(answer.body) // SLOW_PIECES))
        starts = range(0, max(1, len(answer.body)), size)
        for start in starts:
            await asyncio.sleep(self.slow_seconds / len(starts))
            await out.prepare(request)
            await out.write(answer.body[start : start + size])
        await out.write_eof()
        return out

    async def _stall(self, request: web.Request, variant: float) -> web.StreamResponse:
        answer = await self._fetch(request)
        out = _begin(answer)
        half = len(answer.body) // 2 if variant < 0.5 else 0
        if half:
            await out.prepare(request)
            await out.write(answer.body[:half])
        await asyncio.sleep(self.stall_seconds)
        await out.prepare(request)
        await out.write(answer.body[half:])
        await out.write_eof()
        return out

    async def _cut(self, request: web.Request, answer: Answer, *, abort: bool) -> web.StreamResponse:
        """Promise the whole body, send half of it, and close or reset the connection."""
        if not answer.body:
            return self._lost(request)
        out = _begin(answer)
        out.content_length = len(answer.body)
        await out.prepare(request)
        await out.write(answer.body[: len(answer.body) // 2])
        await asyncio.sleep(0.01)  # the bytes leave before the connection does
        if abort:
            reset(request.transport)
        elif request.transport is not None:
            request.transport.close()
        return out

    def _lost(self, request: web.Request) -> web.Response:
        """Reset the connection. The response that is returned goes nowhere."""
        reset(request.transport)
        return web.Response()

    async def _fetch(self, request: web.Request) -> Answer:
        async with await self._send(request) as upstream:
            return Answer(upstream.status, _end_to_end(upstream), await upstream.read())

    async def _send(self, request: web.Request) -> ClientResponse:
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP
        )
        return await self._session.request(
            request.method,
            URL(self._upstream + request.raw_path, encoded=True),
            headers=headers,
            data=await request.read() or None,
            skip_auto_headers=AUTOMATIC_HEADERS,
            allow_redirects=False,
        )


class ResetAtOnce(asyncio.Protocol):
    """Resets the connection that it is given."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        reset(transport)


def reset(transport: asyncio.BaseTransport | None) -> None:
    """Close with a TCP RST: no linger, nothing flushed."""
    if not isinstance(transport, asyncio.Transport) or transport.is_closing():
        return
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _end_to_end(upstream: ClientResponse) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in upstream.headers.items() if name.lower() not in HOP_BY_HOP)


def _begin(answer: Answer) -> web.StreamResponse:
    return web.StreamResponse(status=answer.status, headers=answer.headers)
