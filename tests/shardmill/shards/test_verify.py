"""Verification finds every kind of damage, names the file, and a further run mends what was deleted."""

import hashlib
import shutil
from pathlib import Path

import pytest

from shardmill.dataset import Dataset
from shardmill.errors import CorruptionError
from shardmill.shards.layout import Layout
from shardmill.shards.verify import read_with_webdataset, verify
from tests.small import ASSETS


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, images, make_dataset, run_chain) -> Path:
    """A folder with `raw` and `root`, everything made of 40 images, one of which is a reject."""
    base = tmp_path_factory.mktemp("sound")
    keys = images(base / "raw", 40)
    (base / f"raw/{keys[0]}.jpg").write_bytes(b"")
    run_chain(make_dataset(base / "raw", base / "root", max_reject_ratio=0.1))
    return base


@pytest.fixture
def dataset(tmp_path: Path, sound: Path, make_dataset) -> Dataset:
    shutil.copytree(sound / "root", tmp_path / "root")
    return make_dataset(sound / "raw", tmp_path / "root", max_reject_ratio=0.1)


def folder_of(dataset: Dataset, asset) -> Path:
    return Path(dataset.folder(asset, "p").removeprefix("file://"))


def side_of(dataset: Dataset, asset) -> Path:
    return Path(Layout.at(dataset.folder(asset, "p")).side.removeprefix("file://"))


def files_of(dataset: Dataset, asset) -> list[Path]:
    """All but the commit itself."""
    found = [*folder_of(dataset, asset).rglob("*"), *side_of(dataset, asset).rglob("*")]
    return [file for file in found if file.is_file() and file.name not in ("index.json", ".shardmill-lock")]


def problems(dataset: Dataset, asset) -> list[str]:
    shards = dataset.stored(asset, "p")
    assert shards is not None
    return list(verify(shards))


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def test_a_sound_partition_has_no_problems(dataset: Dataset) -> None:
    assert {asset: problems(dataset, asset) for asset in ASSETS} == {asset: [] for asset in ASSETS}


def data_file(dataset: Dataset, asset) -> Path:
    suffix = "tar" if asset.endswith("_shards") else "parquet"
    return min(folder_of(dataset, asset).glob(f"*-*.{suffix}"), key=lambda file: file.name)


@pytest.mark.parametrize("asset", ASSETS)
@pytest.mark.parametrize("where", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.999])
def test_a_flipped_bit_is_found_wherever_it_is(dataset: Dataset, asset, where: float) -> None:
    file = data_file(dataset, asset)
    flip(file, int(where * file.stat().st_size))
    found = problems(dataset, asset)
    assert found
    assert any(file.name in problem for problem in found)


@pytest.mark.parametrize("asset", ASSETS)
@pytest.mark.parametrize("size", [0, 1, 511, 512, 0.5, -1])
def test_a_truncated_file_is_found(dataset: Dataset, asset, size: float) -> None:
    file = data_file(dataset, asset)
    data = file.read_bytes()
    file.write_bytes(data[: int(size * len(data)) if isinstance(size, float) else size])
    found = problems(dataset, asset)
    assert any(file.name in problem for problem in found)


@pytest.mark.parametrize("asset", ASSETS)
def test_any_missing_file_is_named(dataset: Dataset, asset) -> None:
    files = files_of(dataset, asset)
    assert len(files) >= 3
    away = Path(f"{dataset.home.removeprefix('file://')}/away")
    for file in files:
        file.rename(away)
        assert any(file.name in problem for problem in problems(dataset, asset)), file
        away.rename(file)
    assert problems(dataset, asset) == []


@pytest.mark.parametrize("asset", ASSETS)
def test_any_damaged_index_is_named(dataset: Dataset, asset) -> None:
    for file in side_of(dataset, asset).rglob("*.index.parquet"):
        whole = file.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 6):
            flip(file, place)
            assert any(file.name in problem for problem in problems(dataset, asset)), file
            file.write_bytes(whole)


@pytest.mark.parametrize("asset", ASSETS)
def test_a_file_that_no_index_names_is_found_and_the_next_run_removes_it(dataset: Dataset, asset, run_chain) -> None:
    stray = folder_of(dataset, asset) / f"000000-{'0' * 12}-{'0' * 8}.{data_file(dataset, asset).suffix[1:]}"
    stray.write_bytes(b"left by somebody")
    assert any(stray.name in problem for problem in problems(dataset, asset))
    run_chain(dataset)
    assert not stray.exists()
    assert problems(dataset, asset) == []


