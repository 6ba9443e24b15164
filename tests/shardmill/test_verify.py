"""Verification finds every kind of damage, names the file, and a further run mends what was deleted."""

import hashlib
import shutil
from pathlib import Path

import pytest

from shardmill import chain
from shardmill.dataset import ASSETS, Dataset
from shardmill.verify import read_with_webdataset, verify


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


def problems(dataset: Dataset, asset) -> list[str]:
    shards = chain.stored(dataset, asset, "p")
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
    folder = folder_of(dataset, asset)
    files = [f for f in folder.rglob("*") if f.is_file() and f.name not in ("index.json", ".shardmill-lock")]
    assert len(files) >= 3
    for file in files:
        file.rename(file.with_name(".away"))
        assert any(file.name in problem for problem in problems(dataset, asset)), file
        file.with_name(".away").rename(file)
    assert problems(dataset, asset) == []


@pytest.mark.parametrize("asset", ASSETS)
def test_any_damaged_index_is_named(dataset: Dataset, asset) -> None:
    for file in folder_of(dataset, asset).rglob("*.index.parquet"):
        whole = file.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 6):
            flip(file, place)
            assert any(file.name in problem for problem in problems(dataset, asset)), file
            file.write_bytes(whole)


@pytest.mark.parametrize("asset", ASSETS)
def test_a_file_that_no_index_names_is_found_and_the_next_run_removes_it(dataset: Dataset, asset, run_chain) -> None:
    stray = folder_of(dataset, asset) / f"000000-{'0' * 12}.{'tar' if asset.endswith('_shards') else 'parquet'}"
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
    folder = folder_of(dataset, asset)
    whole = {f.relative_to(folder) for f in folder.rglob("*") if f.is_file()}
    for file in [f for f in folder.rglob("*-*") if f.is_file()]:
        file.unlink()
        run_chain(dataset)
        assert problems(dataset, asset) == []
    assert {f.relative_to(folder) for f in folder.rglob("*") if f.is_file()} == whole


def test_webdataset_reads_every_sample(dataset: Dataset) -> None:
    for asset in ("webdataset_shards", "transformed_shards"):
        shards = chain.stored(dataset, asset, "p")
        assert shards is not None
        samples, size = read_with_webdataset(shards)
        assert samples == shards.commit.total_samples == 39
        assert size == sum(
            len(data)
            for shard in shards.shards
            for sample, _ in shard.read(dataset.storage)
            for data in sample.components.values()
        )
