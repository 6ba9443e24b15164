"""The public reader: samples and tables of a commit, verified, whatever other runs commit meanwhile."""

import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shardmill.errors import ConfigurationError, CorruptionError, SupersededError
from shardmill.samples import EncodedSample
from shardmill.shards.reader import ShardSet, open_shards
from shardmill.storage import Storage
from tests.counting import CountingStorage
from tests.servers.places import BUCKETS, KINDS, Kind, NewPlace
from tests.small import make, plan
from tests.spelling import NAME, letters_of, spell, write


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, images, make_dataset, run_chain) -> dict[str, ShardSet]:
    """A chain over 60 samples, in several shards."""
    base = tmp_path_factory.mktemp("read")
    images(base / "raw", 60)
    return run_chain(make_dataset(base / "raw", base / "root"))


# Opening.


def test_a_partition_is_opened_by_its_folder_as_uri_or_path(made: dict[str, ShardSet]) -> None:
    for folder in (made["embeddings"].folder, made["embeddings"].folder.removeprefix("file://")):
        assert open_shards(folder).commit == made["embeddings"].commit


def test_nothing_is_opened_where_nothing_is_committed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="materialize it first"):
        open_shards(f"{tmp_path}/d/embeddings/p")
    with pytest.raises(ConfigurationError, match="no folder of a partition"):
        open_shards("s3://bucket")


# Reading.


@pytest.mark.parametrize("order", ["hash", "key"])
def test_samples_come_in_the_order_of_the_shards(tmp_path: Path, images, make_dataset, run_chain, order: str) -> None:
    keys = images(tmp_path / "raw", 60)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", shards={"max_samples": 16, "order": order})
    shards = run_chain(dataset, last="transformed_shards")["transformed_shards"]
    found = [sample.key for sample in shards.samples()]
    assert found == [sample.key for shard in shards.shards for sample, _ in shard.read(shards.storage)]
    assert sorted(found) == keys
    assert found == sorted(found, key=shards.commit.position)
    assert (found == keys) == (order == "key")


@pytest.mark.parametrize("asset", ["webdataset_shards", "transformed_shards"])
def test_a_sample_is_read_by_its_key_with_one_ranged_read(made: dict[str, ShardSet], asset: str) -> None:
    shards = made[asset]
    for sample in shards.samples():
        assert shards.sample(sample.key) == sample
    storage = CountingStorage()
    counted = open_shards(shards.folder, storage)
    counted.sample("image_00007")
    assert [verb for verb, _ in storage.reads] == ["read", "read", "range"]  # the commit, an index, the sample
    counted.sample("image_00007")
    assert [verb for verb, _ in storage.reads[3:]] == ["range"]
    with pytest.raises(KeyError):
        shards.sample("image_99999")


def test_children_and_renamed_samples_are_found_by_their_keys(
    tmp_path: Path, images, make_dataset, run_chain, write_module
) -> None:
    source = """
        def transform(sample):
            yield sample.child("a", sample.components)
            yield type(sample)("other_" + sample.key[::-1], sample.components, sample.generator)
    """
    images(tmp_path / "raw", 40)
    operation = {"operation": f"{write_module(source)}:transform"}
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", transform={"operations": [operation]})
    shards = run_chain(dataset, last="transformed_shards")["transformed_shards"]
    for sample in shards.samples():
        assert shards.sample(sample.key) == sample


def test_rows_are_read_by_number_and_columns_by_name(made: dict[str, ShardSet]) -> None:
    table = made["embeddings"].table(["key", "embedding"])
    assert table.column_names == ["key", "embedding"]
    assert sorted(table["key"].to_pylist()) == [f"image_{number:05}" for number in range(60)]
    for start, stop in ((0, 1), (0, 60), (7, 41), (59, 60), (60, 70), (5, 5)):
        rows = made["embeddings"].rows(start, stop, ["key"])
        assert (rows["key"].to_pylist() if rows.num_rows else []) == table["key"].to_pylist()[start:stop]
    batches = list(made["embeddings"].batches(["key"]))
    assert [key for batch in batches for key in batch["key"].to_pylist()] == table["key"].to_pylist()


def test_only_the_parts_that_hold_the_rows_are_read(made: dict[str, ShardSet]) -> None:
    storage = CountingStorage()
    table = open_shards(made["embeddings"].folder, storage)
    first = table.shards[0]
    table.rows(0, first.samples)
    assert [uri for verb, uri in storage.reads if verb == "open"] == [table.urls[0]]


def test_a_table_with_more_rows_than_samples_is_read_whole(made: dict[str, ShardSet]) -> None:
    assert made["raw_images"].table().num_rows == 120  # an image and a class each


# Nothing that is wrong is handed over.


