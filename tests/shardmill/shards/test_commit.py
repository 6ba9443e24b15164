import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardmill.errors import ConflictError, CorruptionError
from shardmill.shards.commit import (
    Commit,
    ShardEntry,
    count_reasons,
    entry_of,
    file_names,
    publish_commit,
    read_commit,
)
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.index import IndexWriter
from shardmill.shards.layout import Layout, Suffix
from shardmill.shards.report import Reject, ShardReport
from shardmill.storage import Storage, join_uri, relative_to

SUFFIXES = pytest.mark.parametrize("suffix", ["tar", "parquet"])
REJECTS = [
    Reject(key="a", reason="empty file", detail="0 bytes", source_uri="file:///a.jpg"),
    Reject(key="b", reason="no image"),
    Reject(key="c", reason="empty file"),
]
Make = Callable[..., Commit]


@pytest.fixture
def make(storage: Storage, folder: str, tmp_path: Path) -> Make:
    """Publishes shards with these contents, and returns a commit that names them; empty content makes no data file."""

    def of(contents: dict[str, str], suffix: Suffix, picture: bool = False) -> Commit:
        layout = Layout(suffix)
        entries = []
        for shard, content in contents.items():
            digest = fingerprint(content=content)
            file = tmp_path / ".making"
            if suffix == "tar":
                file.write_text(content)
            else:
                pq.write_table(pa.table({"key": [content]}), file)
            data = file.read_bytes()
            report = ShardReport(
                samples_in=1,
                kept=int(bool(content)),
                filtered=int(not content),
                samples=int(bool(content)),
                bytes=len(data) if content else 0,
                sha256=hashlib.sha256(data).hexdigest() if content else "",
                picture=picture,
            )
            if content:
                storage.publish(file, join_uri(folder, layout.data(shard, digest)))
            if picture:
                file.write_bytes(b"PNG")
                storage.publish(file, join_uri(folder, layout.picture(shard, digest)))
            IndexWriter().write(file, report)
            index_sha256, index_bytes = hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_size
            storage.publish(file, join_uri(folder, layout.index(shard, digest)))
            entries.append(entry_of(report, shard, digest, layout, index_sha256, index_bytes))
        return Commit(
            name="pets/shards/all",
            shardlist=[entry for entry in entries if entry.url],
            emptylist=[entry for entry in entries if not entry.url],
            stage="pack",
            stage_version=1,
            suffix=suffix,
            parameters={"max_pixels": 7, "é": None},
            total_samples=sum(entry.nsamples for entry in entries),
        )

    return of


def rejects() -> Iterator[Reject]:
    return iter(REJECTS)


def names(storage: Storage, folder: str) -> set[str]:
    return {relative_to(folder, info.uri) for info in storage.list(folder)}


def shard_files(commit: Commit) -> set[str]:
    return {name for entry in commit.shards for name in file_names(entry, Layout(commit.suffix))}


def publish(storage: Storage, folder: str, commit: Commit, expected: str | None = None) -> str:
    """Publish and return the version."""
    assert publish_commit(storage, folder, commit, rejects, expected) == []
    version = read_commit(storage, folder, commit.suffix)[1]
    assert version is not None
    return version


@SUFFIXES
def test_a_commit_is_read_as_it_was_published(storage: Storage, folder: str, make: Make, suffix: Suffix) -> None:
    commit = make({"000000": "a", "800000": "b", "c00000": ""}, suffix)
    publish(storage, folder, commit)
    assert read_commit(storage, folder, suffix)[0] == commit
    layout = Layout(suffix)
    assert names(storage, folder) == shard_files(commit) | {layout.commit, layout.rejects}


@SUFFIXES
def test_nothing_is_committed_where_there_is_no_index(
    storage: Storage, folder: str, make: Make, suffix: Suffix
) -> None:
    make({"000000": "a"}, suffix)
    assert read_commit(storage, folder, suffix) == (None, None)


@SUFFIXES
def test_index_json_is_a_wids_index(storage: Storage, folder: str, tmp_path: Path, make: Make, suffix: Suffix) -> None:
    publish(storage, folder, make({"000000": "a", "800000": "bb", "c00000": ""}, suffix))
    file = tmp_path / Layout(suffix).commit
    content: dict[str, Any] = json.loads(file.read_bytes(), parse_constant=pytest.fail)
    assert content["__kind__"] == "wids-shard-index-v1"
    assert content["wids_version"] == 1
    assert content["name"] == "pets/shards/all"
    assert len(content["shardlist"]) == 2
    for shard in content["shardlist"]:
        data = (file.parent / shard["url"]).read_bytes()
        assert (shard["nsamples"], shard["filesize"]) == (1, len(data))
        assert shard["sha256"] == hashlib.sha256(data).hexdigest()
        assert (file.parent / shard["index"]).exists()


