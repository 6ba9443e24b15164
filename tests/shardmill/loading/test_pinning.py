"""A source is of the commits that it began with, whatever is committed meanwhile."""

import pickle
from pathlib import Path

import pyarrow.compute as pc
import pytest

from shardmill.errors import SupersededError
from shardmill.loading.sources import Source, open_source
from shardmill.samples import EncodedSample
from shardmill.shards.reader import ShardSet, open_shards
from tests.servers.places import Kind, NewPlace
from tests.spelling import NAME, spell, write

KEEP = {"gone": 0.0, "kept": 3600.0}


def read(source: Source, first: int = 0) -> list[EncodedSample]:
    """The samples of the shards from this one on."""
    found = []
    for shard in source.shards[first:]:
        found += [sample for _, sample in shard.read([range(shard.samples)]) if isinstance(sample, EncodedSample)]
    return found


@pytest.mark.parametrize("keep", KEEP.values(), ids=KEEP)
@pytest.mark.parametrize("kind", ["file", "s3"])
def test_an_epoch_goes_on_as_it_began_while_other_commits_come(place: NewPlace, kind: Kind, keep: float) -> None:
    where = place(kind)
    folder = f"{where.uri}/{NAME}"
    write(where.storage, folder, spell("abcdef", edition="old"), keep)
    source = open_source(folder, where.storage)
    expected = read(source)
    assert "".join(sample.key for sample in expected) == "abcdef"
    # The same samples in other shards, by another edition of the software that gives the same bytes; and one more.
    write(where.storage, folder, spell("abcdefg", software="", edition="old"), keep)
    assert read(source) == expected
    # Other bytes: there is nothing left of what it began with, unless that is kept.
    write(where.storage, folder, spell("abcdefg", edition="new"), keep)
    if keep:
        assert read(pickle.loads(pickle.dumps(source))) == expected
    else:
        with pytest.raises(SupersededError, match=r"(?s)a of .*is gone.*keep_superseded"):
            read(source)


def test_samples_are_found_in_the_shards_that_hold_them_by_now(tmp_path: Path, images, make_dataset, run_chain) -> None:
    """Without `keep_superseded`: shards are split and merged, samples come, change and go."""
    raw = tmp_path / "raw"
    keys = images(raw, 40)

    def run(limit: int, order: str = "hash") -> ShardSet:
        dataset = make_dataset(raw, tmp_path / "root", shards={"max_samples": limit, "order": order})
        return run_chain(dataset, last="webdataset_shards")["webdataset_shards"]

    run(16)
    source = open_source(str(tmp_path / "root/d/webdataset_shards/p"))
    expected = read(source)
    for limit, order in ((4, "hash"), (40, "hash"), (7, "key")):
        run(limit, order)
        assert read(source) == expected
    images(raw, 5, first=100)
    run(9)
    assert read(source) == expected

    (raw / f"{keys[3]}.jpg").write_bytes((raw / f"{keys[4]}.jpg").read_bytes())
    run(9)
    changed = next(n for n, shard in enumerate(source.shards) if keys[3] in keys_of(source, n))
    others = [shard for n, shard in enumerate(source.shards) if n != changed]
    for shard in others:
        assert len(list(shard.read([range(shard.samples)]))) == shard.samples
    with pytest.raises(SupersededError, match=f"{keys[3]} of .* is gone"):
        list(source.shards[changed].read([range(source.shards[changed].samples)]))


def keys_of(source: Source, shard: int) -> list[str]:
    return source.shards[shard].places().keys.to_pylist()


def test_a_shard_that_goes_while_it_is_read_is_read_to_its_end(
    tmp_path: Path, images, make_dataset, run_chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request takes two samples here; the shard goes after the second request."""
    monkeypatch.setattr("shardmill.shards.places.READ_BYTES", 1)
    monkeypatch.setattr("shardmill.shards.places._GAP", 0)
    images(tmp_path / "raw", 12)

    def run(limit: int) -> ShardSet:
        dataset = make_dataset(tmp_path / "raw", tmp_path / "root", shards={"max_samples": limit})
        return run_chain(dataset, last="webdataset_shards")["webdataset_shards"]

    expected = list(run(16).samples())
    [shard] = open_source(str(tmp_path / "root/d/webdataset_shards/p")).shards
    loop = shard.read([range(2, 7), range(9, 12)])
    some = [next(loop) for _ in range(2)]
    run(4)
    some += loop
    assert some == [(n, expected[n]) for n in (2, 3, 4, 5, 6, 9, 10, 11)]


def test_columns_and_vectors_stay_as_they_were(tmp_path: Path, images, make_dataset, run_chain) -> None:
    images(tmp_path / "raw", 20)

    def run(limit: int) -> ShardSet:
        dataset = make_dataset(tmp_path / "raw", tmp_path / "root", shards={"max_samples": limit})
        return run_chain(dataset, last="embeddings")["embeddings"]

    table = {row["key"]: row for row in run(8).table(["key", "cls", "embedding"]).to_pylist()}
    folder = str(tmp_path / "root/d/webdataset_shards/p")
    embeddings = str(tmp_path / "root/d/embeddings/p")
    source = open_source(folder, columns=["cls"], embeddings=embeddings, filter=pc.field("cls") != "1")
    run(20)
    for number, shard in enumerate(source.shards):
        chosen = source.selected[number].tolist()
        cells = source.cells(number, chosen)
        for n, each in zip(chosen, cells, strict=True):
            [(_, sample)] = shard.read([range(n, n + 1)])
            assert each["embedding"].tolist() == table[sample.key]["embedding"]
            assert each["cls"] == table[sample.key]["cls"] != "1"


def test_a_set_that_is_given_is_read_as_it_was_when_it_was_opened_if_that_is_kept(folder: str, storage) -> None:
    place = f"{folder}/{NAME}"
    first = write(storage, place, spell("abc", edition="1"), keep_seconds=3600)
    write(storage, place, spell("abcd", edition="2"), keep_seconds=3600)
    pinned = open_shards(place, storage, first.digest)
    assert [sample.components["txt"] for sample in read(open_source(pinned))] == [b"a 1", b"b 1", b"c 1"]
    assert open_source(pinned).identity != open_source(place).identity


def test_what_is_committed_while_indexes_are_read_is_followed_unless_a_state_was_asked_for(
    folder: str, storage
) -> None:
    place = f"{folder}/{NAME}"
    first = write(storage, place, spell("abc", edition="1"))
    found, asked_for = open_shards(place, storage), open_shards(place, storage, first.digest)
    write(storage, place, spell("abcd", edition="2"))
    assert [sample.components["txt"] for sample in read(open_source(found))] == [b"a 2", b"b 2", b"c 2", b"d 2"]
    with pytest.raises(SupersededError):
        open_source(asked_for)