def damaged_copy(tmp_path: Path, shards: ShardSet) -> ShardSet:
    """A copy of a partition that a test may damage."""
    import shutil

    home = Path(shards.layout.home.removeprefix("file://"))
    shutil.copytree(home, tmp_path / "d")
    return open_shards(f"{tmp_path}/d/{shards.layout.name}")


@pytest.mark.parametrize("asset", ["webdataset_shards", "transformed_shards"])
def test_a_flipped_bit_anywhere_is_never_handed_over(made: dict[str, ShardSet], tmp_path: Path, asset: str) -> None:
    whole = {sample.key: sample for sample in made[asset].samples()}
    shards = damaged_copy(tmp_path, made[asset])
    file = Path(shards.urls[1].removeprefix("file://"))
    data, dice = file.read_bytes(), random.Random(3)
    for _ in range(40):
        place = dice.randrange(len(data))
        file.write_bytes(data[:place] + bytes([data[place] ^ (1 << dice.randrange(8))]) + data[place + 1 :])
        handed: list[EncodedSample] = []
        with pytest.raises(CorruptionError, match=file.name):
            handed.extend(shards.samples())
        assert all(sample == whole[sample.key] for sample in handed)
        for key in [sample.key for sample, _ in made[asset].shards[1].read(shards.storage)][:3]:
            with suppress(CorruptionError):  # where this very sample is the damaged one
                assert shards.sample(key) == whole[key]


def test_a_part_of_a_table_is_compared_before_a_row_is_handed_over(made: dict[str, ShardSet], tmp_path: Path) -> None:
    shards = damaged_copy(tmp_path, made["embeddings"])
    file = Path(shards.urls[0].removeprefix("file://"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptionError, match="SHA-256 differs"):
        next(shards.batches(["key"]))
    with pytest.raises(CorruptionError, match="SHA-256 differs"):
        shards.rows(0, 1)


def test_an_index_that_is_another_shard_s_is_refused(made: dict[str, ShardSet], tmp_path: Path) -> None:
    shards = damaged_copy(tmp_path, made["webdataset_shards"])
    one, other = (Path(shards.layout.beside(each.entry.index).removeprefix("file://")) for each in shards.shards[:2])
    one.write_bytes(other.read_bytes())
    with pytest.raises(CorruptionError, match=one.name):
        list(shards.samples())


def test_a_file_that_is_gone_though_the_commit_names_it_is_an_error(made: dict[str, ShardSet], tmp_path: Path) -> None:
    shards = damaged_copy(tmp_path, made["webdataset_shards"])
    Path(shards.urls[0].removeprefix("file://")).unlink()
    with pytest.raises(CorruptionError, match=r"is gone, and index\.json names it: run the partition again"):
        list(shards.samples())


# While others commit.


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_goes_on_with_what_stands_by_then(place: NewPlace, kind: Kind) -> None:
    storage = place(kind)
    folder = f"{storage.uri}/{NAME}"
    first = write(storage.storage, folder, spell("abcdefgh", edition="old"))
    loop = first.samples()
    read = [next(loop) for _ in range(3)]
    write(storage.storage, folder, spell("acdeghx", edition="new"))
    read += loop
    # `b` was read before it went, `f` went before it was read, `x` came.
    assert [sample.key for sample in read] == list("abcdeghx")
    assert [sample.components["txt"][2:] for sample in read] == [b"old"] * 3 + [b"new"] * 5
    assert letters_of(first) == "acdeghx"  # it has nothing left of its own state
    assert first.sample("x").components["txt"] == b"x new"


@pytest.mark.parametrize("limits", [(4, 32), (8, 5), (16, 3)])
@pytest.mark.parametrize("order", ["hash", "key"])
def test_shards_that_split_or_merge_under_a_loop_lose_and_double_nothing(
    tmp_path: Path, images, make_dataset, run_chain, limits: tuple[int, int], order: str
) -> None:
    """There and back, wherever the loop stands, of samples and of tables."""
    keys = images(tmp_path / "raw", 32)

    def run(limit: int) -> dict[str, ShardSet]:
        shards = {"max_samples": limit, "order": order}
        return run_chain(make_dataset(tmp_path / "raw", tmp_path / "root", shards=shards), last="embeddings")

    made = run(limits[0])
    for number, stop in enumerate((0, 1, 5, 13, 31, 5)):
        samples, rows = made["transformed_shards"].samples(), made["embeddings"].batches(["key"])
        read = [next(samples).key for _ in range(stop)]
        table = next(rows)["key"].to_pylist() if stop else []
        made = run(limits[1 - number % 2])
        read += [sample.key for sample in samples]
        table += [key for batch in rows for key in batch["key"].to_pylist()]
        assert sorted(read) == keys
        assert sorted(table) == keys


def test_children_of_one_sample_stay_together_when_their_shard_is_superseded(
    tmp_path: Path, images, make_dataset, run_chain, write_module
) -> None:
    source = """
        def transform(sample):
            for name in "abc":
                yield sample.child(name, sample.components)
    """
    keys = images(tmp_path / "raw", 24)
    operation = {"operation": f"{write_module(source)}:transform"}

    def run(limit: int) -> ShardSet:
        fields = {"transform": {"operations": [operation]}, "shards": {"max_samples": limit}}
        dataset = make_dataset(tmp_path / "raw", tmp_path / "root", **fields)
        return run_chain(dataset, last="transformed_shards")["transformed_shards"]

    for stop in (1, 2, 3, 20, 50):
        samples = run(4).samples()
        read = [next(samples).key for _ in range(stop)]
        run(24)
        read += [sample.key for sample in samples]
        assert sorted(read) == sorted(f"{key}~{name}" for key in keys for name in "abc")


@pytest.mark.parametrize("kind", KINDS)
def test_many_commits_under_a_loop_leave_every_sample_of_one_state_of_each_shard(place: NewPlace, kind: Kind) -> None:
    where = place(kind)
    folder, letters = f"{where.uri}/{NAME}", "abcdefghij"
    shards = write(where.storage, folder, spell(letters, edition="0"))
    done = threading.Event()
    loops: list[list[str]] = []
    failures: list[BaseException] = []

    def loop() -> None:
        try:
            while not done.is_set():
                loops.append([sample.key for sample in shards.samples()])
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=loop) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1, 21):  # another state each time, and the same ones again and again
        write(where.storage, folder, spell(letters, edition=str(number % 5)))
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert len(loops) > 1
    assert {"".join(keys) for keys in loops} == {letters}


