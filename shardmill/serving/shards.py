"""Shards that come in: our own, and those of other tools, by webdataset's rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from shardmill.errors import CorruptionError
from shardmill.samples import EncodedSample
from shardmill.serving.limits import SAMPLE_BYTES
from shardmill.serving.refusals import Refusal
from shardmill.shards.foreign import foreign_members, key_and_component
from shardmill.shards.ustar import BLOCK, member_header, read_samples
from shardmill.sources.names import encode_component, encode_key


def read_shard(stream: BinaryIO, where: str) -> Iterator[EncodedSample]:
    """The samples of a shard, in its order, named as packing names them.

    Raises:
        CorruptionError: It is no tar, not whole, or tears samples apart.
        Refusal: A sample is too large.
    """
    counted = _Counted(stream)
    is_ours = _is_ours(stream.read(BLOCK))
    stream.seek(0)
    samples = read_samples(counted, where) if is_ours else _read_other(counted, where)  # type: ignore[arg-type]
    for sample in samples:
        counted.given = 0
        yield replace(sample, is_checked=False)


def _is_ours(header: bytes) -> bool:
    """Whether a header is one of ours, or an end: then nothing of others may come, and all of it is checked."""
    try:
        name, size = header[:100].rstrip(b"\0").decode("ascii"), int(header[124:135], 8)
        return header == member_header(name, size)
    except ValueError:
        return header == bytes(BLOCK)


def _read_other(stream: _Counted, where: str) -> Iterator[EncodedSample]:
    key, components, seen = "", dict[str, bytes](), set[str]()
    for name, data in _members(stream, where):
        found = key_and_component(name)
        if found is None:
            continue
        called, component = encode_key(found[0]), encode_component(found[1])
        if called != key:
            if components:
                yield EncodedSample(key, components)
            if called in seen:
                raise CorruptionError(f"{where} has a sample {called} twice, or its components apart from each other")
            key, components = called, {}
            seen.add(key)
        if component in components:
            raise CorruptionError(f"{where} holds {key}.{component} twice")
        components[component] = data
    if components:
        yield EncodedSample(key, components)


def _members(stream: _Counted, where: str) -> Iterator[tuple[str, bytes]]:
    for member in foreign_members(stream, where):
        stream.seek(member.offset_data)
        data = stream.read(member.size)
        if len(data) < member.size:
            raise CorruptionError(f"{where} ends within {member.name}: it is truncated")
        yield member.name, data
    end = stream.read(BLOCK)
    if len(end) < BLOCK or any(end):
        raise CorruptionError(f"{where} has no end marker: it is truncated, or damaged")


class _Counted:
    """A file that gives no more for one sample than may be in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.given = 0

    def read(self, size: int) -> bytes:
        self.given += size
        if self.given > SAMPLE_BYTES:
            raise Refusal(413, "too large", f"a sample of a shard has at most {SAMPLE_BYTES:,} bytes")
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()
