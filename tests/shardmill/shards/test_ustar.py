import hashlib
import io
import tarfile
import warnings
from itertools import pairwise

import pytest
import webdataset
from hypothesis import example, given
from hypothesis import strategies as st

from shardmill.errors import CorruptionError
from shardmill.samples import EncodedSample
from shardmill.shards.ustar import BLOCK, MAX_MEMBER, TarWriter, member_header, read_samples, stored_size
from shardmill.sources.names import encode_component, encode_key

KEYS = st.text(min_size=1).map(encode_key) | st.text("a/%", min_size=1, max_size=80).map(encode_key)
COMPONENTS = st.text(st.characters(exclude_characters="/", codec="utf-8"), min_size=1).map(encode_component)
DATA = st.binary(max_size=1500) | st.integers(0, 3).map(lambda n: bytes(n * BLOCK))
SAMPLES = st.dictionaries(KEYS, st.dictionaries(COMPONENTS, DATA, min_size=1, max_size=3), max_size=5)
Samples = dict[str, dict[str, bytes]]

FEW: Samples = {
    "train/a": {"cls": b"1", "jpg": b"\xff\xd8" * 300},
    "train/b": {"cls": b"2", "jpg": b""},
    "c%20d": {"cls": b"3", "jpg": bytes(512)},
}


def archive(samples: Samples) -> bytes:
    stream = io.BytesIO()
    tar = TarWriter(stream)
    for key, components in samples.items():
        for component in sorted(components):
            tar.write(key, component, components[component])
    assert tar.close() == hashlib.sha256(stream.getvalue()).hexdigest()
    assert tar.size == len(stream.getvalue())
    return stream.getvalue()


def read(data: bytes) -> Samples:
    return {sample.key: dict(sample.components) for sample in read_samples(io.BytesIO(data), "here")}


@given(SAMPLES)
def test_what_is_written_is_read(samples: Samples) -> None:
    found = list(read_samples(io.BytesIO(archive(samples)), "here"))
    assert {sample.key: sample.components for sample in found} == samples
    assert [sample.key for sample in found] == list(samples)


@given(SAMPLES)
def test_tarfile_reads_what_is_written(samples: Samples) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(samples)), mode="r:") as tar:
        members = [(member.name, tar.extractfile(member)) for member in tar]
    names = [f"{key}.{component}" for key, components in samples.items() for component in sorted(components)]
    assert [name for name, _ in members] == names


@given(st.dictionaries(KEYS, st.dictionaries(COMPONENTS, DATA, min_size=1, max_size=3), min_size=1, max_size=5))
def test_webdataset_reads_what_is_written(samples: Samples) -> None:
    files = webdataset.tariterators.tar_file_iterator(io.BytesIO(archive(samples)))
    grouped = webdataset.tariterators.group_by_keys({**file, "__url__": "here"} for file in files)
    found = {sample.pop("__key__"): sample for sample in grouped}
    for sample in found.values():
        sample.pop("__url__")
    assert found == samples


@given(KEYS, COMPONENTS, DATA)
@example("a/_b", "_c", b"data")
def test_members_are_byte_for_byte_those_of_webdataset_s_writer(key: str, component: str, data: bytes) -> None:
    theirs = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer = webdataset.TarWriter(theirs, user="", group="", mtime=0, encoder=False, keep_meta=True)
        writer.write({"__key__": key, component: data})
        writer.close()
    size = stored_size(len(data))
    assert archive({key: {component: data}})[:size] == theirs.getvalue()[:size]


def test_headers_are_plain_ustar() -> None:
    header = member_header("a.jpg", 5)
    [member] = [tarfile.TarInfo.frombuf(header, "ascii", "strict")]
    assert (member.name, member.size, member.mode, member.mtime) == ("a.jpg", 5, 0o444, 0)
    assert (member.uid, member.gid, member.uname, member.gname, member.type) == (0, 0, "", "", tarfile.REGTYPE)
    assert header[257:265] == b"ustar\x0000"


