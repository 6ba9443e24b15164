"""The embedding table: its rows, its columns, how its vectors are stored."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from shardmill.dataset import Dataset
from shardmill.devices import GPUSpec
from shardmill.embedders import EmbedderSpec, load_embedder
from shardmill.embedders.runtimes import choice, device_images, torch_cuda
from shardmill.engines import LocalEngine
from shardmill.errors import ConfigurationError, ConflictError
from shardmill.images import decode_image
from shardmill.stages.embed import EmbedStage
from shardmill.stages.stage import Resources, Work
from tests.cpu_decoder import CpuDecoder
from tests.pictures import save, smooth
from tests.small import make, plan


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, images) -> Path:
    folder = tmp_path_factory.mktemp("source")
    images(folder, 40)
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, source: Path, make_dataset, run_chain):
    """dtype → (dataset, parts of its table)."""
    found = {}
    for dtype in ("float32", "float16"):
        dataset: Dataset = make_dataset(source, tmp_path_factory.mktemp(dtype), embedder={"dtype": dtype})
        made = run_chain(dataset)
        found[dtype] = (dataset, [url.removeprefix("file://") for url in made["embeddings"].urls])
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_are_fixed_size_lists_without_nulls_dictionary_or_statistics(tables, dtype: str) -> None:
    _, parts = tables[dtype]
    assert len(parts) > 2
    for part in parts:
        file = pq.ParquetFile(part)
        field = file.schema_arrow.field("embedding")
        element = pa.field("element", pa.type_for_alias(dtype), nullable=False)
        assert field.type == pa.list_(element, 1280)
        assert not field.nullable
        assert not field.type.value_field.nullable
        names = {}
        for group in range(file.num_row_groups):
            for column in range(file.metadata.num_columns):
                chunk = file.metadata.row_group(group).column(column)
                names[chunk.path_in_schema] = chunk
                if chunk.path_in_schema.startswith("embedding"):
                    assert not {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(chunk.encodings)
                    assert not chunk.has_dictionary_page
                    assert chunk.statistics is None
                    assert chunk.compression == "UNCOMPRESSED"
        assert names["key"].statistics.has_min_max


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pandas_reads_the_folder_as_one_row_a_sample(tables, dtype: str) -> None:
    dataset, _ = tables[dtype]
    table = pd.read_parquet(dataset.folder("embeddings", "p"))
    assert sorted(table["key"]) == [f"image_{number:05d}" for number in range(40)]
    vectors = np.stack(table["embedding"])
    assert vectors.shape == (40, 1280)
    assert vectors.dtype == dtype
    assert np.isfinite(vectors).all()
    assert list(table["cls"]) == [str(int(key[-5:]) % 3) for key in table["key"]]


def test_a_vector_is_that_of_its_own_image(tables, source: Path, make_dataset) -> None:
    """Against the model on the stored component, one image at a time."""
    import torch

    dataset, _ = tables["float32"]
    table = pd.read_parquet(dataset.folder("embeddings", "p")).set_index("key")["embedding"]
    embedder = load_embedder(EmbedderSpec())
    module = embedder.module()
    shards = dataset.stored("transformed_shards", "p")
    assert shards is not None
    checked = 0
    for shard in shards.shards[:2]:
        for sample, _ in shard.read(dataset.storage):
            image = embedder.preprocess(decode_image(sample.components["jpg"], "jpg"))
            with torch.no_grad():
                expected = module(torch.from_numpy(image[None]))[0].numpy()
            np.testing.assert_allclose(table[sample.key], expected, atol=1e-3)
            checked += 1
    assert checked > 8


def test_half_precision_holds_the_same_vectors_rounded(tables) -> None:
    full, half = (
        np.stack(pd.read_parquet(tables[dtype][0].folder("embeddings", "p")).sort_values("key")["embedding"])
        for dtype in ("float32", "float16")
    )
    assert np.array_equal(full.astype(np.float16), half)


def test_a_sample_with_two_images_is_rejected_until_one_is_named(
    tmp_path: Path, images, make_dataset, run_chain
) -> None:
    keys = images(tmp_path / "raw", 4)
    for key in keys:
        (tmp_path / f"raw/{key}.second.jpg").write_bytes((tmp_path / f"raw/{key}.jpg").read_bytes())
    made = run_chain(make_dataset(tmp_path / "raw", tmp_path / "root", max_reject_ratio=1))
    assert made["embeddings"].commit.rejects_by_reason == {"no single image": 4}
    named = make_dataset(tmp_path / "raw", tmp_path / "root", embedder={"component": "second.jpg"})
    assert run_chain(named)["embeddings"].commit.total_samples == 4
    assert set(pd.read_parquet(named.folder("embeddings", "p"))["component"]) == {"second.jpg"}


def test_masks_are_never_embedded(tmp_path: Path, images, make_dataset, run_chain) -> None:
    from PIL import Image

    for key in images(tmp_path / "raw", 4):
        Image.new("L", (64, 64)).save(tmp_path / f"raw/{key}.mask.png")
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", transform={"operations": [], "masks": ["mask.png"]})
    run_chain(dataset)
    assert set(pd.read_parquet(dataset.folder("embeddings", "p"))["component"]) == {"jpg"}


def test_devices_are_reserved_where_it_runs_on_cuda_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    two = GPUSpec(count=2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert EmbedStage(EmbedderSpec(), devices=two).resources.gpus == two
    assert EmbedStage(EmbedderSpec(runtime="cuda")).resources.gpus == GPUSpec()
    assert EmbedStage(EmbedderSpec(runtime="torch"), devices=two).resources.gpus is None
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert EmbedStage(EmbedderSpec(), devices=two).resources.gpus is None
    assert EmbedStage(EmbedderSpec(runtime="cuda")).resources.gpus == GPUSpec()  # another machine may have them
    with pytest.raises(ConfigurationError, match="torch sees no GPU"):
        EmbedStage(EmbedderSpec(runtime="cuda")).check_machine()


def test_the_number_of_devices_changes_nothing_in_the_table() -> None:
    one, two = (EmbedStage(EmbedderSpec(), devices=GPUSpec(count=count)) for count in (1, 2))
    assert one.parameters() == two.parameters()


def test_a_table_of_images_decoded_on_a_device_has_the_rows_of_any_other(
    tmp_path: Path, make_dataset, run_chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU in the place of the device; plain JPEGs between others, in more batches than there are buffers for."""
    (tmp_path / "raw").mkdir()
    odd: dict[int, dict[str, bool]] = {1: {"progressive": True}, 4: {"keep_rgb": True}}
    for number in range(19):
        image = Image.fromarray(np.roll(smooth(40 + number, 50), 7 * number, 1))
        name, kind = ("png", "PNG") if number == 3 else ("jpg", "JPEG")
        (tmp_path / f"raw/{number:02d}.{name}").write_bytes(save(image, kind, **odd.get(number, {})))
    decoder = CpuDecoder()
    monkeypatch.setattr(choice, "available_runtimes", lambda: ["cuda", "torch"])
    monkeypatch.setattr(device_images, "nvjpeg", lambda: decoder)
    monkeypatch.setattr(torch_cuda, "CudaRuntime", partial(torch_cuda.CudaRuntime, device="cpu"))
    monkeypatch.setattr(EmbedStage, "resources", Resources(model=True))
    tables = {}
    for decode in ("cpu", "cuda"):
        embedder = {"runtime": "cuda", "precision": "float32", "decode": decode, "batch_size": 2}
        dataset = make_dataset(tmp_path / "raw", tmp_path / decode, embedder=embedder, transforms={}, transform=None)
        run_chain(dataset, last="embeddings")
        tables[decode] = pd.read_parquet(dataset.folder("embeddings", "p"))
    assert sum(map(len, decoder.calls)) == 16
    embedder = {"runtime": "cuda", "precision": "float32", "batch_size": 2}
    both = {"cpu": embedder, "cuda": {**embedder, "decode": "cuda"}}
    dataset = make_dataset(
        tmp_path / "raw", tmp_path / "both", embedder=None, embedders=both, transforms={}, transform=None
    )
    run_chain(dataset, last="embeddings_cuda")
    for name, alone in tables.items():
        together = pd.read_parquet(dataset.folder(f"embeddings_{name}", "p"))
        assert np.array_equal(np.stack(together["embedding"]), np.stack(alone["embedding"]))
    cpu, device = tables["cpu"], tables["cuda"]
    assert list(cpu["key"]) == list(device["key"])
    assert len(device) == 19
    a, b = np.stack(cpu["embedding"]), np.stack(device["embedding"])
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.999
    same = [key for key, one, other in zip(cpu["key"], a, b, strict=True) if np.array_equal(one, other)]
    assert {"01", "03", "04"} <= set(same)
    assert sum(map(len, decoder.calls)) == 2 * 16


