"""Equal inputs give equal bytes, whatever the workers, the process and the folder."""

import shutil
import subprocess
from pathlib import Path

import pytest

from shardmill.dataset import Dataset

TRANSFORM = {
    "operations": [
        {"operation": "RandomResizedCrop", "arguments": {"size": 40}},
        {"operation": "RandomHorizontalFlip"},
    ]
}


def bytes_of(root: Path, suffix: str) -> dict[str, str]:
    """Name without its fingerprint → sha256."""
    import hashlib

    return {
        file.relative_to(root).as_posix().partition("-")[0]: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in root.rglob(f"*.{suffix}")
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, images) -> Path:
    folder = tmp_path_factory.mktemp("source")
    images(folder, 60)
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, source: Path, make_dataset, run_chain) -> Path:
    """The root of a run with one worker."""
    root = tmp_path_factory.mktemp("reference")
    dataset: Dataset = make_dataset(source, root, transform=TRANSFORM, embedder={})
    made = run_chain(dataset, workers=1)
    assert len(made["webdataset_shards"].commit.shards) > 3
    return root


@pytest.mark.parametrize("workers", [pytest.param(4, marks=pytest.mark.slow), 8])  # 8 run in two processes
def test_any_number_of_workers_gives_the_same_files(
    tmp_path: Path, source: Path, reference: Path, workers: int, make_dataset, run_chain, snapshot
) -> None:
    run_chain(make_dataset(source, tmp_path / "root", transform=TRANSFORM, embedder={}), workers=workers)
    made, expected = snapshot(tmp_path / "root"), snapshot(reference)
    assert made.keys() == expected.keys()
    differ = [name for name in made if made[name][0] != expected[name][0] and not name.endswith("index.json")]
    assert differ == []  # index.json says how long each shard took


def test_another_process_gives_the_same_files(
    tmp_path: Path, source: Path, reference: Path, write_dataset, command, snapshot
) -> None:
    file = write_dataset(tmp_path / "d.yaml", source, tmp_path / "root", transform=TRANSFORM)
    subprocess.run([*command, "run", str(file)], check=True, capture_output=True)
    made, expected = snapshot(tmp_path / "root"), snapshot(reference)
    assert made.keys() == expected.keys()
    assert [n for n in made if made[n][0] != expected[n][0] and not n.endswith("index.json")] == []


def test_a_copy_of_the_source_elsewhere_gives_the_same_tars(
    tmp_path: Path, source: Path, reference: Path, make_dataset, run_chain
) -> None:
    copied = shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copyfile)
    dataset = make_dataset(copied, tmp_path / "root", transform=TRANSFORM)
    run_chain(dataset, last="transformed_shards")
    made = bytes_of(tmp_path / "root", "tar")
    assert len(made) > 6
    assert made == bytes_of(reference, "tar")


def test_another_seed_gives_other_transformed_tars(
    tmp_path: Path, source: Path, reference: Path, make_dataset, run_chain
) -> None:
    dataset = make_dataset(source, tmp_path / "root", transform={**TRANSFORM, "seed": 1})
    run_chain(dataset, last="transformed_shards")
    ours, theirs = bytes_of(tmp_path / "root/d/transformed_shards", "tar"), bytes_of(reference / "d", "tar")
    assert not set(ours.values()) & set(theirs.values())


def test_a_run_with_nothing_to_do_touches_nothing(
    source: Path, reference: Path, make_dataset, run_chain, snapshot
) -> None:
    before = snapshot(reference)
    made = run_chain(make_dataset(source, reference, transform=TRANSFORM, embedder={}))
    assert {shards.made for shards in made.values()} == {0}
    assert snapshot(reference) == before
