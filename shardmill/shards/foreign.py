"""The files in tars that other tools have written, whatever their headers say."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import Protocol

from shardmill.errors import CorruptionError

_MEMBER = re.compile(r"((?:.*/|)[^.]+)[.]([^/]+)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
_HEADER_BYTES = 1 << 20
"""Of one file, extended headers included: `tarfile` makes of each byte of theirs ten in memory."""


class Seekable(Protocol):
    """What `tarfile` asks of a file that it reads."""

    def read(self, size: int, /) -> bytes: ...  # noqa: D102

    def seek(self, position: int, /) -> object: ...  # noqa: D102

    def tell(self) -> int: ...  # noqa: D102


def foreign_members(stream: Seekable, where: str) -> Iterator[tarfile.TarInfo]:
    """The regular files of a tar without compression, in order.

    Whoever takes them may move `stream`. Behind the last one it stands where the tar should end.

    Raises:
        CorruptionError: It is no tar, or a header of it is damaged.
    """
    heads, stop = _Heads(stream, where), 0
    try:
        with tarfile.open(fileobj=heads, mode="r:") as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members.clear()
                heads.taken = 0
                if member.size < 0 or tar.offset < member.offset_data or tar.offset <= stop:  # `tarfile` follows it
                    raise CorruptionError(f"{where} is damaged at byte {member.offset:,}: a size below 0")
                stop = tar.offset
                if member.issparse():
                    raise CorruptionError(
                        f"{where} has {member.name} as a sparse file, which is not read: pack it anew"
                    )
                if member.isreg():
                    yield member
            stop = tar.offset
    except (tarfile.TarError, ValueError, OverflowError, IndexError, RecursionError) as error:
        raise CorruptionError(f"{where} is no tar, or damaged: {error}") from error
    stream.seek(stop)


def key_and_component(name: str) -> tuple[str, str] | None:
    """What webdataset takes a file's name for; None where it belongs to no sample."""
    match = _MEMBER.fullmatch(name)
    return None if match is None or _META.match(name) else (match[1], match[2])


class _Heads:
    """A tar as `tarfile` reads it: headers alone."""

    def __init__(self, stream: Seekable, where: str) -> None:
        self._stream, self._where = stream, where
        self.taken = 0
        """Bytes for one file."""

    def read(self, size: int) -> bytes:
        self.taken += size
        if size < 0 or self.taken > _HEADER_BYTES:
            raise CorruptionError(f"{self._where} has a header of {size:,} bytes, or many: that is none of a sample's")
        return self._stream.read(size)

    def seek(self, position: int) -> object:
        if position < 0:
            raise CorruptionError(f"{self._where} is damaged: a size leads before its beginning")
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()
