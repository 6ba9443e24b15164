"""Tars of others: found by name, counted by their headers, read as webdataset reads them."""

import io
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
import pytest
import webdataset
from PIL import Image

from shardmill.errors import ChangedError, ConfigurationError, CorruptionError, Rejected
from shardmill.images.reasons import CORRUPT_IMAGE
from shardmill.loading.prepare import Prepare
from shardmill.loading.sources import Source, open_source
from shardmill.samples import EncodedSample
from shardmill.storage import Storage
from shardmill.transforms import TransformSpec, build_transform
from tests.pictures import save, smooth
from tests.servers.places import NewPlace

Members = Sequence[tuple[str, bytes]]


def tar(members: Members, form: int = tarfile.USTAR_FORMAT, **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=str(options.get("mode", "w")), format=form) as archive:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def some(first: int, count: int) -> list[tuple[str, bytes]]:
    return [
        (f"dir.x/{n:04}.{suffix}", data)
        for n in range(first, first + count)
        for suffix, data in (("JPG", b"j" * n), ("seg.png", b"p%d" % n), ("cls", b"%d" % n))
    ]


def read(source: Source) -> list[EncodedSample]:
    found = [sample for shard in source.shards for _, sample in shard.read([range(shard.samples)])]
    return [sample for sample in found if isinstance(sample, EncodedSample)]


def as_webdataset(files: Sequence[Path]) -> list[EncodedSample]:
    read = webdataset.WebDataset([str(file) for file in files], shardshuffle=False)
    return [EncodedSample(s["__key__"], {n: v for n, v in s.items() if not n.startswith("__")}) for s in read]


@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["ustar", "gnu", "pax"]
)
def test_samples_are_those_that_webdataset_reads(tmp_path: Path, form: int) -> None:
    members = [("__meta__/x.json", b"{}"), ("README", b"no suffix"), (".hidden.jpg", b"?"), *some(0, 5)]
    if form != tarfile.USTAR_FORMAT:
        members += [("ünï/" + "long" * 60 + ".jpg", b"1"), ("ünï/" + "long" * 60 + ".txt", "é".encode())]
    (tmp_path / "a.tar").write_bytes(tar(members, form))
    source = open_source(tmp_path / "a.tar")
    assert read(source) == as_webdataset([tmp_path / "a.tar"])
    assert [shard.samples for shard in source.shards] == [5 + (form != tarfile.USTAR_FORMAT)]
    [(_, third)] = source.shards[0].read([range(3, 4)])
    [made] = Prepare(components=["cls"])(third, {}, 0)
    assert (made["__key__"], made["cls"]) == ("dir.x/0003", 3)


def test_tars_are_given_by_globs_braces_and_lists(tmp_path: Path) -> None:
    for number in range(12):
        file = tmp_path / f"train/{number % 2}/shard-{number:03}.tar"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tar(some(number * 10, 2)))
    (tmp_path / "train/0/notes.txt").write_text("no tar")

    def numbers(what: object) -> list[int]:
        return [int(shard.url[-7:-4]) for shard in open_source(what).shards]  # type: ignore[arg-type]

    assert numbers(f"{tmp_path}/train/0/*.tar") == [0, 2, 4, 6, 8, 10]
    assert numbers(f"file://{tmp_path}/train/?/shard-00[1-3].tar") == [2, 1, 3]
    assert numbers(f"{tmp_path}/**/*.tar") == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    assert numbers(f"{tmp_path}/train/1/shard-{{001..005..2}}.tar") == [1, 3, 5]
    assert numbers([tmp_path / "train/1/shard-007.tar", f"{tmp_path}/train/0/*[02].tar"]) == [7, 0, 2, 10]
    with pytest.raises(ConfigurationError, match="no object fits"):
        open_source(f"{tmp_path}/val/*.tar")
    with pytest.raises(ConfigurationError, match="there is no"):
        open_source(f"{tmp_path}/train/1/shard-{{001..003}}.tar")


def test_samples_are_counted_without_their_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    read_range = Storage.read_range

    def counted(self: Storage, uri: str, offset: int, length: int) -> bytes:
        sizes.append(length)
        return read_range(self, uri, offset, length)

    monkeypatch.setattr(Storage, "read_range", counted)
    data = tar([(f"{n}.jpg", bytes(100_000)) for n in range(20)])
    (tmp_path / "a.tar").write_bytes(data)
    source = open_source(tmp_path / "a.tar")
    assert source.shards[0].samples == 20
    assert sum(sizes) < len(data) / 10
    sizes.clear()
    assert len(list(source.shards[0].read([range(3, 5), range(19, 20)]))) == 3
    assert len(sizes) == 2
    assert sum(sizes) < 320_000