def test_a_model_is_free_for_the_next_shard_when_one_was_cancelled(tables, tmp_path: Path) -> None:
    """It is kept over shards; who holds on to the error holds nothing of it."""
    dataset, _ = tables["float32"]
    stage = EmbedStage(EmbedderSpec()).resolve(dataset.storage)
    shards = dataset.stored("transformed_shards", "p").shards

    def cancel(_: int) -> None:
        raise InterruptedError

    kept = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(InterruptedError) as caught:
            stage(shards[0], Work(dataset.storage, tmp_path / str(number), 2, cancel))
        kept.append(caught)
    _, report = stage(shards[0], Work(dataset.storage, tmp_path, 2, lambda _: None))
    assert report.kept == shards[0].samples


@pytest.mark.slow
def test_new_weights_under_the_old_name_give_new_vectors_in_the_same_process(
    tmp_path: Path, source: Path, make_dataset, run_chain
) -> None:
    import torch

    from shardmill.embedders.efficientnet_lite0 import _bundled

    state = torch.load(_bundled(), weights_only=True)
    weights = tmp_path / "weights.pth"
    torch.save(state, weights)
    dataset = make_dataset(source, tmp_path / "root", embedder={"weights": str(weights)})
    run_chain(dataset)
    before = np.stack(pd.read_parquet(dataset.folder("embeddings", "p"))["embedding"])
    state["_conv_stem.weight"] = -state["_conv_stem.weight"]
    torch.save(state, weights)
    made = run_chain(dataset)
    assert made["transformed_shards"].made == 0
    assert made["embeddings"].made == len(made["embeddings"].commit.shards)
    after = np.stack(pd.read_parquet(dataset.folder("embeddings", "p"))["embedding"])
    assert np.abs(after - before).max() > 0.1


