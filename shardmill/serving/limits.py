"""How much the server holds at once."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from dataclasses import dataclass, field
from typing import BinaryIO

from shardmill.concurrency import usable_cores
from shardmill.serving.refusals import Refusal, full

IN_MEMORY = 256 << 10
"""Bytes of a body or a result that are held in memory; more of it is on the disk."""
CHUNK = 256 << 10
"""Bytes that are read and sent at a time."""
SAMPLE_BYTES = 256 << 20
"""Of one sample, headers in the tar included: it has to be in memory as a whole."""
SHARD_SAMPLES = 100_000
"""Of a shard: what became of each is in memory."""
WEBSOCKETS = 32
"""Connections at once; each may have a message in memory, and its result."""
MESSAGE_BYTES = 16 << 20
"""Of a message over a WebSocket."""
SLOWEST = 16 << 10
"""Bytes a second: a client that is slower on the whole is cut off."""


@dataclass(frozen=True)
class Limits:
    """What a server takes on."""

    requests: int = 128
    """In work at once; others are told to come again."""
    body_bytes: int = 1 << 30
    """Of a request's body, or of an object that is pulled."""
    held_bytes: int = 4 << 30
    """Of all bodies and results at once, most of them on the disk."""
    timeout: float = 30.0
    """Seconds that a client or a target may be silent, and that requests in work have when the server stops."""
    threads: int = field(default_factory=usable_cores)
    """That transform samples."""


class Budget:
    """Bytes that all requests together may hold. Threads share it."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._lock = threading.Lock()
        self.taken = 0

    def take(self, count: int) -> None:
        """Take some, until `give` gives them back.

        Raises:
            Refusal: So many are not left.
        """
        with self._lock:
            if self.taken + count > self._total:
                raise full("the server holds as many bytes as it may")
            self.taken += count

    def give(self, count: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self.taken -= count


class Spool:
    """Bytes of a request, held until it is answered: in memory if they are few, else in a file without a name."""

    def __init__(self, budget: Budget, most: int | None = None) -> None:
        """`most` bytes go in."""
        self._budget = budget
        self._most = most
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._taken = 0
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """Of what was written, in hexadecimal."""
        return self._digest.hexdigest()

    def expect(self, size: int) -> None:
        """Make sure of room for `size` bytes in all.

        Raises:
            Refusal: They are too many, or there is no room for them now.
        """
        if self._most is not None and size > self._most:
            raise Refusal(413, "too large", f"at most {self._most:,} bytes are taken")
        if size > self._taken:
            self._budget.take(size - self._taken)
            self._taken = size

    def write(self, data: bytes) -> int:
        """Append.

        Raises:
            Refusal: As `expect`; or the disk is full.
        """
        self.expect(self.size + len(data))
        try:
            self._file.write(data)
            self._file.flush()  # what does not go to the disk is told now, and not to whoever reads
        except OSError as error:
            raise full(f"the server cannot hold more: {error.strerror}") from error
        self._digest.update(data)
        self.size += len(data)
        return len(data)

    def reader(self) -> BinaryIO:
        """From the beginning. It is the spool's own: one at a time."""
        self._file.seek(0)
        return self._file  # type: ignore[return-value]

    def close(self) -> None:
        """Let go of the bytes."""
        try:
            self._file.close()
        except OSError:  # it still tries to write what the disk had no room for
            pass
        finally:
            self._budget.give(self._taken)
            self._taken = 0
