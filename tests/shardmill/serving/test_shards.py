"""Shards of other tools are read by webdataset's rules; none is read in part without a word."""

import contextlib
import io
import tarfile

import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st

from shardmill.errors import CorruptionError
from shardmill.samples import EncodedSample
from shardmill.serving.refusals import Refusal
from shardmill.serving.shards import read_shard
from tests.shardmill.serving.conftest import tar_of

SAMPLES = [EncodedSample(f"train/image_{n}", {"cls": b"%d" % n, "jpg": bytes([n]) * 700}) for n in range(3)]


def read(data: bytes) -> list[EncodedSample]:
    return list(read_shard(io.BytesIO(data), "shard.tar"))


def by_tarfile(members: dict[str, bytes], **options: object) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def by_webdataset() -> bytes:
    stream = io.BytesIO()
    with wds.TarWriter(stream, encoder=False) as writer:
        for sample in SAMPLES:
            writer.write({"__key__": sample.key, **sample.components})
    return stream.getvalue()


MEMBERS = {f"{sample.key}.{name}": data for sample in SAMPLES for name, data in sample.components.items()}


@pytest.mark.parametrize(
    "data",
    [
        tar_of(*SAMPLES),
        by_webdataset(),
        by_tarfile(MEMBERS, format=tarfile.GNU_FORMAT),
        by_tarfile(MEMBERS, format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 2000}),
        by_tarfile({"__meta__/all.json": b"{}", "__meta__": b"", **MEMBERS, "README": b"no component"}),
    ],
    ids=["ours", "webdataset", "gnu", "pax", "beside"],
)
def test_each_is_read_and_none_that_is_cut(data: bytes) -> None:
    assert read(data) == SAMPLES
    blocks = len(data.rstrip(b"\0")) // 512 + 1
    for cut in range(blocks + 1):
        for more in (0, 1, 300):
            with pytest.raises(CorruptionError):
                read(data[: cut * 512 + more] if cut < blocks else data[: blocks * 512])


def test_names_are_those_that_packing_gives() -> None:
    long = "a" * 150
    found = read(by_tarfile({"Tag é/b c.JPEG": b"1", f"{long}.png": b"2"}))
    assert found[0] == EncodedSample("Tag%20%C3%A9/b%20c", {"jpg": b"1"})
    assert len(found[1].key) == 72


@pytest.mark.parametrize(
    "members", [["a.jpg", "b.jpg", "a.cls"], ["a.jpg", "a.jpeg"]], ids=["torn apart", "a component twice"]
)
def test_samples_that_are_torn_apart_are_refused(members: list[str]) -> None:
    with pytest.raises(CorruptionError, match="twice"):
        read(by_tarfile(dict.fromkeys(members, b"x")))


def test_links_and_folders_are_no_samples() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for kind, name in (
            (tarfile.SYMTYPE, "a.jpg"),
            (tarfile.DIRTYPE, "b"),
            (tarfile.CHRTYPE, "c.jpg"),
            (tarfile.LNKTYPE, "d.jpg"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert read(stream.getvalue()) == []


def test_a_header_that_claims_gigabytes_takes_none() -> None:
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.REGTYPE):
        member = tarfile.TarInfo("a.jpg")
        member.type, member.size = kind, 1 << 32
        with pytest.raises((Refusal, CorruptionError), match=r"too large|header of"):
            read(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


@settings(max_examples=200)
@given(st.binary(max_size=2000), st.integers(0, 3000), st.booleans())
def test_any_bytes_are_read_or_refused(noise: bytes, at: int, ours: bool) -> None:
    whole = tar_of(*SAMPLES) if ours else by_tarfile(MEMBERS)
    for data in (noise, whole[:at] + noise + whole[at + len(noise) :]):
        with contextlib.suppress(CorruptionError, Refusal):
            read(data)
