"""The server on a socket: connections that are slow are closed, and SIGTERM lets requests in work end."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from types import FrameType
from typing import Any

import h11
import uvicorn
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from shardmill.errors import ConfigurationError
from shardmill.serving.gate import log
from shardmill.serving.limits import MESSAGE_BYTES, Limits
from shardmill.serving.server import DatasetServer

_SILENCE = 10.0
"""Seconds between two lines that say the same."""


class _TimedProtocol(H11Protocol):
    """Closes a connection that sends no whole head of a request in time, or takes nothing of what is sent."""

    _head: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = self._closing_later()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting_for_a_head()
        elif self._head is None and self.conn.their_state is h11.IDLE:  # the next request, or a part of its head
            self._head = self._closing_later()

    @override
    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop_waiting_for_a_head()
        super().handle_websocket_upgrade(event)

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking = self._closing_later()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if self._taking is not None:
            self._taking.cancel()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting_for_a_head()
        if self._taking is not None:
            self._taking.cancel()
        super().connection_lost(exc)

    def _closing_later(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def _stop_waiting_for_a_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class Listener(uvicorn.Server):
    """Serves on a socket until it is told to stop, by SIGTERM, SIGINT or `should_exit`."""

    def __init__(self, server: DatasetServer, limits: Limits) -> None:
        config = uvicorn.Config(
            server.app,
            http=_TimedProtocol,
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws_max_size=MESSAGE_BYTES,
            timeout_keep_alive=limits.timeout,  # type: ignore[arg-type]  # seconds for `call_later`
            timeout_graceful_shutdown=max(1, round(limits.timeout)),
        )
        super().__init__(config)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Connections are taken from here on."""
        asyncio.get_running_loop().set_exception_handler(Complaints())
        await super().startup(sockets)

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A stop that was asked for is a success: the signal is not raised again afterwards."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


class Complaints:
    """What the event loop complains of. That files run out, it says thousands of times a second, and here once."""

    _said = -_SILENCE

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log one."""
        error = context.get("exception")
        if not isinstance(error, OSError) or "socket.accept() out of system resource" not in context["message"]:
            loop.default_exception_handler(context)
        elif loop.time() - self._said >= _SILENCE:
            self._said = loop.time()
            log.warning("no connection is taken for a second: %s", error.strerror)


def listen(host: str, port: int) -> socket.socket:
    """A socket; with port 0 on a free one.

    Raises:
        ConfigurationError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio looks at the protocol: of others it does not turn Nagle's algorithm off, and each answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
        return listener
    except (OSError, OverflowError) as error:
        listener.close()
        other = (
            "; take another --port, or 0 for a free one" if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        )
        raise ConfigurationError(f"cannot listen on {host}, port {port}: {error}{other}") from error
