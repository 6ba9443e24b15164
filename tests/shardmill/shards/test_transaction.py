"""The commit: what it moves in, what it removes or keeps, and who wins."""

import hashlib
import threading
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardmill.errors import ConflictError
from shardmill.shards.commit import Commit, ShardEntry, read_commit
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.index import IndexWriter
from shardmill.shards.layout import Layout, Suffix
from shardmill.shards.publish import MadeShard, publish_shard
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.transaction import publish_commit
from shardmill.storage import Storage, relative_to

SUFFIXES = pytest.mark.parametrize("suffix", ["tar", "parquet"])


@pytest.fixture
def layout(folder: str) -> Layout:
    return Layout.at(f"{folder}/d/shards/p")


class Maker:
    """Publishes shards, and makes commits of them."""

    def __init__(self, storage: Storage, layout: Layout, scratch: Path) -> None:
        self.storage, self.layout, self.scratch = storage, layout, scratch

    def shard(self, shard: str, content: str, suffix: Suffix = "tar", picture: bool = False) -> ShardEntry:
        """A shard with this content; none gives no data file, but a reject."""
        file, drawn = self.scratch / "data", self.scratch / "picture"
        pq.write_table(pa.table({"key": [content]}), file)
        drawn.write_bytes(b"PNG")
        data = file.read_bytes()
        rejects = [] if content else [Reject(key=shard, reason="empty file")]
        report = ShardReport(
            samples_in=1,
            kept=int(bool(content)),
            samples=int(bool(content)),
            bytes=len(data) if content else 0,
            sha256=hashlib.sha256(data).hexdigest() if content else "",
            rejects=rejects,
        )
        made = MadeShard(
            id=shard,
            start=shard,
            fingerprint=fingerprint(content=content),
            suffix=suffix,
            report=report,
            index=IndexWriter(),
            data=file if content else None,
            picture=drawn if picture else None,
        )
        return publish_shard(self.storage, self.layout, made, self.scratch)

    def commit(self, contents: dict[str, str], suffix: Suffix = "tar", picture: bool = False) -> Commit:
        entries = [self.shard(shard, content, suffix, picture) for shard, content in contents.items()]
        return Commit(
            name="d/shards/p",
            shardlist=[entry for entry in entries if entry.data],
            emptylist=[entry for entry in entries if not entry.data],
            stage="pack",
            stage_version=1,
            suffix=suffix,
            total_samples=sum(entry.nsamples for entry in entries),
        )

    def publish(self, commit: Commit, keep_seconds: float = 0.0) -> Commit:
        """On top of what stands; what stands then."""
        previous, version = read_commit(self.storage, self.layout)
        assert publish_commit(self.storage, self.layout, commit, previous, version, keep_seconds)
        now, _ = read_commit(self.storage, self.layout)
        assert now is not None
        return now

    def data(self) -> set[str]:
        return {relative_to(self.layout.folder, info.uri) for info in self.storage.list(self.layout.folder)}

    def side(self) -> set[str]:
        return {relative_to(self.layout.side, info.uri) for info in self.storage.list(self.layout.side)}


@pytest.fixture
def maker(storage: Storage, layout: Layout, tmp_path: Path) -> Maker:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Maker(storage, layout, scratch)


def data_of(commit: Commit) -> set[str]:
    return {entry.data for entry in commit.shardlist if entry.data}


@SUFFIXES
def test_the_folder_of_the_data_holds_the_committed_data_and_nothing_else_ever(maker: Maker, suffix: Suffix) -> None:
    first = maker.commit({"000000": "a", "800000": "b", "c00000": ""}, suffix, picture=True)
    assert maker.data() == set()  # what is made waits elsewhere
    maker.publish(first)
    assert maker.data() == data_of(first)
    second = maker.commit({"000000": "a", "800000": "changed"}, suffix, picture=True)
    assert maker.data() == data_of(first)
    maker.publish(second)
    assert maker.data() == data_of(second)
    beside = {entry.index for entry in second.shards} | {str(entry.picture) for entry in second.shards}
    assert maker.side() == beside | {"index.json", "rejects.parquet"}


def test_files_that_are_not_ours_are_left_alone(maker: Maker, tmp_path: Path) -> None:
    maker.publish(maker.commit({"000000": "a"}))
    names = {"notes.txt", "summer-photos_of_ours.png", "ABCDEF-0123456789AB-01234567.tar"}
    for name in names:
        (tmp_path / "d/shards/p" / name).write_bytes(b"ours")
    second = maker.publish(maker.commit({"000000": "b"}))
    assert maker.data() == data_of(second) | names


def test_what_does_not_change_is_neither_moved_nor_touched(maker: Maker, tmp_path: Path) -> None:
    maker.publish(maker.commit({"000000": "a", "800000": "b"}))
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "d").rglob("*") if file.is_file()}
    commit, version = read_commit(maker.storage, maker.layout)
    assert commit is not None
    assert publish_commit(maker.storage, maker.layout, commit, commit, version)
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "d").rglob("*") if file.is_file()}
    assert after == before


@pytest.mark.parametrize("kind", ["data", "index"])
def test_nothing_is_committed_that_names_a_file_which_is_not_there(maker: Maker, kind: str) -> None:
    first = maker.publish(maker.commit({"000000": "a"}))
    second = maker.commit({"000000": "b", "800000": "c"})
    entry = second.shards[1]
    maker.storage.delete(maker.layout.staged(str(entry.data)) if kind == "data" else maker.layout.beside(entry.index))
    previous, version = read_commit(maker.storage, maker.layout)
    assert not publish_commit(maker.storage, maker.layout, second, previous, version)
    assert read_commit(maker.storage, maker.layout) == (first, version)
    assert maker.data() == data_of(first)


