"""What every request passes: the token, how many are in work, how slow and how large its body may be, its log line."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from shardmill.serving.limits import SLOWEST, WEBSOCKETS, Limits
from shardmill.serving.refusals import METHODS, Refusal, full

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HEALTH = "/health"
_LINGER = 5.0
"""Seconds for which the rest of a refused body is read and thrown away, so that the client gets to see the answer."""
_AT_ONCE = 0.1
"""Seconds: a client that asks again has its answer a moment before the server knows that it took it."""

log = logging.getLogger("shardmill.serve")


class ClientGoneError(Exception):
    """Nobody waits for the answer any more; says why."""


class Admission:
    """How many requests are in work. Of the event loop alone."""

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)
        self.count = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """One more while the block lasts.

        Raises:
            Refusal: There are as many as there may be, and none of them ends at once.
        """
        try:
            async with asyncio.timeout(_AT_ONCE):
                await self._free.acquire()
        except TimeoutError:
            raise full(f"{self.count} requests are in work") from None
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
            self._free.release()


class Gate:
    """An ASGI middleware. `/health` passes as it is."""

    def __init__(self, app: App, limits: Limits, admission: Admission, token: str | None) -> None:
        self._app = app
        self._limits = limits
        self._admission = admission
        self._sockets = Admission(WEBSOCKETS)
        self._token = token.encode() if token else None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and scope["path"] != HEALTH:
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _websocket(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        try:
            if not self._knows(scope):
                raise Refusal(401, "no token")
            async with self._sockets.one():
                await self._app(scope, receive, send)
        except Refusal as refusal:
            log.info("WS refused (%s)", refusal)
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        started = time.monotonic()
        exchange = _Exchange(receive, send, self._limits)
        try:
            try:
                if not self._knows(scope):
                    raise Refusal(401, "no token", "send the token as `Authorization: Bearer …`")
                if scope["method"] not in METHODS:
                    raise Refusal(405, "method not allowed", f"objects are asked for by {' or '.join(METHODS)}")
                exchange.check_length(scope["headers"])
                async with self._admission.one():
                    await self._app(scope, exchange.receive, exchange.send)
            except Refusal as refusal:
                exchange.note = f" ({str(refusal)!a})"
                await refuse(refusal, exchange.send)
            except ClientGoneError:
                raise
            except Exception:
                log.exception("a defect of the server:")
                if exchange.status is not None:
                    raise
                await refuse(Refusal(500, "defect", "the log of the server tells more"), exchange.send)
        except ClientGoneError as gone:
            exchange.note = f" ({gone})"
        finally:
            log.info(
                "%s %s %s, %d bytes in, %d out, %.3f s%s",
                scope["method"],
                ascii(scope["path"]),
                exchange.status or "no answer",
                exchange.taken,
                exchange.sent,
                time.monotonic() - started,
                exchange.note,
            )

    def _knows(self, scope: MutableMapping[str, Any]) -> bool:
        """Whether the request has the token, if there is one."""
        if self._token is None:
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, token = given.partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)


async def refuse(refusal: Refusal, send: Send) -> None:
    """Send a refusal."""
    body = refusal.body()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class _Exchange:
    """One request and its response: what is received and sent, within limits of size and time."""

    def __init__(self, receive: Receive, send: Send, limits: Limits) -> None:
        self._receive, self._send, self._limits = receive, send, limits
        self._started = time.monotonic()
        self._sending: float | None = None
        self._whole = False
        """Whether all of the body came."""
        self._is_gone = False
        self.status: int | None = None
        self.note = ""
        self.taken = self.sent = 0

    def check_length(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Look at what the request says of its body.

        Raises:
            Refusal: It is too large.
        """
        given = dict(headers)
        length = given.get(b"content-length", b"0")
        self._whole = length == b"0" and b"transfer-encoding" not in given
        if int(length) > self._limits.body_bytes:
            raise Refusal(413, "too large", f"a body has at most {self._limits.body_bytes:,} bytes")

    async def receive(self) -> Message:
        """The next part of the body; after it, when the client is gone.

        Raises:
            Refusal: It comes too slowly.
        """
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout(self._limits.timeout):
                message = await self._receive()
        except TimeoutError:
            raise self._too_slow() from None
        if message["type"] == "http.disconnect":
            self._is_gone = True
            return message
        self.taken += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if not self._whole and time.monotonic() - self._started > self._limits.timeout + self.taken / SLOWEST:
            raise self._too_slow()
        return message

    async def send(self, message: Message) -> None:
        """Pass a part of the response on.

        Raises:
            ClientGoneError: The client does not take it.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._sending = time.monotonic()
            if not self._whole:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        else:
            body = message.get("body", b"")
            if not message.get("more_body", False) and not self._whole and not self._is_gone:
                await self._pass({**message, "more_body": True})
                await self._linger()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            self.sent += len(body)
        await self._pass(message)

    async def _pass(self, message: Message) -> None:
        assert self._sending is not None
        try:
            async with asyncio.timeout(self._limits.timeout):
                await self._send(message)
        except TimeoutError:
            raise ClientGoneError("the client takes nothing") from None
        if time.monotonic() - self._sending > self._limits.timeout + self.sent / SLOWEST:
            raise ClientGoneError("the client reads too slowly")

    async def _linger(self) -> None:
        """A connection that is closed while data come is reset, and the answer may be lost with it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_LINGER, self._limits.timeout)):
                while (await self._receive()).get("more_body", False):
                    pass

    def _too_slow(self) -> Refusal:
        return Refusal(408, "too slow", f"the body stopped, or came with less than {SLOWEST:,} bytes a second")
