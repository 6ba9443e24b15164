"""`urls` and `index`; what other readers make of it is in tests/conformance."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.servers.places import credentials_file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, images, write_dataset, call_command) -> Path:
    """Partition `a` is made, `b` is not."""
    folder = tmp_path_factory.mktemp("others # [deep]?")
    for partition in ("a", "b"):
        images(folder / "raw" / partition, 5)
    file = write_dataset(
        folder / "d.yaml",
        folder / "raw/{partition}",
        folder / "root",
        partitions=["a", "b"],
        shards={"max_samples": 2},
        embedder=None,
    )
    assert call_command("run", file, "a").returncode == 0
    return file


def data_files(file: Path, asset: str) -> list[Path]:
    return sorted((file.parent / "root/d" / asset / "a").iterdir())


@pytest.mark.parametrize("asset", ["raw_images", "webdataset_shards", "transformed_shards"])
def test_urls_are_the_paths_of_the_data_files_in_order(file: Path, call_command, asset: str) -> None:
    done = call_command("urls", file, asset)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [str(each) for each in data_files(file, asset)]
    assert done.stderr == ""
    assert call_command("urls", file, asset, "a").stdout == done.stdout


def test_an_asset_that_a_dataset_has_once_has_urls_too(
    call_command, tmp_path: Path, images, write_dataset, embedder_of_tests
) -> None:
    images(tmp_path / "raw", 4)
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", embedder=embedder_of_tests)
    assert call_command("run", file).returncode == 0
    for partitions in ([], ["p"]):
        (url,) = call_command("urls", file, "embedding_basis", *partitions).stdout.splitlines()
        assert Path(url).parent == tmp_path / "root/d/embedding_basis/all"


def test_urls_for_scripts_say_what_is_in_each_file(file: Path, call_command) -> None:
    records = list(map(json.loads, call_command("urls", file, "webdataset_shards", "--json").stdout.splitlines()))
    assert sum(record["samples"] for record in records) == 5
    for record, each in zip(records, data_files(file, "webdataset_shards"), strict=True):
        assert record["url"] == str(each)
        assert record["partition"] == "a"
        assert record["bytes"] == each.stat().st_size
        assert record["sha256"] == hashlib.sha256(each.read_bytes()).hexdigest()


def test_urls_of_a_bucket_have_its_scheme(place, images, tmp_path: Path, write_dataset, call_command) -> None:
    where = place("gs")
    images(tmp_path / "raw", 2)
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", embedder=None)
    file.write_text(file.read_text().replace(f"root: {tmp_path / 'root'}", f"root: {where.uri}"))
    credentials, secrets = credentials_file(tmp_path / "credentials.yaml", where)
    assert call_command("run", file, "--credentials", credentials, **secrets).returncode == 0
    done = call_command("urls", file, "webdataset_shards", "--credentials", credentials, **secrets)
    (url,) = done.stdout.splitlines()
    assert url.startswith(f"{where.uri}/d/webdataset_shards/p/000000-")
    assert where.storage.stat(url) is not None


def test_an_index_is_written_below_the_folder_that_is_named(file: Path, call_command, tmp_path: Path) -> None:
    done = call_command("index", "--dali", file, "transformed_shards", "--output", tmp_path, "--json")
    records = list(map(json.loads, done.stdout.splitlines()))
    assert [record["url"] for record in records] == [str(each) for each in data_files(file, "transformed_shards")]
    for record in records:
        index = tmp_path / "transformed_shards/a" / Path(record["url"]).with_suffix(".idx").name
        assert record["index"] == str(index)
        assert index.read_text().startswith(f"v1.2 {record['samples']}\ncls ")


@pytest.mark.parametrize("where", ["root", "root/d", "raw/x", "link/d"])
def test_an_index_is_never_written_among_the_data(file: Path, call_command, tmp_path: Path, where: str) -> None:
    data = file.parent
    (tmp_path / "link").symlink_to(data / "root")
    output = tmp_path / where if where.startswith("link") else data / where
    done = call_command("index", "--dali", file, "webdataset_shards", "--output", output)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{output} is among the data" in done.stderr
    assert not list(data.rglob("*.idx"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["urls", "{file}", "webdataset_shard"], "is no asset of d; did you mean 'webdataset_shards'?"),
        (["urls", "{file}", "x"], "x is no asset of d: there are raw_images, webdataset_shards, transformed_shards"),
        (["urls", "{file}", "raw_images", "b"], "nothing is committed of raw_images of b: run `shardmill run"),
        (["urls", "{file}", "raw_images", "c"], "there is no partition 'c'"),
        (["index", "--dali", "{file}", "raw_images", "-o", "x"], "raw_images holds no samples of d: there are web"),
        (["index", "--dali", "{file}", "webdataset_shards", "-o", "{file}"], "cannot write below {file}/webdataset_sh"),
        (["index", "{file}", "webdataset_shards", "-o", "x"], "say for which reader the index is to be: --dali"),
    ],
)
def test_what_cannot_be_is_one_sentence(file: Path, call_command, arguments: list[str], message: str) -> None:
    done = call_command(*(argument.format(file=file) for argument in arguments))
    assert (done.returncode, done.stdout) == (1, "")
    assert message.format(file=file) in done.stderr
    assert len(done.stderr.splitlines()) == 1
