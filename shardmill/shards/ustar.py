"""Plain ustar (POSIX.1-1988), the only tar that Shardmill writes: one 512-byte header a member, no extensions.

Headers are fixed but for name and size (mode 0444, ids 0, mtime 0, no owner names), so that equal samples give equal
bytes.
"""

import hashlib
from collections.abc import Iterator
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from shardmill.errors import CorruptionError
from shardmill.samples import EncodedSample

BLOCK = 512
MAX_MEMBER = 8**11 - 1
"""Largest size that a ustar header can state: 8 GiB less one byte."""
_END = bytes(2 * BLOCK)
_OWNER = b"0000444\x000000000\x000000000\x00"
_TIME = b"\x0000000000000\x00"
_KIND = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
_FIXED_SUM = sum(_OWNER + _TIME + b" " * 8 + _KIND)
"""Over the bytes of a header but for the name and the size; those of the sum count as blanks."""


Size = TypeVar("Size", int, NDArray[np.int64])


def stored_size(size: Size) -> Size:
    """Bytes that a member of `size` bytes takes in the archive, header and padding included."""
    return BLOCK + size + -size % BLOCK


def member_header(name: str, size: int) -> bytes:
    """The 512-byte header.

    Raises:
        ValueError: `name` is not ASCII or longer than 100 bytes, or `size` is above `MAX_MEMBER`.
    """
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= 100 or b"\0" in encoded or not 0 <= size <= MAX_MEMBER:
        raise ValueError(f"ustar cannot hold a member named {name!r} of {size} bytes")
    digits = b"%011o" % size
    checksum = b"%06o\x00 " % (_FIXED_SUM + sum(encoded) + sum(digits))
    return b"".join((encoded.ljust(100, b"\0"), _OWNER, digits, _TIME, checksum, _KIND))


class TarWriter:
    """Writes samples to a stream, hashing as it goes."""

    def __init__(self, stream: BinaryIO) -> None:
        """Nothing else may write to `stream`."""
        self._stream = stream
        self._digest = hashlib.sha256()
        self.size = 0
        """Bytes written so far."""

    def write(self, key: str, component: str, data: bytes) -> int:
        """Append one component; a sample's components come one after the other, sorted. Returns the data's offset."""
        self._append(member_header(f"{key}.{component}", len(data)))
        offset = self.size
        self._append(data)
        self._append(bytes(-len(data) % BLOCK))
        return offset

    def close(self) -> str:
        """Write the end of the archive. Returns the SHA-256 of everything, in hexadecimal. The stream stays open."""
        self._append(_END)
        return self._digest.hexdigest()

    def _append(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self.size += len(data)


def read_samples(stream: BinaryIO, where: str) -> Iterator[EncodedSample]:
    """Samples of a shard, in its order.

    A tar has no digest of its data: only the index can tell that a member's bytes are those that were written.

    Raises:
        CorruptionError: It is anything but a whole archive; names `where`.
    """
    key: str | None = None
    components: dict[str, bytes] = {}
    for name, data in _read_members(stream, where):
        folder, slash, base = name.rpartition("/")
        stem, _, component = base.partition(".")
        if folder + slash + stem != key:
            if key is not None:
                yield EncodedSample(key, components)
            key, components = folder + slash + stem, {}
        if component in components:
            raise CorruptionError(f"{where} holds {name} twice")
        components[component] = data
    if key is not None:
        yield EncodedSample(key, components)


def _read_members(stream: BinaryIO, where: str) -> Iterator[tuple[str, bytes]]:
    while True:
        header = stream.read(BLOCK)
        if header == _END[:BLOCK]:
            break
        if len(header) < BLOCK:
            raise CorruptionError(f"{where} ends before its end marker: it is truncated")
        try:
            name = header[:100].rstrip(b"\0").decode("ascii")
            size = int(header[124:135], 8)
            sound = header == member_header(name, size)
        except ValueError:
            sound = False
        if not sound:
            raise CorruptionError(f"{where} is not a shard that Shardmill wrote, or it is damaged")
        data = stream.read(size)
        padding = stream.read(-size % BLOCK)
        if len(data) < size or len(padding) < -size % BLOCK:
            raise CorruptionError(f"{where} ends within {name}: it is truncated")
        if any(padding):
            raise CorruptionError(f"{where} is damaged after {name}")
        yield name, data
    if stream.read(BLOCK + 1) != _END[BLOCK:]:
        raise CorruptionError(f"{where} does not end with its end marker: it is truncated, or something was appended")