def test_a_change_of_the_order_ends_a_loop_that_has_begun(tmp_path: Path, images, make_dataset, run_chain) -> None:
    """Where it stands cannot be said in the other order."""
    images(tmp_path / "raw", 40)
    datasets = [
        make_dataset(tmp_path / "raw", tmp_path / "root", shards={"max_samples": 8, "order": order})
        for order in ("hash", "key")
    ]
    loop = run_chain(datasets[0], last="webdataset_shards")["webdataset_shards"].samples()
    next(loop)
    run_chain(datasets[1], last="webdataset_shards")
    with pytest.raises(SupersededError, match="another run has committed"):
        list(loop)


# A state that was asked for.


def test_a_state_that_is_kept_is_read_at_its_digest_and_no_other(folder: str, storage: Storage) -> None:
    place = f"{folder}/{NAME}"
    first = write(storage, place, spell("abc", "1"), keep_seconds=3600)
    second = write(storage, place, spell("acX", "1"), keep_seconds=3600)
    third = write(storage, place, spell("Y", "1"), keep_seconds=3600)
    for shards, letters in ((first, "abc"), (second, "Xac"), (third, "Y")):
        for digest in (shards.commit.digest, shards.commit.digest[:16]):
            assert letters_of(open_shards(place, storage, digest)) == letters
    assert letters_of(open_shards(place, storage)) == "Y"
    assert [reject.key for reject in open_shards(place, storage, second.commit.digest).rejects()] == ["X2"]


def test_a_state_that_is_not_kept_says_so(folder: str, storage: Storage) -> None:
    place = f"{folder}/{NAME}"
    first = write(storage, place, spell("abc"))
    pinned = open_shards(place, storage, first.commit.digest)
    write(storage, place, spell("xyz"))
    with pytest.raises(FileNotFoundError, match="keep_superseded"):
        open_shards(place, storage, first.commit.digest)
    with pytest.raises(SupersededError, match="asked for at"):
        list(pinned.samples())


def test_a_stage_does_not_follow_its_input_is_its_commit(tmp_path: Path, images, make_dataset, run_chain) -> None:
    """What it makes would be of another state than its fingerprint says."""
    from shardmill.engines import LocalEngine

    images(tmp_path / "raw", 24)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root")
    made = run_chain(dataset)
    lazy = plan(dataset, "embedding_map", "p", made)
    images(tmp_path / "raw", 4, first=700)
    run_chain(dataset, last="embeddings")
    with pytest.raises(SupersededError) as caught:
        make(dataset, "embedding_map", "p", _renamed(lazy), LocalEngine(1))
    assert not caught.value.final


def _renamed(lazy: Any) -> Any:
    """Another fingerprint, so that it has to be made."""
    from dataclasses import replace

    return replace(lazy, stage=replace(lazy.stage, class_names=("other",)))


@pytest.mark.parametrize("kind", BUCKETS)
def test_a_tool_reads_the_urls_of_a_commit(place: NewPlace, kind: Kind) -> None:
    where = place(kind)
    shards = write(where.storage, f"{where.uri}/{NAME}", spell("abc"))
    assert sorted(shards.urls) == sorted(info.uri for info in where.storage.list(shards.folder))