@SUFFIXES
def test_superseded_files_are_removed_and_others_are_not(
    storage: Storage, folder: str, tmp_path: Path, make: Make, suffix: Suffix
) -> None:
    first = make({"000000": "a", "800000": "b", "c00000": ""}, suffix, picture=True)
    version = publish(storage, folder, first)
    for name in ("notes.txt", "summer-photos_of_ours.png", "ABCDEF-0123456789AB.tar"):
        (tmp_path / name).write_bytes(b"ours")
    second = make({"000000": "a", "800000": "changed"}, suffix, picture=True)
    publish(storage, folder, second, version)
    layout = Layout(suffix)
    ours = {"notes.txt", "summer-photos_of_ours.png", "ABCDEF-0123456789AB.tar"}
    assert names(storage, folder) == shard_files(second) | {layout.commit, layout.rejects} | ours


@SUFFIXES
def test_files_that_vanished_are_reported_and_nothing_is_committed(
    storage: Storage, folder: str, make: Make, suffix: Suffix
) -> None:
    first = make({"000000": "a"}, suffix)
    version = publish(storage, folder, first)
    second = make({"000000": "b", "800000": "c"}, suffix, picture=True)
    gone = [next(iter(file_names(second.shards[0], Layout(suffix)))), file_names(second.shards[1], Layout(suffix))[-1]]
    for name in gone:
        storage.delete(join_uri(folder, name))
    before = names(storage, folder)
    assert publish_commit(storage, folder, second, rejects, version) == sorted(gone)
    assert names(storage, folder) == before
    assert read_commit(storage, folder, suffix) == (first, version)


@SUFFIXES
def test_of_two_writers_one_wins_and_the_other_is_told(
    storage: Storage, folder: str, make: Make, suffix: Suffix
) -> None:
    for _ in range(5):
        version = read_commit(storage, folder, suffix)[1]
        commits = [make({"000000": f"{version} {number}"}, suffix) for number in range(4)]
        results: dict[int, str] = {}
        together = threading.Barrier(len(commits))

        def write(
            number: int,
            commit: Commit,
            expected: str | None = version,
            together: threading.Barrier = together,
            results: dict[int, str] = results,
        ) -> None:
            together.wait()
            try:
                publish_commit(storage, folder, commit, rejects, expected)
                results[number] = "won"
            except ConflictError:
                results[number] = "lost"

        threads = [threading.Thread(target=write, args=item) for item in enumerate(commits)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results.values()) == ["lost", "lost", "lost", "won"]
        [winner] = [number for number, result in results.items() if result == "won"]
        assert read_commit(storage, folder, suffix)[0] == commits[winner]
        assert shard_files(commits[winner]) <= names(storage, folder)


def test_a_second_writer_waits_until_the_first_is_done(
    storage: Storage, folder: str, tmp_path: Path, make: Make
) -> None:
    first, second = make({"000000": "a"}, "tar"), make({"000000": "b"}, "tar")
    results: list[str] = []

    def late() -> None:
        try:
            publish_commit(storage, folder, second, lambda: iter([]), None)
        except ConflictError:
            results.append("lost")

    writer = threading.Thread(target=late)

    def slow_rejects() -> Iterator[Reject]:
        writer.start()
        writer.join(0.2)
        results.append("waits" if writer.is_alive() else "does not wait")
        return rejects()

    publish_commit(storage, folder, first, slow_rejects, None)
    writer.join()
    assert results == ["waits", "lost"]
    assert pq.read_table(tmp_path / "rejects.parquet").num_rows == len(REJECTS)


