"""Readers that are handed a list of tars: every sample of ours, byte for byte, whatever it is called and holds."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
import webdataset as wds

from tests.conformance.conftest import Samples, Urls

EVERY = ["plain", "strange", "alike", "texts", "mixed"]


def components(samples: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By key, without what readers add; no key twice."""
    found = [(each["__key__"], {n: data for n, data in each.items() if not n.startswith("__")}) for each in samples]
    assert len(dict(found)) == len(found)
    return dict(found)


def with_webdataset(urls: list[str]) -> Iterator[dict[str, Any]]:
    yield from wds.WebDataset(urls, shardshuffle=False)


def with_torchdata_nodes(urls: list[str]) -> Iterator[dict[str, Any]]:
    from torchdata import nodes

    source = nodes.IterableWrapper(wds.WebDataset(urls, shardshuffle=False))
    yield from nodes.Loader(nodes.Prefetcher(source, prefetch_factor=2))


def with_a_stateful_loader(urls: list[str]) -> Iterator[dict[str, Any]]:
    from torchdata.stateful_dataloader import StatefulDataLoader

    yield from StatefulDataLoader(wds.WebDataset(urls, shardshuffle=False), batch_size=None)


def with_litdata(urls: list[str]) -> Iterator[dict[str, Any]]:
    litdata = pytest.importorskip("litdata")
    for url in urls:
        yield from litdata.iter_webdataset_tar(url)


def with_ray(urls: list[str]) -> Iterator[dict[str, Any]]:
    """The functions that a cluster of `ray.data.read_webdataset` runs on each tar; test_documentation.py starts one."""
    pytest.importorskip("ray")
    from ray.data._internal.datasource import webdataset_datasource as reader

    for url in urls:
        with Path(url).open("rb") as file:
            yield from reader._group_by_keys(reader._tar_file_iterator(file), meta={"__url__": url})


READERS: dict[str, Callable[[list[str]], Iterator[dict[str, Any]]]] = {
    "webdataset": with_webdataset,
    "torchdata, nodes": with_torchdata_nodes,
    "torchdata, StatefulDataLoader": with_a_stateful_loader,
    "ray": with_ray,
}


@pytest.mark.parametrize("partition", EVERY)
@pytest.mark.parametrize("reader", READERS)
def test_every_sample_is_read_byte_for_byte(
    reader: str, partition: str, urls: Urls, sources: Mapping[str, Samples]
) -> None:
    assert components(READERS[reader](urls(partition))) == sources[partition]


def test_partitions_are_read_together_and_one_without_samples_adds_nothing(
    urls: Urls, sources: Mapping[str, Samples]
) -> None:
    assert urls("empty") == []
    everything = {key: each for samples in sources.values() for key, each in samples.items()}
    assert components(with_webdataset(urls())) == everything


@pytest.mark.parametrize("partition", ["plain", "strange", "texts", "mixed"])
def test_litdata_reads_every_sample_and_calls_it_by_its_basename(
    partition: str, urls: Urls, sources: Mapping[str, Samples]
) -> None:
    expected = {key.rpartition("/")[2]: each for key, each in sources[partition].items()}
    assert len(expected) == len(sources[partition])
    assert components(with_litdata(urls(partition))) == expected


def test_litdata_takes_neighbours_with_one_basename_for_one_sample(urls: Urls) -> None:
    assert len(list(with_webdataset(urls("alike")))) == 3
    assert [sample["__key__"] for sample in with_litdata(urls("alike"))] == ["same"]


# Hugging Face


@pytest.fixture
def hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Iterator[dict[str, Any]]]:
    """Rows of `load_dataset("webdataset")`, images as bytes."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)

    def read(urls: list[str], streaming: bool) -> Iterator[dict[str, Any]]:
        rows = datasets.load_dataset("webdataset", data_files=urls, split="train", streaming=streaming)
        for name, feature in rows.features.items():
            if isinstance(feature, datasets.Image):
                rows = rows.cast_column(name, datasets.Image(decode=False))
        yield from rows

    return read


def as_hugging_face_has_it(component: str, data: bytes) -> Any:
    suffix = component.rpartition(".")[2]
    return {"cls": int, "json": json.loads, "txt": bytes.decode}.get(suffix, bytes)(data)


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "prepared"])
@pytest.mark.parametrize("partition", ["plain", "strange", "alike", "texts"])
def test_hugging_face_reads_every_sample(
    partition: str,
    streaming: bool,
    urls: Urls,
    sources: Mapping[str, Samples],
    hugging_face: Callable[..., Iterator[dict[str, Any]]],
) -> None:
    found = components(hugging_face(urls(partition), streaming))
    for sample in found.values():
        sample |= {n: value["bytes"] for n, value in sample.items() if isinstance(value, dict) and "bytes" in value}
    assert found == {
        key: {name: as_hugging_face_has_it(name, data) for name, data in each.items()}
        for key, each in sources[partition].items()
    }


def test_hugging_face_refuses_samples_of_several_kinds(
    urls: Urls, hugging_face: Callable[..., Iterator[dict[str, Any]]]
) -> None:
    with pytest.raises(ValueError, match="don't share the same prefix or the same types"):
        list(hugging_face(urls("mixed"), streaming=True))