def test_weights_that_are_replaced_after_the_plan_are_refused(
    tmp_path: Path, source: Path, make_dataset, run_chain
) -> None:
    """And put back later: no row may come of the others under the right fingerprint."""
    import torch

    from shardmill.embedders.efficientnet_lite0 import _bundled

    state = torch.load(_bundled(), weights_only=True)
    right, wrong, weights = (tmp_path / f"{name}.pth" for name in ("right", "wrong", "weights"))
    torch.save(state, right)
    state["_conv_stem.weight"] = -state["_conv_stem.weight"]
    torch.save(state, wrong)
    weights.write_bytes(right.read_bytes())
    dataset = make_dataset(source, tmp_path / "root", embedder={"weights": str(weights), "runtime": "torch"})
    made = run_chain(dataset, last="transformed_shards")
    lazy = plan(dataset, "embeddings", "p", made)
    weights.write_bytes(wrong.read_bytes())
    with pytest.raises(ConflictError, match="not those that the run was planned with") as caught:
        make(dataset, "embeddings", "p", lazy, LocalEngine(1))
    assert not caught.value.final
    weights.write_bytes(right.read_bytes())
    assert dataset.stored("embeddings", "p") is None
    table = run_chain(dataset)["embeddings"].table(["embedding"])
    expected = run_chain(make_dataset(source, tmp_path / "other", embedder={"runtime": "torch"}))["embeddings"]
    found, wanted = (np.stack(each["embedding"].to_pylist()) for each in (table, expected.table(["embedding"])))
    assert np.abs(found - wanted).max() < 1e-5
