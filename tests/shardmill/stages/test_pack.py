"""Packing, at the stage itself: what it takes for the object that was listed, and what makes a shard another."""

import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from shardmill.shards.report import Reject, ShardReport
from shardmill.sources import RawObject, SourceSpec, list_source
from shardmill.stages.pack import PackStage, RawShard
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
    return RawShard("000000", "000000", tuple(tuple(group) for _, group in manifest.by_key()))


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


OTHERWISE: dict[str, Any] = {
    "key": "b",
    "component": "png",
    "uri": "file:///raw/b.jpg",
    "size": 2,
    "version": "v2",
    "metadata": '{"label": 2}',
}
"""Another value of each field that makes an object another; its time alone does not."""


@pytest.mark.parametrize("name", [field.name for field in fields(RawObject)])
def test_a_shard_is_another_when_an_object_of_it_is_and_not_when_that_is_only_younger(name: str) -> None:
    item = RawObject("a", "jpg", "file:///raw/a.jpg", 1, "v1", 1.0, '{"label": 1}')
    other = replace(item, **{name: OTHERWISE.get(name, 2.0)})
    same = RawShard("000000", "0", ((item,),)).identity() == RawShard("000000", "0", ((other,),)).identity()
    assert same == (name == "modified")