@pytest.mark.parametrize("asset", ASSETS[1:])
def test_what_is_damaged_deleted_and_run_again_is_as_before(dataset: Dataset, asset, run_chain) -> None:
    file = data_file(dataset, asset)
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    flip(file, file.stat().st_size // 2)
    file.unlink()
    made = run_chain(dataset)
    assert made[asset].made == 1
    assert sum(shards.made for shards in made.values()) == 1  # the same bytes: nothing after it is stale
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    assert problems(dataset, asset) == []


@pytest.mark.parametrize("asset", ASSETS)
def test_any_shard_file_that_is_gone_is_made_again(dataset: Dataset, asset, run_chain) -> None:
    whole = files_of(dataset, asset)
    for file in whole:
        file.unlink()
        run_chain(dataset)
        assert problems(dataset, asset) == []
    assert set(files_of(dataset, asset)) == set(whole)


def test_a_file_of_somebody_s_among_the_data_is_named(dataset: Dataset) -> None:
    (folder_of(dataset, "embeddings") / "notes.txt").write_text("mine")
    [problem] = problems(dataset, "embeddings")
    assert "notes.txt is none of Shardmill's files" in problem
    assert "Move it elsewhere" in problem


@pytest.mark.parametrize("asset", ["webdataset_shards", "embeddings"])
def test_two_shards_whose_files_were_swapped_are_found_and_never_taken_for_each_other(
    dataset: Dataset, asset, run_chain
) -> None:
    """Data and indexes, so that each pair fits."""
    shards = dataset.stored(asset, "p")
    assert shards is not None
    one, other = shards.shards[:2]
    for first, second in (
        (shards.layout.data(one.file_name), shards.layout.data(other.file_name)),
        (shards.layout.beside(one.entry.index), shards.layout.beside(other.entry.index)),
    ):
        a, b = Path(first.removeprefix("file://")), Path(second.removeprefix("file://"))
        data = a.read_bytes(), b.read_bytes()
        a.write_bytes(data[1])
        b.write_bytes(data[0])
    found = problems(dataset, asset)
    assert all(any(shard.id in problem for problem in found) for shard in (one, other))
    with pytest.raises(CorruptionError, match=r"is not what index\.json says"):
        list(shards.samples() if asset == "webdataset_shards" else shards.batches())
    # Without the commit, the indexes themselves say whose they are.
    Path(shards.layout.commit.removeprefix("file://")).unlink()
    made = run_chain(dataset)
    assert made[asset].made >= 2
    assert problems(dataset, asset) == []
    assert len(made["embeddings"].table()) == 39


def test_keys_that_are_in_two_shards_are_found(dataset: Dataset, run_chain, make_dataset, write_module) -> None:
    source = """
        import hashlib

        def transform(sample):
            name = "twice" if sample.key in ("image_00001", "image_00002") else sample.key
            return type(sample)(name, sample.components, sample.generator)
    """
    fields = {"transform": {"operations": [{"operation": f"{write_module(source)}:transform"}]}}
    raw, root = Path(str(dataset.spec.source.uri)), Path(dataset.spec.root)
    for limit in (1, 2, 4, 8):  # until the two are in different shards
        other = make_dataset(raw, root, max_reject_ratio=0.1, shards={"max_samples": limit}, **fields)
        run_chain(other, last="transformed_shards")
        if any(
            "1 keys are in two shards or more, twice among them" in text
            for text in problems(other, "transformed_shards")
        ):
            return
    raise AssertionError("nothing was found")


def test_an_edited_commit_is_named(dataset: Dataset, run_chain) -> None:
    from shardmill.cli.maintenance import _problems

    file = side_of(dataset, "embeddings") / "index.json"
    file.write_text(file.read_text().replace('"nsamples": 1', '"nsamples": 2', 1))
    [problem] = _problems(dataset, "embeddings", "p")
    assert "index.json is damaged or was edited. Delete it and run again" in problem
    file.unlink()
    assert run_chain(dataset)["embeddings"].made == 0
    assert problems(dataset, "embeddings") == []


def test_webdataset_reads_every_sample(dataset: Dataset) -> None:
    for asset in ("webdataset_shards", "transformed_shards"):
        shards = dataset.stored(asset, "p")
        assert shards is not None
        samples, size = read_with_webdataset(shards)
        assert samples == shards.commit.total_samples == 39
        assert size == sum(
            len(data)
            for shard in shards.shards
            for sample, _ in shard.read(dataset.storage)
            for data in sample.components.values()
        )