def test_tars_of_a_bucket_are_read(place: NewPlace) -> None:
    bucket = place("s3")
    for number in range(2):
        bucket.put(f"shards/{number}.tar", tar(some(number * 5, 5), tarfile.PAX_FORMAT))
    source = pickle.loads(pickle.dumps(open_source(f"{bucket.uri}/shards/*.tar", bucket.storage, components=["cls"])))
    assert [(sample.key, sample.components) for sample in read(source)] == [
        (f"dir.x/{n:04}", {"cls": b"%d" % n}) for n in range(10)
    ]


def test_a_tar_that_has_changed_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(tar(some(0, 3)))
    source = open_source(file)
    file.write_bytes(tar(some(0, 4)))
    with pytest.raises(ChangedError, match="has changed since it was opened"):
        read(source)
    assert open_source(file).identity != source.identity
    file.unlink()
    with pytest.raises(ChangedError, match="is gone since"):
        read(source)


TWICE = [("a.jpg", b"1"), ("a.JPG", b"2")]
APART = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.cls", b"3")]
WHOLE = tar(some(0, 3))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (tar(TWICE), r"has a\.jpg twice: the second at byte 1,024"),
        (tar(APART), r"a\.cls at byte 2,048 is of a sample that stands before others"),
        (WHOLE[: 512 * 9 + 1], "damaged at byte|truncated"),
        (WHOLE[: -(-len(WHOLE.rstrip(b"\0")) // 512) * 512], "has no end marker: it is truncated"),
        (WHOLE[:512] + b"j" * 0 + b"garbage!" * 64 + WHOLE[1024:], "damaged at byte 512"),
        (tar([("a.bin", bytes(5000))])[:3000], r"ends within a\.bin: it is truncated"),
        (b"no tar at all" * 100, "is no tar, or damaged"),
        (b"", "is no tar, or damaged"),
        (tar([("a.jpg", b"1"), ("\udce4.jpg", b"2")], tarfile.GNU_FORMAT), r"a name at byte 1,024 that is no UTF-8"),
        (tar(some(0, 3), mode="w:gz"), "It is compressed.*unpack it"),
    ],
    ids=[
        "twice",
        "apart",
        "cut in a header",
        "no end",
        "broken header",
        "cut in data",
        "no tar",
        "empty",
        "latin-1",
        "gzip",
    ],
)
def test_what_is_damaged_or_in_pieces_is_an_error_that_says_where(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "bad.tar").write_bytes(data)
    with pytest.raises(CorruptionError, match=says) as caught:
        open_source(tmp_path / "bad.tar")
    assert f"{tmp_path}/bad.tar" in str(caught.value)


def test_an_empty_tar_has_no_samples(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar([]))
    assert [shard.samples for shard in open_source(tmp_path / "a.tar").shards] == [0]


def test_tars_have_no_columns_and_are_not_mixed_with_partitions(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(WHOLE)
    with pytest.raises(ConfigurationError, match="tars have none"):
        open_source(tmp_path / "a.tar", filter=pc.field("width") > 3)
    with pytest.raises(ConfigurationError, match="either partitions or tars"):
        open_source([tmp_path / "a.tar", tmp_path / "d/webdataset_shards/p"])


def test_an_image_that_nobody_has_checked_is_decoded_whole_before_a_crop_of_it(tmp_path: Path) -> None:
    """Packing would have rejected this one; a crop alone does not show what is wrong."""
    whole = save(Image.fromarray(smooth(160, 64)), "JPEG")
    data = whole[:-30] + b"\xff\xd9" + whole[-30:]
    (tmp_path / "a.tar").write_bytes(tar([("sound.jpg", whole), ("torn.jpg", data)]))
    crop = build_transform(
        TransformSpec.model_validate({"operations": [{"operation": "CenterCrop", "arguments": {"size": 16}}]})
    )
    [sound, torn] = read(open_source(str(tmp_path / "a.tar")))
    prepare = Prepare(transform=crop)
    assert prepare(sound, {}, 0)[0]["jpg"].shape == (3, 16, 16)
    with pytest.raises(Rejected, match=CORRUPT_IMAGE):
        prepare(torn, {}, 0)
    assert prepare(EncodedSample("packed", torn.components), {}, 0)
