"""Committed shards through a loader: the same pixels whoever reads them, and to the end whatever is committed."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from shardmill.dataset import Dataset
from shardmill.errors import ConfigurationError
from shardmill.loading.loader import Loader
from shardmill.loading.stream import ShardStream
from shardmill.loading.table import SampleTable
from shardmill.shards.reader import open_shards

TRANSFORM = {
    "operations": [
        {"operation": "RandomResizedCrop", "arguments": {"size": 24}},
        {"operation": "RandomHorizontalFlip"},
        {"operation": "ColorJitter", "arguments": {"brightness": 0.4}},
    ]
}


@pytest.fixture
def dataset(tmp_path: Path, images, make_dataset, run_chain) -> Dataset:
    images(tmp_path / "raw", 40)
    made = make_dataset(tmp_path / "raw", tmp_path / "root", transform=TRANSFORM)
    run_chain(made, last="embeddings")
    return made


def digests(loader: Loader) -> dict[str, str]:
    return {
        key: hashlib.sha256(image.numpy().tobytes()).hexdigest()
        for batch in loader
        for key, image in zip(batch["__key__"], batch["jpg"], strict=True)
    }


def test_a_sample_has_the_same_pixels_for_any_ranks_and_workers_and_in_a_table(dataset: Dataset) -> None:
    folder = dataset.folder("webdataset_shards", "p")
    stream = ShardStream(folder, shuffle=True, transform=dataset.transform())
    table = SampleTable(folder, transform=dataset.transform())
    for epoch in (0, 2):
        table.epoch = epoch
        expected = {each["__key__"]: hashlib.sha256(each["jpg"].numpy().tobytes()).hexdigest() for each in table}
        assert len(expected) == 40
        for ranks, workers in ((1, 0), (2, 0), (1, 2)):
            found: dict[str, str] = {}
            for rank in range(ranks):
                loader = Loader(stream, batch_size=8, workers=workers, rank=rank, ranks=ranks)
                loader.set_epoch(epoch)
                found |= digests(loader)
            assert found == expected


def test_columns_and_vectors_come_in_batches_and_a_filter_chooses(dataset: Dataset) -> None:
    stream = ShardStream(
        dataset.folder("webdataset_shards", "p"),
        columns=["cls"],
        embeddings=dataset.folder("embeddings", "p"),
        filter=pc.field("cls") == "0",
        components=["jpg"],
    )
    batches = list(Loader(stream, batch_size=5))
    assert [batch["embedding"].shape for batch in batches] == [(5, 48)] * 2 + [(4, 48)]
    assert {each for batch in batches for each in batch["cls"]} == {"0"}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_read_to_its_end_though_its_shards_are_superseded(
    dataset: Dataset, workers: int, images, make_dataset, run_chain, tmp_path: Path
) -> None:
    folder = dataset.folder("webdataset_shards", "p")
    expected = {sample.key for sample in dataset.stored("webdataset_shards", "p").samples()}
    stream = ShardStream(folder, shuffle=True, buffer=4)
    seen: list[Any] = []
    loader = Loader(stream, batch_size=2, workers=workers)
    batches = iter(loader)
    seen += next(batches)["__key__"]
    images(tmp_path / "raw", 9, first=500)
    run_chain(make_dataset(tmp_path / "raw", tmp_path / "root", shards={"max_samples": 5}), last="webdataset_shards")
    for batch in batches:
        seen += batch["__key__"]
    assert sorted(seen) == sorted(expected)
    assert {key for batch in loader for key in batch["__key__"]} == expected  # another epoch of the same state


def test_a_state_says_of_which_commit_it_is_and_is_gone_on_with_where_that_is_kept(
    images, make_dataset, run_chain, tmp_path: Path
) -> None:
    keys = images(tmp_path / "raw", 24)

    def run(limit: int) -> str:
        fields = {"keep_superseded": "1h", "shards": {"max_samples": limit}}
        dataset = make_dataset(tmp_path / "raw", tmp_path / "root", **fields)
        return run_chain(dataset, last="webdataset_shards")["webdataset_shards"].folder

    folder = run(8)
    loader = Loader(ShardStream(folder, shuffle=True), batch_size=5)
    seen = next(iter(loader))["__key__"]
    state = loader.state_dict()
    run(24)
    with pytest.raises(ConfigurationError, match="taken of other samples") as caught:
        Loader(ShardStream(folder, shuffle=True), batch_size=5).load_state_dict(state)
    digest = str(caught.value).partition("digest='")[2].partition("'")[0]
    again = Loader(ShardStream(open_shards(folder, digest=digest), shuffle=True), batch_size=5)
    again.load_state_dict(state)
    assert sorted(seen + [key for batch in again for key in batch["__key__"]]) == keys


def test_tars_of_others_go_through_a_loader(dataset: Dataset, tmp_path: Path) -> None:
    """Ours, as somebody else would find them."""
    packed = dataset.stored("webdataset_shards", "p")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for number, url in enumerate(packed.urls):
        (theirs / f"shard-{number:03}.tar").write_bytes(Path(url.removeprefix("file://")).read_bytes())
    stream = ShardStream(f"{theirs}/shard-*.tar", shuffle=True, transform=dataset.transform())
    found: dict[str, str] = {}
    for rank in range(2):
        found |= digests(Loader(stream, batch_size=8, rank=rank, ranks=2))
    ours = ShardStream(packed, transform=dataset.transform())
    assert found == digests(Loader(ours, batch_size=8))
