"""What a request is answered with: bytes that are held, and what is said of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from shardmill.serving.limits import CHUNK, IN_MEMORY, Spool


@dataclass(frozen=True)
class Result:
    """The result of a transform."""

    content: Spool
    media_type: str
    head: bytes = b""
    """What comes before the content."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self.head) + self.content.size

    def pieces(self) -> Iterator[bytes]:
        """The bytes, from the beginning."""
        if self.head:
            yield self.head
        reader = self.content.reader()
        while data := reader.read(CHUNK):
            yield data


class HeldResponse(Response):
    """Sends a result, and lets go of it."""

    def __init__(self, result: Result, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(None, status, {**result.headers, **(headers or {})}, result.media_type)
        self._result = result
        if status != 204:
            self.headers["content-length"] = str(result.size)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            pieces, data = self._result.pieces(), b""
            if self._result.size <= IN_MEMORY:
                data = b"".join(pieces)
            else:
                while data := await asyncio.to_thread(next, pieces, b""):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": data, "more_body": False})
        finally:
            self._result.content.close()
