"""The examples, run as their heads say, on a few of the demo's photographs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from examples.text_parts.parts import Parts
from shardmill import open_shards
from shardmill.demo import make_demo_dataset
from shardmill.engines.local import _processes as processes_for
from tests.servers.places import credentials_file

EXAMPLES = Path(__file__).parents[2] / "examples"
ON_EVERY_ENGINE = pytest.mark.parametrize("engine", ["local", "beam", pytest.param("ray", marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's photographs, few views of each."""
    folder = tmp_path_factory.mktemp("demo") / "raw"
    make_demo_dataset(folder, views=1)
    return folder


def photographs(demo: Path, partition: str, count: int) -> list[Path]:
    """Some that are sound."""
    planted = {"_png_named_", "_grey16", "_truncated", "_empty"}
    return [file for file in sorted((demo / partition).glob("*.jpg")) if not any(p in file.name for p in planted)][
        :count
    ]


def test_every_example_is_in_the_list() -> None:
    page = (EXAMPLES / "README.md").read_text()
    folders = {each.name for each in EXAMPLES.iterdir() if each.is_dir() and each.name != "__pycache__"}
    assert {name for name in folders if f"]({name}/" in page} == folders


def test_a_private_bucket_becomes_one_parquet_a_partition(demo: Path, place, call_command, tmp_path: Path) -> None:
    source, ours = place("gs"), place("gs")
    for partition in ("2026-01", "2026-02"):
        for file in photographs(demo, partition, 3):
            source.put(f"raw/{partition}/{file.name}", file.read_bytes())
            source.put(f"raw/{partition}/{file.stem}.mask.png", b"left out")
    credentials, secrets = credentials_file(tmp_path / "credentials.yaml", source, ours)
    environment = {"PHOTOGRAPHS": f"{source.uri}/raw", "SHARDMILL_ROOT": ours.uri, **secrets}
    file = EXAMPLES / "bucket_to_parquet/defs.yaml"
    refused = call_command("run", file, **environment)
    assert refused.returncode == 1
    done = call_command("run", file, "--credentials", credentials, **environment)
    assert done.returncode == 0, done.stderr
    urls = call_command("urls", file, "embeddings", "--credentials", credentials, **environment).stdout.splitlines()
    assert [url.split("/")[-2] for url in urls] == ["2026-01", "2026-02"]
    table = open_shards(urls[0].rpartition("/")[0], ours.storage).table(["key", "embedding", "source_uri"]).to_pandas()
    assert sorted(table["source_uri"]) == [
        f"{source.uri}/raw/2026-01/{each.name}" for each in photographs(demo, "2026-01", 3)
    ]
    assert {len(vector) for vector in table["embedding"]} == {1280}


def test_a_private_bucket_becomes_clip_embeddings_that_words_are_embedded_beside(
    demo: Path, place, call_command, tiny_clip, tmp_path: Path
) -> None:
    source, ours = place("gs"), place("gs")
    files = photographs(demo, "2026-01", 3)
    for file in files:
        source.put(f"raw/2026-01/{file.name}", file.read_bytes())
    weights = ours.put("models/clip.pt", tiny_clip("tiny-vit", tmp_path).read_bytes())
    credentials, secrets = credentials_file(tmp_path / "credentials.yaml", source, ours)
    environment = {
        "PHOTOGRAPHS": f"{source.uri}/raw",
        "SHARDMILL_ROOT": ours.uri,
        **secrets,
        "CLIP_MODEL": "open_clip/tiny-vit",
        "CLIP_WEIGHTS": weights,
    }
    example = EXAMPLES / "clip_private_bucket/defs.yaml"
    done = call_command("run", example, "--credentials", credentials, **environment)
    assert done.returncode == 0, done.stderr
    table = open_shards(f"{ours.uri}/photographs/embeddings/2026-01", ours.storage).table(["key", "embedding"])
    vectors = np.stack(table["embedding"].to_numpy()).astype(np.float32)
    assert sorted(table["key"].to_pylist()) == sorted(file.stem for file in files)
    told = call_command("embed-text", example, "a cat", "--json", "--credentials", credentials, **environment)
    query = np.array(json.loads(told.stdout)["embedding"], np.float32)
    assert vectors.shape == (3, len(query)) == (3, 48)
    np.testing.assert_allclose([*np.linalg.norm(vectors, axis=1), np.linalg.norm(query)], 1, atol=2e-3)