class Unlocked(Storage):
    """A store that cannot keep writers apart, as object stores cannot."""

    def exclusive(self, _: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


@pytest.mark.parametrize("existing", [False, True])
def test_where_a_store_cannot_exclude_the_index_still_has_one_winner(folder: str, make: Make, existing: bool) -> None:
    storage = Unlocked()
    version = publish(storage, folder, make({"000000": "old"}, "tar")) if existing else None
    first, second = make({"000000": "a"}, "tar"), make({"000000": "b"}, "tar")

    def overtaken() -> Iterator[Reject]:
        publish_commit(storage, folder, first, rejects, version)
        return rejects()

    with pytest.raises(ConflictError):
        publish_commit(storage, folder, second, overtaken, version)
    assert read_commit(storage, folder, "tar")[0] == first


def test_a_loser_leaves_the_winner_s_rejects_and_shards_alone(storage: Storage, folder: str, make: Make) -> None:
    winner, loser = make({"000000": "a"}, "tar"), make({"000000": "b"}, "tar")
    publish(storage, folder, winner)
    before = storage.read(join_uri(folder, "rejects.parquet"))
    with pytest.raises(ConflictError, match=r"pets/shards/all.*Run again"):
        publish_commit(storage, folder, loser, lambda: iter([]), None)
    assert storage.read(join_uri(folder, "rejects.parquet")) == before
    assert shard_files(winner) <= names(storage, folder)


def test_a_lost_commit_is_a_conflict_even_if_its_shards_are_gone(storage: Storage, folder: str, make: Make) -> None:
    """Else they would be made again for nothing."""
    loser, winner = make({"000000": "b"}, "tar"), make({"000000": "a"}, "tar")
    publish(storage, folder, winner)
    assert not shard_files(loser) & names(storage, folder)
    with pytest.raises(ConflictError):
        publish_commit(storage, folder, loser, rejects, None)


@SUFFIXES
def test_rejects_are_one_table(storage: Storage, folder: str, tmp_path: Path, make: Make, suffix: Suffix) -> None:
    version = publish(storage, folder, make({"000000": "a"}, suffix))
    table = pq.read_table(tmp_path / Layout(suffix).rejects)
    assert table.to_pylist() == [reject.model_dump() for reject in REJECTS]
    publish_commit(storage, folder, make({"000000": "b"}, suffix), lambda: iter([]), version)
    empty = pq.read_table(tmp_path / Layout(suffix).rejects)
    assert (empty.num_rows, empty.schema) == (0, table.schema)


def test_pandas_reads_a_folder_of_tables_and_nothing_beside_them(
    storage: Storage, folder: str, tmp_path: Path, make: Make
) -> None:
    version = publish(storage, folder, make({"000000": "a", "800000": "b", "c00000": ""}, "parquet", picture=True))
    publish(storage, folder, make({"000000": "a", "800000": "new", "c00000": ""}, "parquet", picture=True), version)
    assert sorted(pd.read_parquet(tmp_path)["key"]) == ["a", "new"]


def test_a_glob_finds_the_tars_of_the_commit_and_nothing_else(
    storage: Storage, folder: str, tmp_path: Path, make: Make
) -> None:
    version = publish(storage, folder, make({"000000": "a", "800000": "b"}, "tar", picture=True))
    commit = make({"000000": "new", "c00000": ""}, "tar", picture=True)
    publish(storage, folder, commit, version)
    assert {file.name for file in tmp_path.glob("*.tar")} == {entry.url for entry in commit.shardlist}


def test_an_index_cut_anywhere_is_corrupt(storage: Storage, folder: str, tmp_path: Path, make: Make) -> None:
    publish(storage, folder, make({"000000": "a"}, "tar"))
    file = tmp_path / "index.json"
    data = file.read_bytes()
    for cut in range(0, len(data), 11):
        file.write_bytes(data[:cut])
        with pytest.raises(CorruptionError, match=r"index\.json"):
            read_commit(storage, folder, "tar")


@pytest.mark.parametrize(
    "content",
    [b"[]", b"null", b"\xff", b'{"__kind__": "other"}', b'{"__kind__": "wids-shard-index-v1", "shardlist": []}'],
)
def test_another_json_is_corrupt(storage: Storage, folder: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(CorruptionError, match=f"{folder}/index.json"):
        read_commit(storage, folder, "tar")


def test_figures_that_are_no_numbers_do_not_make_an_index_unreadable(
    storage: Storage, folder: str, tmp_path: Path, make: Make
) -> None:
    commit = make({"000000": "a"}, "tar")
    [entry] = commit.shardlist
    odd = entry.model_copy(update={"summary": {"variance": float("nan"), "ratio": float("inf")}})
    publish(storage, folder, commit.model_copy(update={"shardlist": [odd]}))
    json.loads((tmp_path / "index.json").read_bytes(), parse_constant=pytest.fail)
    assert read_commit(storage, folder, "tar")[0] is not None


@pytest.mark.parametrize(
    ("field", "same"),
    [("id", False), ("fingerprint", False), ("sha256", False), ("index_sha256", False), ("seconds", True)],
)
def test_the_digest_is_that_of_data_and_lineage(make: Make, field: str, same: bool) -> None:
    commit = make({"000000": "a", "800000": "b"}, "tar")
    entry: ShardEntry = commit.shardlist[0]
    value = 9.0 if field == "seconds" else "changed"
    changed = commit.model_copy(
        update={"shardlist": [entry.model_copy(update={field: value}), *commit.shardlist[1:]], "versions": {"x": "2"}}
    )
    assert (changed.digest == commit.digest) == same


def test_shard_files_are_told_from_all_others() -> None:
    for suffix in ("tar", "parquet"):
        layout = Layout(suffix)
        digest = "0123456789abcdef" * 4
        for name in (layout.data("00ff00", digest), layout.index("00ff00", digest), layout.picture("00ff00", digest)):
            assert layout.is_shard_file(name)
        for name in (layout.commit, layout.rejects, "00ff00-0123456789ab.txt", "00ff00-0123456789ab", "x/y.tar"):
            assert not layout.is_shard_file(name)
        assert not layout.is_shard_file(f"photos-of_some_things.{suffix}")


def test_reasons_are_counted_most_frequent_first() -> None:
    assert list(count_reasons(rejects()).items()) == [("empty file", 2), ("no image", 1)]