@given(SAMPLES)
def test_equal_samples_give_equal_bytes(samples: Samples) -> None:
    assert archive(samples) == archive({key: dict(reversed(parts.items())) for key, parts in samples.items()})


@given(SAMPLES)
def test_the_size_is_known_before(samples: Samples) -> None:
    members = sum(stored_size(len(data)) for components in samples.values() for data in components.values())
    assert len(archive(samples)) == members + 2 * BLOCK


@given(st.lists(DATA, min_size=1, max_size=5))
def test_offsets_are_those_of_the_data(parts: list[bytes]) -> None:
    stream = io.BytesIO()
    tar = TarWriter(stream)
    offsets = [tar.write(f"k{number}", "bin", data) for number, data in enumerate(parts)]
    tar.close()
    assert [stream.getvalue()[offset:][: len(data)] for offset, data in zip(offsets, parts, strict=True)] == parts
    assert all(one < two for one, two in pairwise(offsets))


def test_an_archive_of_nothing_holds_nothing() -> None:
    assert archive({}) == bytes(2 * BLOCK)
    assert read(archive({})) == {}


@pytest.mark.parametrize(
    ("name", "size"),
    [("", 1), ("x" * 101, 1), ("é.jpg", 1), ("a\0.jpg", 1), ("a.jpg", -1), ("a.jpg", MAX_MEMBER + 1)],
)
def test_what_ustar_cannot_hold_is_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"ustar|ascii"):
        member_header(name, size)


def test_the_longest_name_and_the_largest_member_fit() -> None:
    member = tarfile.TarInfo.frombuf(member_header("x" * 96 + ".jpg", MAX_MEMBER), "ascii", "strict")
    assert (member.name, member.size) == ("x" * 96 + ".jpg", MAX_MEMBER)


# Damage


def test_a_truncated_archive_is_corrupt_at_every_cut() -> None:
    data = archive(FEW)
    assert read(data) == FEW
    for cut in range(len(data)):
        with pytest.raises(CorruptionError, match="here"):
            read(data[:cut])


def test_every_altered_byte_outside_the_data_is_corrupt() -> None:
    data = archive(FEW)
    inside = set()
    offset = 0
    for components in FEW.values():
        for component in sorted(components):
            size = len(components[component])
            inside.update(range(offset + BLOCK, offset + BLOCK + size))
            offset += stored_size(size)
    for place in set(range(len(data))) - inside:
        for bit in (0, 6):
            altered = bytearray(data)
            altered[place] ^= 1 << bit
            with pytest.raises(CorruptionError, match="here"):
                read(bytes(altered))


@pytest.mark.parametrize("more", [b"\0", bytes(BLOCK), b"x", archive(FEW)], ids=["a zero", "a block", "x", "a tar"])
def test_something_appended_is_corrupt(more: bytes) -> None:
    with pytest.raises(CorruptionError, match="appended"):
        read(archive(FEW) + more)


def test_a_component_twice_is_corrupt() -> None:
    stream = io.BytesIO()
    tar = TarWriter(stream)
    for _ in range(2):
        tar.write("a", "jpg", b"data")
    tar.close()
    with pytest.raises(CorruptionError, match=r"here holds a\.jpg twice"):
        read(stream.getvalue())


@pytest.mark.parametrize("field", [b"-0000000001", b"         1\0", b"0x000000001", b"1_000000000", b"\xff" * 11])
def test_a_size_that_is_no_size_is_corrupt(field: bytes) -> None:
    header = bytearray(member_header("a.jpg", 1))
    header[124:135] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(CorruptionError, match="here"):
        read(bytes(header) + bytes(3 * BLOCK))


def test_a_tar_that_shardmill_did_not_write_is_refused() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        member = tarfile.TarInfo("a.jpg")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"data"))
    with pytest.raises(CorruptionError, match="not a shard that Shardmill wrote"):
        read(stream.getvalue())


def test_samples_before_the_damage_are_given() -> None:
    samples = read_samples(io.BytesIO(archive(FEW)[:-100]), "here")
    assert next(samples) == EncodedSample("train/a", FEW["train/a"])
