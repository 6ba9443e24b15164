"""What fails on a sample names it and its raw object, and is no reject; a large file is looked at before it is read."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

from shardmill.errors import EngineError, Rejected, SampleError, StorageError
from shardmill.stages.about import about
from shardmill.storage import Storage


def test_what_a_library_raises_names_the_sample_and_its_object() -> None:
    for error in (MemoryError(), MemoryError("Unable to allocate 2.9 GiB"), RuntimeError("out of memory"), KeyError(1)):
        named = r"sample a \(s3://b/a\.jpg\): " + type(error).__name__
        with pytest.raises(SampleError, match=named) as caught, about("a", lambda: "s3://b/a.jpg"):
            raise error
        assert not caught.value.final
        assert caught.value.__cause__ is error


def test_what_code_of_the_users_own_raises_names_its_line() -> None:
    def process() -> None:
        Path.read_text(cast("Path", None))  # what it calls raises, in another file

    with pytest.raises(SampleError) as caught, about("a", "b"):
        process()
    line = process.__code__.co_firstlineno + 1
    assert str(caught.value).endswith(f"({__file__}, line {line}, in process)")


def test_our_own_errors_speak_for_themselves() -> None:
    for error in (Rejected("not an image"), StorageError("x")):
        with pytest.raises(type(error)) as caught, about("a", "b"):
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("place", "stage"),
    [
        ("shardmill.stages.pack.verify_image", "pack"),
        ("shardmill.transforms.values.open_image", "transform"),
        ("shardmill.embedders.runtimes.base.Runtime.prepare", "embed"),
    ],
)
def test_a_lack_of_memory_names_the_sample_at_every_stage(
    place: str, stage: str, tmp_path: Path, images, make_dataset, run_chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(tmp_path / "raw", 2)

    def lack(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 2.9 GiB")

    dataset = make_dataset(tmp_path / "raw", tmp_path / "root")
    with monkeypatch.context() as patch:
        patch.setattr(place, lack)
        with pytest.raises(EngineError) as caught:
            run_chain(dataset)
    assert not caught.value.final
    said = str(caught.value)
    assert f"{stage} failed on shard" in said
    assert "sample image_0000" in said
    assert f"{(tmp_path / 'raw').as_uri()}/image_0000" in said
    assert run_chain(dataset)["embeddings"].commit.total_samples == 2


def test_a_large_file_that_is_no_image_is_not_read(
    tmp_path: Path, make_dataset, run_chain, images, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(tmp_path / "raw", 1)
    with (tmp_path / "raw/sparse.jpg").open("wb") as file:
        file.truncate(3 << 30)
    read: list[str] = []
    whole = Storage.read_version

    def count(storage: Storage, uri: str):
        read.append(uri.rpartition("/")[2])
        return whole(storage, uri)

    monkeypatch.setattr(Storage, "read_version", count)
    made = run_chain(make_dataset(tmp_path / "raw", tmp_path / "root", max_reject_ratio=1))
    assert made["webdataset_shards"].commit.rejects_by_reason == {"not an image": 1}
    assert "sparse.jpg" not in read


def test_a_line_of_pixels_is_a_reject_of_the_embedder(tmp_path: Path) -> None:
    from shardmill.embedders.modules import resize

    line = np.full((1, 20_000, 3), 200, np.uint8)
    with pytest.raises(Rejected, match="too many pixels: the embedder would resize it to 4480000 x 224"):
        resize(line, (224, 4_480_000), "bilinear")


def test_a_png_too_wide_for_its_decoder_is_a_reject(tmp_path: Path, make_dataset, run_chain, images) -> None:
    from tests.pictures import chunk, save

    images(tmp_path / "raw", 1)
    data = save(Image.new("RGB", (1, 1)), "PNG")
    wide = chunk(b"IHDR", (178_956_970).to_bytes(4, "big") + data[20:29])
    (tmp_path / "raw/wide.png").write_bytes(data[:8] + wide + data[33:])
    made = run_chain(make_dataset(tmp_path / "raw", tmp_path / "root", max_reject_ratio=1))
    assert made["webdataset_shards"].commit.rejects_by_reason == {"too many pixels": 1}
