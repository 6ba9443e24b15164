"""A shard is published once: the first index decides."""

from pathlib import Path

import pytest

from shardmill.errors import TooManyRejectsError
from shardmill.shards.index import IndexWriter, read_owner
from shardmill.shards.layout import Layout
from shardmill.shards.publish import MadeShard, read_entry
from shardmill.shards.report import Reject, ShardReport
from shardmill.storage import Storage
from tests.spelling import NAME, Hooked, letters_of, spell, write


@pytest.fixture
def folder(folder: str) -> str:
    return f"{folder}/{NAME}"


def test_an_index_says_whose_it_is_and_names_its_data(storage: Storage, folder: str) -> None:
    shards = write(storage, folder, spell("ab"))
    for entry in shards.commit.shards:
        uri = shards.layout.beside(entry.index)
        owner = read_owner(storage.read(uri), uri)
        assert (owner.shard, owner.fingerprint, owner.data) == (entry.id, entry.fingerprint, entry.data)
        assert str(entry.data).split("-")[1:] == [entry.fingerprint[:12], f"{entry.sha256[:8]}.tar"]


def test_whoever_comes_later_with_other_bytes_adopts_the_first_ones(storage: Storage, folder: str) -> None:
    """As vectors of a CPU and of a GPU are: of one fingerprint, and not the same."""
    first: list[str] = []

    def commit_first() -> None:
        first.append(write(storage, folder, spell("a", "cpu")).commit.digest)

    shards = write(Hooked(hooks={"published": (".tar", commit_first)}), folder, spell("a", "gpu"))
    assert [shards.commit.digest] == first
    assert [sample.components["txt"] for sample in shards.samples()] == [b"a cpu"]


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_an_index_whose_data_are_not_whole_gives_way_to_one_whose_data_are(
    storage: Storage, folder: str, damage: str
) -> None:
    layout = Layout.at(folder)
    first = write(storage, folder, spell("ab", "cpu"))
    file = Path(layout.data(first.shards[0].file_name).removeprefix("file://"))
    data = file.read_bytes()
    file.unlink() if damage == "lost" else file.write_bytes(data[:-1])
    again = write(storage, folder, spell("ab", "gpu"))
    assert again.made == 1
    assert [sample.components["txt"] for sample in again.samples()] == [b"a gpu", b"b cpu"]


def test_an_index_under_the_name_of_another_edition_s_says_nothing_of_that(storage: Storage, folder: str) -> None:
    layout = Layout.at(folder)
    (old,) = write(storage, folder, spell("a", edition="1"), keep_seconds=60).commit.shards
    (new,) = write(storage, folder, spell("a", edition="2"), keep_seconds=60).commit.shards
    storage.copy(layout.beside(old.index), layout.beside(new.index))
    found, _ = read_entry(storage, layout, old.id, old.fingerprint)
    assert found is not None
    assert found.sha256 == old.sha256
    assert read_entry(storage, layout, new.id, new.fingerprint)[0] is None


@pytest.mark.parametrize("damage", ["swapped", "cut"])
def test_a_damaged_index_that_no_commit_names_is_made_anew(storage: Storage, folder: str, damage: str) -> None:
    layout = Layout.at(folder)
    first = write(storage, folder, spell("ab"))
    storage.delete(layout.commit)
    a, b = (Path(layout.beside(entry.index).removeprefix("file://")) for entry in first.commit.shards)
    a.write_bytes(b.read_bytes() if damage == "swapped" else a.read_bytes()[:-9])
    again = write(storage, folder, spell("ab"))
    assert again.made == 1
    assert letters_of(again) == "ab"


# Rejects that may pass.


def test_a_shard_is_another_where_other_samples_may_pass() -> None:
    """Or a run would adopt the rejects of one that another sample failed."""

    def published(*rejects: Reject) -> str:
        report = ShardReport(samples_in=2, kept=2 - len(rejects), samples=2 - len(rejects), rejects=list(rejects))
        return MadeShard("000000", "a", "f" * 64, "tar", report, IndexWriter(), None).published_fingerprint

    base = Reject(key="a", reason="object changed", source_uri="file:///a", may_pass=True)
    changes = ({}, {"key": "b"}, {"reason": "object vanished"}, {"source_uri": "file:///b"})
    found = {published(), *(published(base.model_copy(update=change)) for change in changes)}
    assert len(found) == 5
    assert published(base.model_copy(update={"may_pass": False})) == published() == "f" * 64


def test_a_shard_with_a_reject_that_may_pass_is_never_taken_for_finished(storage: Storage, folder: str) -> None:
    first = write(storage, folder, spell("aB", may_pass=True))
    assert (first.made, first.commit.total_rejects, first.commit.may_pass) == (2, 1, 1)
    again = write(storage, folder, spell("aB", may_pass=True))
    assert (again.made, again.commit.total_rejects) == (1, 1)  # the sample was tried again
    assert again.commit.digest == first.commit.digest
    mended = write(storage, folder, spell("aB"))
    assert (mended.made, mended.commit.may_pass) == (1, 0)
    assert write(storage, folder, spell("aB")).made == 0


def test_after_the_cause_is_gone_the_partition_is_one_that_never_saw_it(
    storage: Storage, folder: str, tmp_path: Path
) -> None:
    write(storage, folder, spell("aB", may_pass=True))
    mended = write(storage, folder, spell("aB"))
    never = write(storage, f"file://{tmp_path}/other/{NAME}", spell("aB"))
    assert mended.commit.digest == never.commit.digest
    places = [(each.layout.folder, each.layout.side) for each in (mended, never)]
    first, second = ({info.uri.rpartition("/")[2] for at in pair for info in storage.list(at)} for pair in places)
    assert first == second


def test_too_many_rejects_that_may_pass_are_worth_another_try_and_others_are_not(storage: Storage, folder: str) -> None:
    from shardmill.engines import LocalEngine

    for may_pass in (True, False):
        with pytest.raises(TooManyRejectsError) as caught:
            spell("aBC", may_pass=may_pass).write(storage, folder, NAME, LocalEngine(1), max_reject_ratio=0.1)
        assert caught.value.final == (not may_pass)
        assert ("2 of them may pass: run again" in str(caught.value)) == may_pass
