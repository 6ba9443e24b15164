"""Samples by number and key, each by one ranged read, also in the workers of a plain DataLoader."""

import hashlib
import pickle
import threading
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from shardmill.dataset import Dataset as OurDataset
from shardmill.errors import ConfigurationError, CorruptionError, Rejected
from shardmill.loading.table import SampleTable
from shardmill.samples import EncodedSample
from shardmill.shards.reader import ShardSet
from shardmill.torchvision_compat import import_torchvision
from shardmill.transforms import TransformSpec
from tests.counting import CountingStorage
from tests.servers.places import NewPlace
from tests.spelling import NAME, spell, write

tv_tensors = import_torchvision().tv_tensors
CROP = {"operation": "RandomResizedCrop", "arguments": {"size": 24}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table")


@pytest.fixture(scope="module")
def dataset(base: Path, images, make_dataset) -> OurDataset:
    images(base / "raw", 40)
    return make_dataset(
        base / "raw", base / "root", transform={"operations": [CROP, {"operation": "RandomHorizontalFlip"}]}
    )


@pytest.fixture(scope="module")
def made(dataset: OurDataset, run_chain) -> dict[str, ShardSet]:
    return run_chain(dataset, last="embeddings")


def digests(samples: list[dict]) -> dict[str, str]:
    return {each["__key__"]: hashlib.sha256(each["jpg"].numpy().tobytes()).hexdigest() for each in samples}


def test_samples_are_had_by_number_and_by_key(made) -> None:
    table = SampleTable(made["webdataset_shards"].folder)
    samples = list(made["webdataset_shards"].samples())
    assert isinstance(table, Dataset)
    assert len(table) == 40 == len(samples)
    assert repr(table) == f"<SampleTable: 40 samples in {len(made['webdataset_shards'].shards)} shards>"
    assert table.keys.to_pylist() == [sample.key for sample in samples]
    for number, sample in enumerate(samples):
        for which in (number, sample.key, number - 40):
            found = table[which]
            assert (found["__key__"], found["cls"]) == (sample.key, int(sample.components["cls"]))
            assert isinstance(found["jpg"], tv_tensors.Image)
    assert [each["__key__"] for each in table.__getitems__([5, samples[3].key])] == [samples[5].key, samples[3].key]
    for wrong, error in ((40, IndexError), (-41, IndexError), ("nobody", KeyError)):
        with pytest.raises(error):
            table[wrong]


def test_samples_of_a_batch_are_read_at_the_same_time(made, monkeypatch: pytest.MonkeyPatch) -> None:
    table, read, together = SampleTable(made["webdataset_shards"].folder), SampleTable._read, threading.Barrier(4)

    def wait_for_the_others(table: SampleTable, place: Any) -> EncodedSample:
        together.wait(timeout=30)
        return read(table, place)

    expected = [table[number]["__key__"] for number in (7, 0, 39, 8)]
    monkeypatch.setattr(SampleTable, "_read", wait_for_the_others)
    assert [each["__key__"] for each in table.__getitems__([7, 0, 39, 8])] == expected


def test_a_sample_is_one_ranged_read(made) -> None:
    storage = CountingStorage()
    table = SampleTable(made["webdataset_shards"].folder, storage=storage)
    storage.reads.clear()
    key = table[11]["__key__"]
    assert [verb for verb, _ in storage.reads] == ["range"]
    table[key]
    assert [verb for verb, _ in storage.reads] == ["range"] * 2


def test_columns_vectors_and_filters_are_as_in_a_stream(made) -> None:
    table = SampleTable(
        made["webdataset_shards"],
        columns=["cls"],
        embeddings=made["embeddings"],
        filter=pc.field("cls") == "2",
        components=["jpg"],
    )
    rows = {row["key"]: row for row in made["embeddings"].table().to_pylist() if row["cls"] == "2"}
    assert len(table) == len(rows) == 13
    found = {each["__key__"]: each for each in table}
    assert found.keys() == rows.keys()
    for key, sample in found.items():
        assert sample.keys() == {"__key__", "__url__", "jpg", "cls", "embedding"}
        assert sample["cls"] == "2"
        assert sample["embedding"].tolist() == rows[key]["embedding"]
        assert table[key]["__key__"] == key


def test_masks_of_a_transform_are_masks(base: Path, made, dataset) -> None:
    assert SampleTable(made["webdataset_shards"], masks=["jpg"])._prepare.masks == ("jpg",)
    masked = dataset.spec.transform.model_copy(update={"masks": ["m.png"]})
    commit = made["transformed_shards"].commit
    parameters = {**commit.parameters, **masked.spec.model_dump(mode="json"), "names": {"m.png": ["m.png", "n.png"]}}
    shards = ShardSet(
        dataset.storage, made["transformed_shards"].layout, commit.model_copy(update={"parameters": parameters})
    )
    assert SampleTable(shards).source.masks == ["m.png", "n.png"]


def test_a_plain_dataloader_reads_the_same_pixels_with_any_workers_and_in_any_epoch(made, dataset) -> None:
    table = SampleTable(made["webdataset_shards"], transform=dataset.transform(), components=["jpg", "cls"])

    def epoch_of(loader: DataLoader) -> dict[str, str]:
        found = {}
        for batch in loader:
            assert batch["jpg"].shape[1:] == (3, 24, 24)
            assert batch["cls"].dtype == torch.int64
            found |= digests(
                [{"__key__": key, "jpg": image} for key, image in zip(batch["__key__"], batch["jpg"], strict=True)]
            )
        return found

    here = DataLoader(table, batch_size=7, shuffle=True)
    workers = DataLoader(
        table, batch_size=8, shuffle=True, num_workers=2, multiprocessing_context="spawn", persistent_workers=True
    )
    seen = []
    for epoch in (0, 1):
        table.epoch = epoch
        expected = digests(list(table))
        assert epoch_of(here) == epoch_of(workers) == expected
        seen.append(expected)
    assert not set(seen[0].values()) & set(seen[1].values())


def test_a_table_pickles(made) -> None:
    table = SampleTable(made["webdataset_shards"])
    table.epoch = 4
    again = pickle.loads(pickle.dumps(table))
    assert (again.epoch, len(again), again[3]["__key__"]) == (4, 40, table[3]["__key__"])


def test_a_fork_is_refused_where_it_would_hang(place: NewPlace) -> None:
    bucket = place("s3")
    folder = f"{bucket.uri}/{NAME}"
    write(bucket.storage, folder, spell("abc"))
    table = SampleTable(folder, storage=bucket.storage)
    assert pickle.loads(pickle.dumps(table))["b"]["txt"] == "b "
    table._process -= 1  # that of its parent
    with pytest.raises(ConfigurationError, match="multiprocessing_context"):
        table[0]


def test_what_is_damaged_and_what_is_not_one_sample_is_an_error(made, base, write_module) -> None:
    module = write_module("def transform(sample):\n    return None if sample.key.endswith('0') else sample\n")
    dropped = TransformSpec.model_validate({"operations": [{"operation": f"{module}:transform"}]})
    table = SampleTable(made["webdataset_shards"], transform=dropped)
    assert table["image_00011"]["__key__"] == "image_00011"
    with pytest.raises(ConfigurationError, match="makes 0 samples of image_00010"):
        table["image_00010"]
    everything = TransformSpec.model_validate({"operations": []})
    rejected = SampleTable(made["webdataset_shards"], transform=everything, components=["mask.png"])
    with pytest.raises(Rejected, match="missing component") as caught:
        rejected["image_00003"]
    assert "'image_00003' of file://" in caught.value.__notes__[0]
    table = SampleTable(made["transformed_shards"])
    for url in made["transformed_shards"].urls:
        file = Path(url.removeprefix("file://"))
        file.write_bytes(file.read_bytes().replace(b"\xff\xd9", b"\xff\xd8"))
    with pytest.raises(CorruptionError, match="is not what the index says"):
        table[0]
