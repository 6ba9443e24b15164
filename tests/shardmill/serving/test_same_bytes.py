"""Offline, inline and server give the same bytes for one spec; so does every verb of the contract."""

import contextlib
from pathlib import Path

import httpx
import pytest

from shardmill.dataset import Dataset
from shardmill.errors import Rejected
from shardmill.samples import EncodedSample
from shardmill.transforms import build_transform
from tests.shardmill.serving.conftest import SEEDED, Serve, Serving, samples_of, tar_of, tars

SPECS = {
    "random": SEEDED,
    "format": {**SEEDED, "format": "png"},
    "fixed": {"operations": [{"operation": "CenterCrop", "arguments": {"size": 40}}]},
}
CALLABLES = {
    "several": """
        def transform(sample):
            image = sample.components["jpg"]
            for name, tile in (("left", image[..., :32]), ("right", image[..., 32:])):
                yield sample.child(name, {**sample.components, "jpg": tile})
    """,
    "a filter": """
        def transform(sample):
            return None if sample.components["cls"] == b"0" else sample
    """,
    "some fail": """
        def transform(sample):
            if sample.components["cls"] == b"1":
                raise ValueError("a one")
            return sample
    """,
    "draws": """
        import torch

        def transform(sample):
            noise = torch.randint(0, 30, sample.components["jpg"].shape, generator=sample.generator, dtype=torch.uint8)
            image = sample.components["jpg"] // 2 + noise
            return sample.replace({**sample.components, "jpg": image, "note.json": {"key": sample.key}})
    """,
}


def pushed(serving: Serving, tar: bytes, **arguments: str) -> httpx.Response:
    return serving.client.put("/pets/shard.tar", content=tar, params=arguments)


def inline(dataset: Dataset, tar: bytes) -> bytes:
    """What a training loop makes of a shard's samples, as a tar."""
    transform, made = build_transform(dataset.spec.transform.spec), []
    for key, components in samples_of(tar).items():
        with contextlib.suppress(Rejected):
            made += transform(EncodedSample(key, components), 0)
    return tar_of(*made)


@pytest.mark.parametrize("name", SPECS)
def test_a_pushed_shard_is_what_the_offline_stage_stores(
    tmp_path: Path, images, make_dataset, run_chain, serve: Serve, name: str
) -> None:
    images(tmp_path / "raw", 20)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", transform=SPECS[name])
    made = run_chain(dataset, last="transformed_shards")
    with serve(dataset) as serving:
        for raw, transformed in zip(tars(made["webdataset_shards"]), tars(made["transformed_shards"]), strict=True):
            answer = pushed(serving, raw)
            assert answer.status_code == 200
            assert answer.content == transformed == inline(dataset, raw)
            assert answer.headers["content-type"] == "application/x-tar"


@pytest.mark.parametrize("name", CALLABLES)
def test_so_is_one_of_a_callable_and_its_rejects_are_counted(
    tmp_path: Path, images, make_dataset, run_chain, serve: Serve, write_module, name: str
) -> None:
    images(tmp_path / "raw", 12)
    transform = {"operations": [{"operation": f"{write_module(CALLABLES[name])}:transform"}]}
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", transform=transform, max_reject_ratio=1)
    made = run_chain(dataset, last="transformed_shards")
    [raw], [transformed] = tars(made["webdataset_shards"]), tars(made["transformed_shards"])
    commit = made["transformed_shards"].commit
    with serve(dataset) as serving:
        answer = pushed(serving, raw)
    assert answer.content == transformed == inline(dataset, raw)
    counts = {
        name: int(answer.headers[f"shardmill-{name}"]) for name in ("samples-in", "samples", "filtered", "rejected")
    }
    assert counts == {
        "samples-in": commit.total_samples_in,
        "samples": commit.total_samples,
        "filtered": commit.total_filtered,
        "rejected": commit.total_rejects,
    }


def test_a_single_image_is_the_component_that_its_sample_has_in_the_shard(dataset, run_chain, serve: Serve) -> None:
    made = run_chain(dataset, last="transformed_shards")
    expected = {key: parts for tar in tars(made["transformed_shards"]) for key, parts in samples_of(tar).items()}
    with serve(dataset) as serving:
        for file in sorted(Path(dataset.spec.source.uri).glob("*.jpg"))[:5]:
            for path in (f"/pets/{file.name}", str(file)):  # a copy of the source in a bucket, and the source itself
                answer = serving.client.put(path, content=file.read_bytes())
                assert answer.content == expected[file.stem]["jpg"]
            assert answer.headers["content-type"] == "image/jpeg"
            assert answer.headers["shardmill-component"] == "jpg"


def test_the_epoch_is_that_of_etl_args_else_of_the_dataset_file(
    tmp_path: Path, images, make_dataset, run_chain, serve
) -> None:
    images(tmp_path / "raw", 6)
    made = {}
    for epoch in (0, 3):
        dataset = make_dataset(tmp_path / "raw", tmp_path / f"root{epoch}", transform={**SEEDED, "epoch": epoch})
        sets = run_chain(dataset, last="transformed_shards")
        made[epoch] = tars(sets["transformed_shards"])[0]
        [raw] = tars(sets["webdataset_shards"])
    assert made[0] != made[3]
    with serve(dataset) as serving:  # its own epoch is 3
        assert pushed(serving, raw).content == made[3]
        assert pushed(serving, raw, etl_args='{"epoch":0}').content == made[0]
        assert pushed(serving, raw, etl_args='{"epoch":3}').content == made[3]


def test_a_shard_of_which_nothing_is_left_is_an_empty_tar(dataset, serve: Serve) -> None:
    with serve(dataset) as serving:
        answer = pushed(serving, tar_of())
        assert (answer.status_code, answer.content) == (200, tar_of())
