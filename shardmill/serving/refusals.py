"""What the server answers where it does not answer with bytes: a status, and a reason as JSON."""

import json
from collections.abc import Mapping
from typing import Any

from shardmill.errors import ShardmillError

METHODS = ("GET", "PUT")
"""Of AIStore's contract: hpull and hpush."""


class Refusal(ShardmillError):
    """A request that is not answered with a result.

    `reason` is a short phrase that can be counted by; `detail` says what, where and what to do.
    """

    def __init__(self, status: int, reason: str, detail: str = "", **fields: Any) -> None:
        super().__init__(status, reason, detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason

    @property
    def headers(self) -> Mapping[str, str]:
        """Beside the type and the length of the body."""
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        if self.status == 405:
            return {"allow": ", ".join(METHODS)}
        return {"retry-after": "1"} if self.status == 503 else {}

    def body(self) -> bytes:
        """`{"reason": …, "detail": …}`, in ASCII."""
        return json.dumps({"reason": self.reason, "detail": self.detail, **self.fields}).encode()


def full(what: str) -> Refusal:
    """The server has as much to do as it may: the same request succeeds later."""
    return Refusal(503, "busy", f"{what}; try again")
