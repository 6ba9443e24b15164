"""The contract's direct put: the result goes to the next server of a pipeline, or to the target that stores it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
from aistore.sdk.const import HEADER_DIRECT_PUT_LENGTH, HEADER_NODE_URL
from aistore.sdk.etl.webserver.base_etl_server import RETRY_BACKOFF_BASE, RETRY_BACKOFF_MAX
from aistore.sdk.etl.webserver.utils import compose_etl_direct_put_url

from shardmill.serving.limits import CHUNK, Budget, Spool
from shardmill.serving.refusals import Refusal
from shardmill.serving.result import Result

_LENGTH = re.compile("[0-9]{1,19}")


@dataclass(frozen=True)
class Delivered:
    """What the next one answers: a status, and what it made of the result, if it gives that back."""

    status: int
    length: int
    """Bytes that were stored, 0 if that is not known."""
    content: Spool

    @property
    def headers(self) -> dict[str, str]:
        """As the SDK's servers have them."""
        return {HEADER_DIRECT_PUT_LENGTH: str(self.length)} if self.length else {}


@dataclass(frozen=True)
class DirectPut:
    """Sends results on."""

    client: httpx.AsyncClient
    target: str
    """`AIS_TARGET_URL`."""
    retries: int
    timeout: float
    budget: Budget
    most: int
    """Bytes that are taken back."""

    async def send(self, result: Result, nodes: tuple[str, str], path: str, etl_args: str) -> Delivered:
        """Put a result to the first of `nodes`, which is told of the others. What is lost on the way is sent again.

        Raises:
            Refusal: It is no URL, cannot be reached, or answers with what HTTP does not know.
        """
        first, others = nodes
        try:
            url = httpx.URL(compose_etl_direct_put_url(first, self.target, path, etl_args))
            if not 0 < (1 if url.port is None else url.port) < 1 << 16:
                raise ValueError("ports end at 65535")
        except (ValueError, httpx.InvalidURL) as error:
            raise Refusal(400, "bad pipeline", f"{first!r} is no URL: {error}") from error
        headers = {"content-length": str(result.size)} | ({HEADER_NODE_URL: others} if others else {})
        for attempt in range(self.retries + 1):
            try:
                return await self._put(url, headers, result)
            except httpx.RequestError as error:
                if attempt == self.retries or not isinstance(error, httpx.TransportError):
                    what = f"direct put failed after {attempt + 1} tries: {type(error).__name__}"
                    raise Refusal(502, "direct put failed", what) from error
            await asyncio.sleep(min(RETRY_BACKOFF_BASE**attempt, RETRY_BACKOFF_MAX))
        raise AssertionError

    async def _put(self, url: httpx.URL, headers: dict[str, str], result: Result) -> Delivered:
        content = Spool(self.budget, self.most)
        try:
            async with self.client.stream(
                "PUT", url, content=_pieces(result), headers=headers, timeout=self.timeout
            ) as response:
                if not 200 <= response.status_code < 600:
                    raise Refusal(502, "direct put failed", f"it is answered by status {response.status_code}")
                async for data in response.aiter_bytes(CHUNK):
                    content.write(data)
        except BaseException:
            content.close()
            raise
        if response.status_code == 204:
            length = response.headers.get(HEADER_DIRECT_PUT_LENGTH, "")
            return Delivered(204, int(length) if _LENGTH.fullmatch(length) else 0, content)
        if response.status_code == 200 and not content.size:  # a target has stored it
            return Delivered(204, result.size, content)
        return Delivered(response.status_code, 0, content)


async def _pieces(result: Result) -> AsyncIterator[bytes]:
    for data in result.pieces():
        yield data
