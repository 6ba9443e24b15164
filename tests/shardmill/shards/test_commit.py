"""What a commit says, and what is refused instead of being read."""

import json
from pathlib import Path
from typing import Any

import pytest

from shardmill.errors import ConfigurationError, CorruptionError
from shardmill.shards.commit import FORMAT, Commit, ShardEntry, parse_commit, read_commit
from shardmill.shards.index import Owner
from shardmill.shards.layout import Layout
from shardmill.shards.report import Reject, ShardReport
from shardmill.storage import Storage

LAYOUT = Layout.at("file:///r/d/shards/p")


def entry(shard: str, content: str = "content", **changes: Any) -> ShardEntry:
    report = ShardReport(samples_in=1, kept=1, samples=1, bytes=7, sha256=f"{content:0<64}")
    owner = Owner(shard=shard, start=shard, fingerprint="f" * 64, data=f"{shard}-ffffffffffff-{content:0<8}.tar")
    return ShardEntry.of(owner, report, content.encode(), LAYOUT).model_copy(update=changes)


def commit_of(*entries: ShardEntry, **fields: Any) -> Commit:
    total = sum(each.nsamples for each in entries)
    given = {"name": "d/shards/p", "stage": "pack", "stage_version": 1, "suffix": "tar", "total_samples": total}
    return Commit(**{**given, "parameters": {"max_pixels": 7, "é": None}, "shardlist": list(entries), **fields})


@pytest.fixture
def layout(folder: str) -> Layout:
    return Layout.at(f"{folder}/d/shards/p")


def put(storage: Storage, layout: Layout, data: bytes) -> Path:
    info = storage.stat(layout.commit)
    storage.replace(layout.commit, data, info.version if info else None)
    return Path(layout.commit.removeprefix("file://"))


def test_a_commit_is_read_as_it_was_written(storage: Storage, layout: Layout) -> None:
    commit = commit_of(entry("000000"), entry("800000"), emptylist=[entry("c00000", url=None, nsamples=0)])
    put(storage, layout, commit.to_json())
    assert read_commit(storage, layout)[0] == commit


def test_the_commit_of_another_partition_is_refused_with_what_to_do(storage: Storage, layout: Layout) -> None:
    put(storage, layout, commit_of(entry("000000"), name="d/shards/q").to_json())
    with pytest.raises(CorruptionError, match=r"is the commit of d/shards/q, not of shards/p.*Put it back"):
        read_commit(storage, layout)


def test_a_dataset_s_folder_may_be_renamed(storage: Storage, layout: Layout) -> None:
    commit = commit_of(entry("000000"), name="before/shards/p")
    put(storage, layout, commit.to_json())
    assert read_commit(storage, layout)[0] == commit


def test_nothing_is_committed_where_there_is_no_index(storage: Storage, layout: Layout) -> None:
    assert read_commit(storage, layout) == (None, None)


def test_index_json_is_a_wids_index_and_says_its_format() -> None:
    content: dict[str, Any] = json.loads(commit_of(entry("000000")).to_json())
    assert content["__kind__"] == "wids-shard-index-v1"
    assert content["wids_version"] == 1
    assert content["shardmill_format"] == FORMAT
    [shard] = content["shardlist"]
    assert shard["url"] == "../../../shards/p/000000-ffffffffffff-content0.tar"
    assert (shard["nsamples"], shard["filesize"]) == (1, 7)


def test_one_of_a_later_format_is_refused_with_what_to_do() -> None:
    newer = json.dumps({"shardmill_format": FORMAT + 1, "whatever": True}).encode()
    with pytest.raises(ConfigurationError, match=rf"here is of format {FORMAT + 1}.*up to {FORMAT}: upgrade"):
        parse_commit(newer, "here")


def test_one_of_an_earlier_format_is_refused_with_what_to_do() -> None:
    older = json.dumps({"shardmill_format": FORMAT - 1, "whatever": True}).encode()
    with pytest.raises(ConfigurationError, match=rf"here is of format {FORMAT - 1}.*another `root`"):
        parse_commit(older, "here")


def test_one_cut_anywhere_is_corrupt() -> None:
    data = commit_of(entry("000000")).to_json()
    for cut in range(0, len(data), 11):
        with pytest.raises(CorruptionError, match="here is damaged"):
            parse_commit(data[:cut], "here")


@pytest.mark.parametrize(
    "data", [b"[]", b"null", b"\xff", b"7", b'{"__kind__": "other"}', b'{"checksum": 7}', b"[" * 100_000]
)
def test_another_json_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptionError, match="here is damaged or was edited"):
        parse_commit(data, "here")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for name, item in value.items() for leaf in leaves(item, (*path, name))]
    if isinstance(value, list):
        return [leaf for place, item in enumerate(value) for leaf in leaves(item, (*path, place))]
    return [path]


def test_every_edit_is_seen() -> None:
    whole = json.loads(commit_of(entry("000000"), entry("800000"), rejects_by_reason={"x": 1}).to_json())
    places = leaves(whole)
    assert len(places) > 40
    for place in places:
        edited = json.loads(json.dumps(whole))
        inner = edited
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = 987 if inner[place[-1]] != 987 else 986
        with pytest.raises((CorruptionError, ConfigurationError), match="here"):
            parse_commit(json.dumps(edited).encode(), "here")


def test_figures_that_are_no_numbers_do_not_make_it_unreadable() -> None:
    odd = commit_of(entry("000000", summary={"variance": float("nan"), "ratio": float("inf")}))
    json.loads(odd.to_json(), parse_constant=pytest.fail)
    assert parse_commit(odd.to_json(), "here").shardlist[0].id == "000000"


@pytest.mark.parametrize(
    ("field", "same"),
    [("id", False), ("fingerprint", False), ("sha256", False), ("index_sha256", False), ("seconds", True)],
)
def test_the_digest_is_that_of_data_and_lineage(field: str, same: bool) -> None:
    commit = commit_of(entry("000000"), entry("800000"))
    value = 9.0 if field == "seconds" else "changed"
    changed = commit_of(entry("000000", **{field: value}), entry("800000"), versions={"x": "2"})
    assert (changed.digest == commit.digest) == same
    assert changed.says_the_same_as(commit) == same


@pytest.mark.parametrize(
    "change",
    [
        *({"parameters": {}}, {"stage": "other"}, {"stage_version": 2}, {"cut": {"x": 1}}),
        *({"made_of": {"raw_images": "x"}}, {"may_pass_before": 1}),
    ],
)
def test_other_parameters_of_the_same_data_are_another_commit(change: dict[str, Any]) -> None:
    assert not commit_of(entry("000000"), **change).says_the_same_as(commit_of(entry("000000")))


def test_a_commit_is_final_where_nothing_of_it_nor_before_it_is_tried_again() -> None:
    assert commit_of(entry("000000")).is_final
    assert not commit_of(entry("000000", may_pass=1)).is_final
    assert not commit_of(entry("000000"), may_pass_before=1).is_final


def test_an_entry_counts_rejects_by_reason_and_those_that_may_pass() -> None:
    rejects = [Reject(key="a", reason="empty file"), Reject(key="b", reason="object vanished", may_pass=True)]
    report = ShardReport(samples_in=2, kept=0, samples=0, rejects=rejects)
    owner = Owner(shard="000000", start="000000", fingerprint="f" * 64, data=None)
    found = ShardEntry.of(owner, report, b"", LAYOUT)
    assert (found.rejects, found.may_pass, found.url, found.data) == (
        {"empty file": 1, "object vanished": 1},
        1,
        None,
        None,
    )