@pytest.mark.parametrize(("place", "damage"), [("staged", "cut"), ("superseded", "cut"), ("staged", "flipped")])
def test_damaged_data_are_replaced_by_the_whole_ones_beside_them(maker: Maker, place: str, damage: str) -> None:
    """Those that wait may have been made anew for it."""
    commit = maker.publish(maker.commit({"000000": "a"}))
    name = str(commit.shards[0].data)
    whole = maker.storage.read(maker.layout.data(name))
    maker.storage.copy(maker.layout.data(name), getattr(maker.layout, place)(name))
    damaged = whole[:-1] if damage == "cut" else bytes([whole[0] ^ 1]) + whole[1:]
    Path(maker.layout.data(name).removeprefix("file://")).write_bytes(damaged)
    maker.publish(commit)
    assert maker.storage.read(maker.layout.data(name)) == whole


def test_of_many_writers_one_wins_and_the_others_change_nothing(maker: Maker) -> None:
    for round_ in range(5):
        previous, version = read_commit(maker.storage, maker.layout)
        commits = [maker.commit({"000000": f"{round_} {number}"}) for number in range(4)]
        barrier, results = threading.Barrier(len(commits)), dict[int, bool]()

        def commit_it(
            number: int,
            commit: Commit,
            previous: Commit | None = previous,
            version: str | None = version,
            barrier: threading.Barrier = barrier,
            results: dict[int, bool] = results,
        ) -> None:
            barrier.wait()
            try:
                results[number] = publish_commit(maker.storage, maker.layout, commit, previous, version)
            except ConflictError:
                results[number] = False

        threads = [threading.Thread(target=commit_it, args=item) for item in enumerate(commits)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [winner] = [number for number, won in results.items() if won]
        now, _ = read_commit(maker.storage, maker.layout)
        assert now is not None
        assert now.says_the_same_as(commits[winner])
        assert maker.data() == data_of(commits[winner])


def test_rejects_are_one_table_of_one_schema(maker: Maker) -> None:
    maker.publish(maker.commit({"000000": "a", "800000": ""}))
    table = pq.read_table(maker.layout.rejects.removeprefix("file://"))
    expected = {"key": "800000", "reason": "empty file", "detail": "", "source_uri": "", "may_pass": False}
    assert table.to_pylist() == [expected | {"fingerprint": ""}]
    maker.publish(maker.commit({"000000": "a"}))
    empty = pq.read_table(maker.layout.rejects.removeprefix("file://"))
    assert (empty.num_rows, empty.schema) == (0, table.schema)


def test_a_table_of_rejects_that_is_gone_is_written_again(maker: Maker) -> None:
    commit = maker.publish(maker.commit({"000000": "a", "800000": ""}))
    maker.storage.delete(maker.layout.rejects)
    maker.publish(commit)
    assert pq.read_table(maker.layout.rejects.removeprefix("file://")).num_rows == 1


def test_pandas_reads_the_folder_before_and_after_a_commit(maker: Maker, tmp_path: Path) -> None:
    folder = tmp_path / "d/shards/p"
    maker.publish(maker.commit({"000000": "a", "800000": "b", "c00000": ""}, "parquet", picture=True))
    second = maker.commit({"000000": "a", "800000": "new", "c00000": ""}, "parquet", picture=True)
    assert sorted(pd.read_parquet(folder)["key"]) == ["a", "b"]
    maker.publish(second)
    assert sorted(pd.read_parquet(folder)["key"]) == ["a", "new"]


# What is kept.


def test_superseded_data_are_kept_aside_with_their_commit_until_their_time_is_over(maker: Maker, monkeypatch) -> None:
    from shardmill.shards import retention

    first = maker.publish(maker.commit({"000000": "a", "800000": "b"}), keep_seconds=60)
    second = maker.publish(maker.commit({"000000": "a", "800000": "c"}), keep_seconds=60)
    assert maker.data() == data_of(second)
    old = data_of(first) - data_of(second)
    assert {f"superseded/{name}" for name in old} < maker.side()
    assert f"superseded/{first.digest[:16]}.json" in maker.side()
    assert {entry.index for entry in first.shards} < maker.side()

    maker.publish(second, keep_seconds=60)
    assert {f"superseded/{name}" for name in old} < maker.side()
    later = retention.time.time() + 61
    monkeypatch.setattr(retention.time, "time", lambda: later)
    maker.publish(second, keep_seconds=60)
    assert maker.side() == {*(entry.index for entry in second.shards), "index.json", "rejects.parquet"}


def test_what_is_kept_is_moved_back_when_it_is_committed_again(maker: Maker) -> None:
    first = maker.publish(maker.commit({"000000": "a"}), keep_seconds=60)
    inode = Path(maker.layout.data(*data_of(first)).removeprefix("file://")).stat().st_ino
    maker.publish(maker.commit({"000000": "b"}), keep_seconds=60)
    maker.publish(first, keep_seconds=60)
    assert maker.data() == data_of(first)
    assert Path(maker.layout.data(*data_of(first)).removeprefix("file://")).stat().st_ino == inode


@pytest.mark.parametrize("damage", ["flip", "empty"])
def test_a_damaged_table_of_rejects_is_written_again(maker: Maker, damage: str) -> None:
    commit = maker.publish(maker.commit({"000000": "a", "800000": ""}))
    file = Path(maker.layout.rejects.removeprefix("file://"))
    whole = file.read_bytes()
    file.write_bytes(b"" if damage == "empty" else whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    maker.publish(commit)
    assert pq.read_table(file).to_pylist()[0]["key"] == "800000"