def test_a_webdataset_pipeline_over_the_reader_survives_a_commit(
    tmp_path: Path, images, make_dataset, run_chain
) -> None:
    """The recipe of the documentation."""
    import webdataset as wds

    keys = images(tmp_path / "raw", 40)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", shards={"max_samples": 8})
    shards = run_chain(dataset, last="webdataset_shards")["webdataset_shards"]

    def source() -> Iterator[dict[str, Any]]:
        return ({"__key__": sample.key, **sample.components} for sample in shards.samples())

    pipeline = iter(wds.DataPipeline(source, wds.decode("pil"), wds.to_tuple("__key__", "jpg", "cls")))
    read = [next(pipeline) for _ in range(3)]
    run_chain(make_dataset(tmp_path / "raw", tmp_path / "root", shards={"max_samples": 16}), last="webdataset_shards")
    read += pipeline
    assert sorted(key for key, _, _ in read) == keys
    assert {image.size for _, image, _ in read} == {(64, 64)}


def test_rejects_are_compared_with_the_commit_and_follow_it(folder: str, storage: Storage) -> None:
    place = f"{folder}/{NAME}"
    first = write(storage, place, spell("aB"))
    write(storage, place, spell("aC"))
    assert [reject.key for reject in first.rejects()] == ["C2"]
    entry = next(entry for entry in open_shards(place).commit.shards if entry.rejects)
    file = Path(first.layout.beside(entry.index).removeprefix("file://"))
    file.write_bytes(file.read_bytes().replace(b"capital", b"forgery"))
    with pytest.raises(CorruptionError, match=file.name):
        list(open_shards(place).rejects())


def test_after_a_commit_samples_are_read_by_one_ranged_read_again(folder: str) -> None:
    storage, place = CountingStorage(), f"{folder}/{NAME}"
    first = write(storage, place, spell("ab"))
    write(storage, place, spell("ab", edition="2"))
    assert first.sample("a").components["txt"] == b"a 2"
    storage.reads.clear()
    first.sample("a")
    assert [verb for verb, _ in storage.reads] == ["range"]


def test_what_a_set_remembers_does_not_travel_with_it(folder: str, storage: Storage) -> None:
    import pickle

    shards = write(storage, f"{folder}/{NAME}", spell("abc"))
    fresh = len(pickle.dumps(shards))
    shards.sample("b")
    again = pickle.loads(pickle.dumps(shards))
    assert len(pickle.dumps(shards)) == fresh
    assert again.sample("b") == shards.sample("b")


@pytest.mark.parametrize("digest", ["", "0123", "0" * 15, "g" * 16, "0" * 65])
def test_what_is_no_digest_is_refused(folder: str, storage: Storage, digest: str) -> None:
    write(storage, f"{folder}/{NAME}", spell("a"))
    with pytest.raises(ConfigurationError, match="at least 16"):
        open_shards(f"{folder}/{NAME}", storage, digest)


def test_samples_of_a_table_and_rows_of_tars_are_refused_with_what_to_do(made: dict[str, ShardSet]) -> None:
    with pytest.raises(ConfigurationError, match="holds a table: read it with table"):
        next(made["embeddings"].samples())
    with pytest.raises(ConfigurationError, match="holds a table"):
        made["embeddings"].sample("image_00000")
    for read in (made["webdataset_shards"].table, lambda: made["webdataset_shards"].rows(0, 1)):
        with pytest.raises(ConfigurationError, match="holds samples: read it with samples"):
            read()


def test_the_folder_beside_the_data_is_refused_with_the_one_that_is_meant(made: dict[str, ShardSet]) -> None:
    shards = made["embeddings"]
    with pytest.raises(ConfigurationError, match=f"give the folder of the data, {shards.folder}"):
        open_shards(shards.layout.side)


def test_a_column_that_is_not_there_is_refused_with_those_that_are(made: dict[str, ShardSet]) -> None:
    with pytest.raises(ConfigurationError, match=r"no column 'nope'; its columns are key, embedding, "):
        made["embeddings"].table(["key", "nope"])


def test_urls_of_a_kept_state_lead_to_where_its_files_are(folder: str, storage: Storage) -> None:
    place = f"{folder}/{NAME}"
    first = write(storage, place, spell("ab"), keep_seconds=3600)
    second = write(storage, place, spell("ac"), keep_seconds=3600)
    kept = open_shards(place, storage, first.digest)
    assert all(storage.stat(uri) is not None for uri in kept.urls)
    assert kept.urls[0] == second.urls[0]
    assert kept.kept() == [first.digest[:16]]


def test_a_set_is_shown_in_one_line(made: dict[str, ShardSet]) -> None:
    assert repr(made["embeddings"]).startswith("<ShardSet d/embeddings/p: 60 samples in ")