@ON_EVERY_ENGINE
def test_texts_become_overlapping_parts_with_their_metadata(call_command, tmp_path: Path, engine: str) -> None:
    words = [f"w{number}" for number in range(430)]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/long.md").write_text(" ".join(words))
    (tmp_path / "texts/short.txt").write_text("a few\n\twords")
    (tmp_path / "texts/empty.txt").write_text("")
    environment = {"TEXTS": str(tmp_path / "texts"), "SHARDMILL_ROOT": str(tmp_path / "root")}
    done = call_command("run", EXAMPLES / "text_parts/defs.yaml", "--workers", 1, "--engine", engine, **environment)
    assert done.returncode == 0, done.stderr
    parts = {
        each.key: each.components["txt"].decode().split()
        for each in open_shards(f"{tmp_path}/root/texts/parts/all").samples()
    }
    assert parts == {
        "empty~0000": [],
        "long~0000": words[:200],
        "long~0001": words[150:350],
        "long~0002": words[300:],
        "short~0000": ["a", "few", "words"],
    }
    table = pd.read_parquet(tmp_path / "root/texts/parts_metadata").set_index("key").sort_index()
    assert table.loc["long~0001", ["text", "number", "first_word", "words"]].tolist() == ["long", 1, 150, 200]
    assert table["words"].to_dict() == {key: len(part) for key, part in parts.items()}


def test_parts_are_made_on_a_process_a_core() -> None:
    assert processes_for(Parts(200, 50).resources, workers=4, shards=10) == 4


def test_a_text_in_another_encoding_is_a_reject(call_command, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/latin.txt").write_bytes("é".encode("latin-1"))
    environment = {"TEXTS": str(tmp_path / "texts"), "SHARDMILL_ROOT": str(tmp_path / "root")}
    done = call_command("run", EXAMPLES / "text_parts/defs.yaml", **environment)
    assert "1 of 1 samples (100.0%) were rejected" in done.stderr
    assert "not UTF-8" in done.stderr


@ON_EVERY_ENGINE
def test_a_csv_of_paths_becomes_features_and_their_branch_to_two_dimensions(
    demo: Path, call_command, tmp_path: Path, engine: str
) -> None:
    import torch

    from shardmill import import_torchvision

    torch.manual_seed(0)
    torch.save(import_torchvision().models.resnet50(weights=None).state_dict(), tmp_path / "mine.pt")
    files = photographs(demo, "2026-01", 4)
    for file in files:
        shutil.copy(file, tmp_path)
    (tmp_path / "photographs.csv").write_text("\n".join(["path", *(file.name for file in files)]))
    environment = {
        "PHOTOGRAPHS_CSV": str(tmp_path / "photographs.csv"),
        "SHARDMILL_ROOT": str(tmp_path / "root"),
        "RESNET50_WEIGHTS": str(tmp_path / "mine.pt"),
    }
    done = call_command(
        "run", EXAMPLES / "resnet50_from_csv/defs.yaml", "--workers", 1, "--engine", engine, **environment
    )
    assert done.returncode == 0, done.stderr
    features = pd.read_parquet(tmp_path / "root/features/embeddings/all")
    points = pd.read_parquet(tmp_path / "root/features/embedding_map/all")
    assert sorted(features["key"]) == sorted(points["key"]) == sorted(file.stem for file in files)
    assert {len(vector) for vector in features["embedding"]} == {2048}
    assert points[["x", "y"]].notna().all(axis=None)
    assert list((tmp_path / "root/features/_shardmill/embedding_map/all").glob("*.png"))
