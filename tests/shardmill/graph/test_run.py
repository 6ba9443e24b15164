"""Running a dataset: the states of its assets before and after, and what its import costs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shardmill import graph
from shardmill.dataset import Dataset
from shardmill.dataset.source import read_manifest
from shardmill.engines import LocalEngine
from shardmill.errors import ConfigurationError
from shardmill.partitions import encode_segment, seal_batch
from shardmill.shards.verify import verify
from tests.small import ASSETS, BASIS, states
from tests.small_embedder import SMALL


@pytest.fixture
def dataset(tmp_path: Path, images, make_dataset) -> Dataset:
    images(tmp_path / "raw", 20)
    return make_dataset(tmp_path / "raw", tmp_path / "root")


@pytest.mark.parametrize(
    "module", ["shardmill", "shardmill.graph", "shardmill.dataset", "shardmill.cli", "shardmill.engines"]
)
def test_importing_it_imports_neither_torch_nor_dagster_nor_pandas(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert module in loaded
    assert not loaded & {"torch", "torchvision", "dagster", "pandas", "pyarrow", "openvino", "matplotlib"}


def test_the_command_line_starts_with_little_more_than_itself() -> None:
    """Help comes at once: what takes long is imported by the command that needs it."""
    code = "import sys, shardmill.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"pydantic", "yaml", "numpy", "rich", "shardmill.storage", "shardmill.graph"}
    assert len(loaded) < 250


def test_states_are_missing_before_the_first_run_and_up_to_date_after_it(dataset: Dataset, run_chain) -> None:
    assert states(dataset) == ["missing"] * 5
    run_chain(dataset)
    assert states(dataset) == ["up to date"] * 5


def test_a_run_cut_short_leaves_the_rest_missing(dataset: Dataset, run_chain) -> None:
    run_chain(dataset, last="transformed_shards")
    assert states(dataset) == ["up to date"] * 3 + ["missing"] * 2


def test_a_touched_object_makes_everything_stale_until_the_next_run(
    dataset: Dataset, tmp_path: Path, run_chain
) -> None:
    run_chain(dataset)
    os.utime(tmp_path / "raw/image_00003.jpg")
    assert states(dataset) == ["stale"] * 5
    run_chain(dataset)
    assert states(dataset) == ["up to date"] * 5


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"max_reject_ratio": 0.5}, ["up to date"] * 5),
        ({"embedder": {**SMALL, "batch_size": 3}}, ["up to date"] * 5),
        ({"shards": {"max_samples": 5}}, ["up to date"] + ["stale"] * 4),
        ({"transform": {"operations": [], "seed": 1}}, ["up to date"] * 2 + ["stale"] * 3),
        ({"embedder": {**SMALL, "dtype": "float16"}}, ["up to date"] * 3 + ["stale"] * 2),
    ],
)
def test_a_changed_declaration_makes_stale_what_it_determines(
    dataset: Dataset, tmp_path: Path, make_dataset, run_chain, changed, expected
) -> None:
    run_chain(dataset)
    changed_dataset = make_dataset(tmp_path / "raw", tmp_path / "root", **changed)
    assert states(changed_dataset) == expected
    run_chain(changed_dataset)
    assert states(changed_dataset) == ["up to date"] * 5


def test_looking_at_states_changes_nothing(dataset: Dataset, tmp_path: Path, run_chain, snapshot) -> None:
    run_chain(dataset)
    before = snapshot(tmp_path / "root")
    os.utime(tmp_path / "raw/image_00003.jpg")
    states(dataset)
    assert snapshot(tmp_path / "root") == before


def test_a_partition_that_is_not_declared_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigurationError, match="no partition 'q'; there are p"):
        dataset.stored("embeddings", "q")


def test_a_source_with_nothing_in_it_is_an_error_and_no_empty_partition(tmp_path: Path, make_dataset) -> None:
    dataset = make_dataset(tmp_path / "nowhere", tmp_path / "root")
    with pytest.raises(ConfigurationError, match="nowhere"):
        list(graph.run(dataset, "p", LocalEngine(1)))
    assert not (tmp_path / "root").exists()


def test_devices_that_this_machine_has_not_are_missed_before_anything_is_made(
    tmp_path: Path, images, make_dataset, simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    images(tmp_path / "raw", 2)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", gpu={"count": 2}, embedder={})
    with pytest.raises(ConfigurationError, match="d/embeddings/p needs 2 CUDA devices"):
        next(graph.run(dataset, "p", LocalEngine(1)))
    assert not (tmp_path / "root").exists()


# A partition whose objects were all deleted: its rows are gone from every asset, and it stays whole.


@pytest.mark.parametrize(
    ("partitions", "name"),
    [(["p"], "p"), ({"by": "prefix"}, "p q"), ({"by": "prefix"}, "long" * 40), ({"by": "batch"}, "p")],
)
def test_a_partition_without_objects_is_committed_without_rows(
    tmp_path: Path, images: Any, make_dataset: Any, run_chain: Any, partitions: Any, name: str
) -> None:
    source = tmp_path / "raw" / name
    images(source, 3)
    images(tmp_path / "raw" / "other", 1)
    template = tmp_path / "raw" / ("{partition}" if partitions != {"by": "batch"} else "")
    dataset = make_dataset(template, tmp_path / "root", partitions=partitions)
    partition = encode_segment(name)
    if partitions == {"by": "batch"}:
        partition = seal_batch(dataset.storage, dataset.home, 1, list(dataset.storage.list(f"file://{source}"))).key
    full = run_chain(dataset, partition)
    assert {shards.commit.total_samples for shards in full.values()} == {3}

    shutil.rmtree(source)
    empty = run_chain(dataset, partition)
    assert list(empty) == [*ASSETS[:-1], BASIS, ASSETS[-1]]
    del empty[BASIS]  # it is settled, whatever becomes of the table that it was fitted on
    for shards in empty.values():
        assert (shards.commit.total_samples, shards.commit.total_samples_in, shards.commit.shardlist) == (0, 0, [])
        assert shards.urls == []
        assert list(verify(shards)) == []
    assert read_manifest(empty["raw_images"]).objects == 0
    assert states(dataset, partition) == ["up to date"] * 5
    again = run_chain(dataset, partition)
    assert {shards.made for shards in again.values()} == {0}

    images(source, 3)
    back = run_chain(dataset, partition)
    assert {shards.commit.total_samples for shards in back.values()} == {3}
    assert all(list(verify(shards)) == [] for shards in back.values())


def test_a_partition_that_never_had_objects_is_a_mistake(tmp_path: Path, make_dataset: Any) -> None:
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root")
    with pytest.raises(ConfigurationError, match="no object below"):
        next(graph.run(dataset, "p", LocalEngine(1)))


def test_a_window_without_objects_is_empty_where_others_have_some(
    tmp_path: Path, images: Any, make_dataset: Any, run_chain: Any
) -> None:
    days = {"by": "time", "every": "day", "start": "2026-01-01"}
    dataset = make_dataset(tmp_path / "raw/%Y-%m-%d", tmp_path / "root", partitions=days)
    (tmp_path / "raw/misc").mkdir(parents=True)
    (tmp_path / "raw/misc/notes.txt").write_text("in no window")
    with pytest.raises(ConfigurationError, match="no object below"):
        next(graph.run(dataset, "2026-01-01", LocalEngine(1)))
    images(tmp_path / "raw/2026-01-02", 1)
    made = run_chain(dataset, "2026-01-01")
    assert {shards.commit.total_samples for shards in made.values()} == {0}
    images(tmp_path / "raw/2026-01-01", 2)
    made = run_chain(dataset, "2026-01-01")
    assert {made[asset].commit.total_samples for asset in ASSETS} == {2}


def test_a_start_in_the_future_is_named_as_the_reason(tmp_path: Path, images: Any, make_dataset: Any) -> None:
    images(tmp_path / "raw/2026-01-02", 1)
    dataset = make_dataset(
        tmp_path / "raw/%Y-%m-%d", tmp_path / "root", partitions={"by": "time", "every": "day", "start": "2126-01-01"}
    )
    with pytest.raises(ConfigurationError, match=r"fits the source's uri in a window from 2126-01-01 up to now"):
        dataset.known_partitions()


def test_partitions_are_those_of_the_source_and_those_that_were_made(
    tmp_path: Path, images: Any, make_dataset: Any, run_chain: Any
) -> None:
    template = tmp_path / "raw" / "{partition}"
    dataset = make_dataset(template, tmp_path / "root", partitions={"by": "prefix"})
    with pytest.raises(ConfigurationError, match="no object below"):
        dataset.known_partitions()
    for name in ("a", "b"):
        images(tmp_path / "raw" / name, 1)
    run_chain(dataset, "b")
    shutil.rmtree(tmp_path / "raw" / "b")
    assert dataset.known_partitions() == ["a", "b"]


def test_without_a_batch_there_are_no_partitions(tmp_path: Path, make_dataset: Any) -> None:
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", partitions={"by": "batch"})
    with pytest.raises(ConfigurationError, match="its sensor seals them"):
        dataset.known_partitions()


def test_a_mistake_in_the_dataset_file_is_not_taken_for_a_deletion(
    tmp_path: Path, images: Any, make_dataset: Any, run_chain: Any
) -> None:
    images(tmp_path / "raw", 2)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root")
    run_chain(dataset, "p")
    moved = make_dataset(tmp_path / "mistyped", tmp_path / "root")
    with pytest.raises(ConfigurationError, match=r"made of objects elsewhere, such as .*/raw/"):
        next(graph.run(moved, "p", LocalEngine(1)))
    spec = dataset.spec.model_dump()
    spec["source"]["components"] = {"jpg": "mistyped/{key}.jpg"}
    misfit = Dataset(type(dataset.spec).model_validate(spec), dataset.storage)
    with pytest.raises(ConfigurationError, match=r"patterns\. The partition was made of .*/raw/"):
        next(graph.run(misfit, "p", LocalEngine(1)))
    shards = dataset.stored("raw_images", "p")
    assert shards is not None
    assert shards.commit.total_samples == 2
    shorter = make_dataset(tmp_path / "ra", tmp_path / "root")  # the folder's name begins so
    with pytest.raises(ConfigurationError, match=r"made of objects elsewhere, such as .*/raw/"):
        next(graph.run(shorter, "p", LocalEngine(1)))


def test_a_batch_of_objects_elsewhere_stays_as_it_is(tmp_path: Path, images: Any, make_dataset: Any) -> None:
    images(tmp_path / "raw", 2)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", partitions={"by": "batch"})
    batch = seal_batch(dataset.storage, dataset.home, 1, list(dataset.storage.list(f"file://{tmp_path}/raw"))).key
    moved = make_dataset(tmp_path / "ra", tmp_path / "root", partitions={"by": "batch"})
    with pytest.raises(ConfigurationError, match=r"was made of objects elsewhere, such as .*/raw/image_00000"):
        next(graph.run(moved, batch, LocalEngine(1)))
    with pytest.raises(ConfigurationError, match="there is no batch 'b1'"):
        next(graph.run(dataset, "b1", LocalEngine(1)))


def test_a_batch_whose_objects_were_deleted_before_it_was_made_is_a_mistake(
    tmp_path: Path, images: Any, make_dataset: Any
) -> None:
    images(tmp_path / "raw", 2)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", partitions={"by": "batch"})
    batch = seal_batch(dataset.storage, dataset.home, 1, list(dataset.storage.list(f"file://{tmp_path}/raw"))).key
    for file in (tmp_path / "raw").iterdir():
        file.unlink()
    with pytest.raises(ConfigurationError, match="none of the objects of batch-000001 is there any more"):
        next(graph.run(dataset, batch, LocalEngine(1)))


def test_partitions_of_another_declaration_are_none_of_the_dataset_s(
    tmp_path: Path, images: Any, make_dataset: Any, run_chain: Any
) -> None:
    images(tmp_path / "raw/2026-01-02", 1)
    images(tmp_path / "raw/b", 1)
    template = tmp_path / "raw" / "{partition}"
    for name in ("2026-01-02", "b"):
        run_chain(make_dataset(template, tmp_path / "root", partitions={"by": "prefix"}), name, last="raw_images")
    days = {"by": "time", "every": "day", "start": "2026-01-01"}
    dataset = make_dataset(tmp_path / "raw/%Y-%m-%d", tmp_path / "root", partitions=days)
    assert dataset.stored_partitions("raw_images") == ["2026-01-02"]
    assert dataset.known_partitions() == ["2026-01-02"]


@pytest.mark.parametrize("leaves", ["an empty folder", "nothing"])
@pytest.mark.parametrize("partitions", [["p"], {"by": "prefix"}, {"by": "batch"}])
def test_a_run_on_a_source_that_is_not_mounted_is_an_error_and_no_deletion(
    tmp_path: Path, images: Any, make_dataset: Any, run_chain: Any, partitions: Any, leaves: str
) -> None:
    source = tmp_path / "raw"
    images(source / "p", 2)
    template = source / ("{partition}" if partitions != {"by": "batch"} else "")
    dataset = make_dataset(template, tmp_path / "root", partitions=partitions)
    partition = "p"
    if partitions == {"by": "batch"}:
        partition = seal_batch(dataset.storage, dataset.home, 1, list(dataset.storage.list(f"file://{source}"))).key
    run_chain(dataset, partition)
    source.rename(tmp_path / "unmounted")
    if leaves == "an empty folder":
        source.mkdir()
    with pytest.raises(ConfigurationError, match=r"is it mounted\?"):
        next(graph.run(dataset, partition, LocalEngine(1)))
    shards = dataset.stored("embeddings", partition)
    assert shards is not None
    assert shards.commit.total_samples == 2
