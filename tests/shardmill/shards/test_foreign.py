"""Headers of tars that lie are refused: none is followed in a circle, none takes memory without bounds."""

import contextlib
import io
import tarfile
import tracemalloc
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardmill.errors import CorruptionError
from shardmill.shards.foreign import foreign_members


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """A header, and the data; the header may claim another size."""
    told = tarfile.TarInfo(name)
    told.type, told.size = kind, len(data) if size is None else size
    return told.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def extended(record: bytes) -> bytes:
    """A PAX header of one record."""
    length = len(record) + 2
    length += len(str(length))
    return member("p", b"%d %s\n" % (length, record), tarfile.XHDTYPE)


def names(data: bytes) -> list[str]:
    return [each.name for each in islice(foreign_members(io.BytesIO(data), "it.tar"), 100)]


END = bytes(1024)


@pytest.mark.parametrize(
    "data",
    [
        member("b", b"x", size=-1),
        extended(b"size=-1536") + member("b", b"x"),
        member("b", b"x", tarfile.GNUTYPE_LONGNAME, -512),
        extended(b"size=1" + b"0" * 30) + member("b", kind=b"Z") + member("c"),
        extended(b"a=b") * 500 + member("b"),
    ],
    ids=["a size below 0", "a circle", "a name below 0", "a size of no file", "headers of headers"],
)
def test_a_header_that_lies_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptionError, match=r"it\.tar"):
        names(member("a", b"abc") + data + END)


def test_a_header_of_megabytes_takes_no_memory() -> None:
    records = b"".join(b"14 %08d=x\n" % number for number in range(200_000))
    data = member("p", records, tarfile.XHDTYPE) + member("a.jpg") + END
    tracemalloc.start()
    try:
        with pytest.raises(CorruptionError, match="header"):
            names(data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_files_alone_are_given_and_the_end_is_where_it_should_be() -> None:
    whole = member("a.jpg", b"abc") + member("d", kind=tarfile.DIRTYPE) + extended(b"path=long") + member("b", b"x")
    stream = io.BytesIO(whole + END)
    assert [each.name for each in foreign_members(stream, "it.tar")] == ["a.jpg", "long"]
    assert stream.tell() == len(whole)


def header(kind: bytes = b"0", size: int = 0, pax: dict[str, str] | None = None) -> bytes:
    """The header of `b.txt`; a size may be below 0, or above what a file can have."""
    member = tarfile.TarInfo("b.txt")
    member.type, member.pax_headers = kind, pax or {}
    data = bytearray(member.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT))
    start = len(data) - 512
    data[start + 124 : start + 136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT) if size else b"0" * 11 + b"\0"
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start:])
    return bytes(data)


GOOD = header()
LONG_NAME = header(tarfile.GNUTYPE_LONGNAME, 2) + b"x".ljust(512, b"\0")


@pytest.mark.parametrize(
    "data",
    [
        GOOD + header(size=-512) + END,
        GOOD + header(size=-1024) + END,
        GOOD + header(size=-(1 << 80)) + END,
        GOOD + header(b"9", -512) + END,
        GOOD + header(tarfile.GNUTYPE_SPARSE, -1024) + END,
        GOOD + header(tarfile.GNUTYPE_LONGNAME, -1024) + END,
        GOOD + header(tarfile.XHDTYPE, -1) + END,
        GOOD + header(pax={"size": "-512"}) + END,
        GOOD + header(b"9", 1 << 80) + END,
        LONG_NAME * 3000 + GOOD + END,
        GOOD + header(tarfile.XHDTYPE, 512) + b"99999999999999999999 a=b\n".ljust(512, b"\0") + GOOD + END,
    ],
    ids=[
        "below 0", "to the header before", "far below 0", "of a kind that is passed over", "sparse", "a long name",
        "pax", "said by pax", "beyond any file", "names of names", "a length beyond any file",
    ],
)  # fmt: skip
def test_sizes_and_headers_that_lead_nowhere_are_damage(data: bytes) -> None:
    with pytest.raises(CorruptionError, match=r"it\.tar (is no tar, or )?(is )?damaged|it\.tar has a header"):
        names(data)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from([GOOD, LONG_NAME, header(pax={"a": "b"}), END, header(b"S"), header(b"x")]), max_size=6),
    st.lists(st.tuples(st.integers(0, 2999), st.sampled_from(b"\0\x80\xff0179xgLKS")), max_size=4),
)
def test_any_bytes_are_read_or_refused(parts: list[bytes], changes: list[tuple[int, int]]) -> None:
    data = bytearray(b"".join(parts))
    for at, byte in changes:
        data[at : at + 1] = bytes([byte])[: len(data) - at]
    for start in range(0, len(data) - 511, 512):  # so that what was changed is looked at
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    with contextlib.suppress(CorruptionError):
        names(bytes(data))
