"""Packing, at the stage itself: what it takes for the object that was listed, and what makes a shard another."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardmill.errors import StorageError
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.spec import ShardSpec
from shardmill.sources import Manifest, RawObject, SourceSpec, list_source
from shardmill.stages.pack import PackStage
from shardmill.stages.raw_shards import RawShard
from shardmill.stages.raw_shards import pack as cut
from shardmill.stages.stage import Work
from shardmill.storage import Storage


@pytest.fixture
def raw(tmp_path: Path, images: Callable[..., list[str]]) -> Path:
    """A folder of three samples."""
    images(tmp_path / "raw", 3)
    return tmp_path / "raw"


@pytest.fixture
def shard(raw: Path, storage: Storage) -> RawShard:
    """The folder as it is listed."""
    manifest = list_source(SourceSpec(uri=str(raw)), f"file://{raw}", storage)
    return RawShard("000000", "000000", manifest)


@pytest.fixture
def pack(tmp_path: Path, storage: Storage) -> Callable[..., ShardReport]:
    """`pack(shard)`: the report on it."""

    def make(shard: RawShard, stage: PackStage | None = None) -> ShardReport:
        _, report = (stage or PackStage())(shard, Work(storage, tmp_path, 2, lambda _: None))
        return report

    return make


def test_an_object_replaced_after_it_was_listed_is_a_reject_that_may_pass(
    raw: Path, shard: RawShard, pack: Callable[..., ShardReport]
) -> None:
    """By an image as sound as the one that was listed, of the same size."""
    file = raw / "image_00001.jpg"
    listed = file.stat()
    os.utime(file, ns=(listed.st_atime_ns, listed.st_mtime_ns + 1))
    report = pack(shard)
    assert (report.samples_in, report.kept) == (3, 2)
    (reject,) = report.rejects
    assert (reject.key, reject.reason, reject.may_pass) == ("image_00001", "object changed", True)
    assert reject.source_uri == f"file://{file}"


def test_an_object_deleted_after_it_was_listed_is_a_reject_that_may_pass(
    raw: Path, shard: RawShard, pack: Callable[..., ShardReport]
) -> None:
    (raw / "image_00002.cls").unlink()
    report = pack(shard)
    assert report.kept == 2
    assert report.rejects == [
        Reject(
            key="image_00002",
            reason="object vanished",
            detail="it was deleted after it was listed; run again",
            source_uri=f"file://{raw}/image_00002.cls",
            may_pass=True,
        )
    ]


@pytest.fixture
def rejects(raw: Path, storage: Storage, pack: Callable[..., ShardReport]) -> Callable[..., dict[str, tuple[str, str]]]:
    """`rejects("uri,note", "a.jpg,1")`: reason and detail by key, of a table of these lines beside the images."""

    def make(*lines: str, **fields: Any) -> dict[str, tuple[str, str]]:
        (raw / "t.csv").write_text("\n".join(lines))
        source = SourceSpec(table=f"{raw}/t.csv", **fields)
        manifest = list_source(source, f"file://{raw}/t.csv", storage)
        report = pack(RawShard("000000", "000000", manifest))
        assert report.samples_in == report.kept + len(report.rejects)
        return {reject.key: (reject.reason, reject.detail) for reject in report.rejects}

    return make


Rejects = Callable[..., dict[str, tuple[str, str]]]


def test_rows_of_one_image_that_differ_are_a_reject_that_says_what_to_do(raw: Path, rejects: Rejects) -> None:
    found = rejects("uri,note", "image_00000.jpg,one", "image_00000.jpg,two", "image_00001.jpg,one")
    assert found == {
        "image_00000": (
            "rows of one sample differ",
            f"two rows name file://{raw}/image_00000.jpg and differ in note: 'one' and 'two'. Name a `key_column` that "
            "gives each row a key of its own, or give `rows: list` to have all of them as lists",
        )
    }
    assert rejects("uri,note", "image_00000.jpg,one", "image_00000.jpg,two", rows="list") == {}


def test_rows_of_one_key_that_differ_are_a_reject_and_equal_ones_a_sample(raw: Path, rejects: Rejects) -> None:
    rows = ("image_00000.jpg,a,one", "image_00000.cls,a,two", "image_00001.jpg,b,one", "image_00001.cls,b,one")
    found = rejects("uri,id,note", *rows, key_column="id")
    assert list(found) == ["a"]
    reason, detail = found["a"]
    assert reason == "rows of one sample differ"
    assert f"the rows of file://{raw}/image_00000.cls and file://{raw}/image_00000.jpg have one key" in detail
    assert "differ in note: 'two' and 'one'" in detail


def test_two_images_of_one_key_are_a_reject_that_names_both(raw: Path, rejects: Rejects) -> None:
    found = rejects("uri,id", "image_00000.jpg,a", "image_00001.jpg,a", key_column="id")
    claimed = f"jpg is claimed by file://{raw}/image_00000.jpg and file://{raw}/image_00001.jpg"
    assert found == {"a": ("duplicate component", claimed)}


def test_what_a_table_must_not_lead_to_is_a_reject_that_says_what_to_allow(raw: Path, rejects: Rejects) -> None:
    (raw.parent / "secret.jpg").write_bytes(b"secret")
    rows = ("uri,id", "../secret.jpg,out", "image_00000.jpg,in")
    advice = f"the source's table must not lead there; add file://{raw.parent} to `allow` if it may"
    assert rejects(*rows, key_column="id") == {"out": ("not allowed", advice)}
    (reason, _), *others = rejects(*rows, key_column="id", allow=[str(raw.parent)]).values()
    assert reason not in ("not allowed", "missing object")  # it was read, and is no image
    assert not others


OTHERWISE: dict[str, Any] = {
    "key": "b",
    "component": "png",
    "uri": "file:///raw/b.jpg",
    "size": 2,
    "version": "v2",
    "metadata": '{"label": 2}',
    "columns": '{"label": [2]}',
}
"""Another value of each field."""


@pytest.mark.parametrize("name", RawObject._fields)
def test_a_shard_is_another_when_an_object_of_it_is_and_not_for_its_time_or_its_declared_columns(name: str) -> None:
    item = RawObject("a", "jpg", "file:///raw/a.jpg", 1, "v1", 1.0, '{"label": 1}', '{"label": [1]}')
    other = item._replace(**{name: OTHERWISE.get(name, 2.0)})
    one, two = (RawShard("000000", "0", Manifest.from_objects([each])).identity() for each in (item, other))
    assert (one == two) == (name in ("modified", "columns"))


def listed(*names: str) -> Manifest:
    """A manifest of objects with these names, `key.component`."""
    parts = (name.partition(".") for name in names)
    return Manifest.from_objects(RawObject(key, end, f"file:///{key}.{end}", 1000, "v", 1.0) for key, _, end in parts)


@pytest.mark.parametrize("order", ["hash", "key"])
def test_the_objects_of_a_sample_stay_together_whatever_shard_it_goes_into(order: Any) -> None:
    names = [f"{number:03}.{component}" for number in range(100) for component in ("jpg", "cls", "trimap.png")]
    shards = cut(listed(*names), ShardSpec(max_samples=7, order=order))
    assert len(shards) > 10
    assert sorted(group[0].key for shard in shards for group in shard.groups) == [
        f"{number:03}" for number in range(100)
    ]
    for shard in shards:
        assert (shard.samples, shard.size) == (len(shard.groups), 3000 * len(shard.groups))
        for group in shard.groups:
            assert {item.key for item in group} == {group[0].key}
            assert [item.component for item in group] == ["cls", "jpg", "trimap.png"]


@pytest.mark.parametrize("order", ["hash", "key"])
def test_a_shard_travels_without_the_objects_of_others_and_stays_the_same(order: Any) -> None:
    shards = cut(listed(*(f"{number:05}.jpg" for number in range(3000))), ShardSpec(max_samples=10, order=order), True)
    sent = pickle.dumps(shards[0])
    assert len(sent) < 10_000
    there = pickle.loads(sent)
    assert (there.id, there.start, there.samples, there.size) == (
        shards[0].id,
        shards[0].start,
        shards[0].samples,
        shards[0].size,
    )
    assert (there.groups, there.identity()) == (shards[0].groups, shards[0].identity())


@pytest.mark.parametrize(("name", "counts"), [("b.jpg", False), ("b.cls", True)])
def test_that_images_are_needed_counts_where_a_sample_has_none(name: str, counts: bool) -> None:
    with_images, without = (RawShard("0", "0", listed("a.cls", "a.png", name), images) for images in (True, False))
    assert (with_images.identity() != without.identity()) == counts


# Objects that cannot be had


@pytest.fixture
def links(raw: Path) -> Path:
    """The folder with two links that lead nowhere."""
    (raw / "dangling.jpg").symlink_to("nowhere")
    (raw / "round.jpg").symlink_to("round.jpg")
    return raw


def test_a_link_to_nothing_is_a_reject_with_the_true_reason(links: Path, shard: RawShard, pack: Any) -> None:
    report = pack(shard)
    assert report.kept == 3
    assert [(reject.key, reject.reason, reject.may_pass) for reject in report.rejects] == [
        ("dangling", "dangling link", True),
        ("round", "unreadable object", True),
    ]
    assert f"file://{links}/dangling.jpg is a link that leads nowhere" in report.rejects[0].detail
    assert (report.objects, report.rejected_objects) == (6, 2)


def test_a_file_that_may_not_be_read_is_a_reject_that_may_pass(raw: Path, shard, pack: Any, nobody: Any) -> None:
    (raw / "image_00001.cls").chmod(0)
    with nobody():
        report = pack(shard)
    assert report.kept == 2
    assert [(each.key, each.reason, each.may_pass) for each in report.rejects] == [
        ("image_00001", "unreadable object", True)
    ]


def test_a_name_that_is_not_utf_8_is_a_reject_that_says_so(raw: Path, storage: Storage, pack: Any) -> None:
    (raw / "caf\udce9.jpg").write_bytes((raw / "image_00001.jpg").read_bytes())
    manifest = list_source(SourceSpec(uri=str(raw)), f"file://{raw}", storage)
    report = pack(RawShard("000000", "000000", manifest))
    assert [(each.key, each.reason, each.may_pass) for each in report.rejects] == [
        ("caf%E9", "name is not UTF-8", False)
    ]


def test_where_every_link_leads_nowhere_the_source_is_not_there(tmp_path: Path, storage: Storage, pack: Any) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).symlink_to("unmounted")
    manifest = list_source(SourceSpec(uri=str(tmp_path)), f"file://{tmp_path}", storage)
    with pytest.raises(StorageError, match="mounted"):
        pack(RawShard("000000", "000000", manifest))


# Names


DECLARED = SourceSpec(
    uri="/raw", components={"image": ["i/{key}.jpg", "i/{key}.png"], "mask.png": "m/{key}.png"}
).declared


@pytest.mark.parametrize(
    ("stage", "names", "reason", "said"),
    [
        (PackStage(DECLARED), ["a.image.png"], "missing component", "no mask.png"),
        (PackStage(DECLARED), ["a.mask.png"], "missing component", "no image"),
        (
            PackStage(DECLARED),
            ["a.image.jpg", "a.image.png", "a.mask.png"],
            "duplicate component",
            "image is claimed by file:///a.image.jpg and file:///a.image.png",
        ),
        (PackStage(cuts_names=True), ["a.05.png", "a.06.png"], "dots in the name", 'components: {png: "{key}.png"}'),
    ],
)
def test_names_that_make_no_sample_are_rejects_that_name_the_objects(
    pack: Any, stage: PackStage, names: list[str], reason: str, said: str
) -> None:
    [reject] = pack(RawShard("0", "0", listed(*names)), stage).rejects
    assert reject.reason == reason
    assert said in reject.detail


def test_two_suffixes_of_one_format_are_one_component_and_the_reject_names_both(raw: Path, storage, pack: Any) -> None:
    (raw / "image_00001.JPEG").write_bytes(b"x")
    manifest = list_source(SourceSpec(uri=str(raw)), f"file://{raw}", storage)
    [reject] = pack(RawShard("000000", "000000", manifest)).rejects
    assert reject.reason == "duplicate component"
    assert all(name in reject.detail for name in ("image_00001.JPEG", "image_00001.jpg"))
