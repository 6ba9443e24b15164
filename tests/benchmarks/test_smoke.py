"""Every benchmark runs, on a size at which it measures nothing."""

import json
import os
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import loading
from benchmarks.comparison import limits
from benchmarks.comparison.child import function
from benchmarks.comparison.ours import prepare
from benchmarks.comparison.peers.loaders import link_folder
from benchmarks.comparison.variants import Input
from benchmarks.library import STAGES

FOLDER = Path(__file__).parents[2] / "benchmarks"
NAMES = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "library")
TORCH_ALONE = ["--runtimes", "torch", "--precisions", "float32"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two images."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).resize((256, 256)).save(folder / f"{number}.jpg")
    return folder


def run(name: str, *arguments: str | Path) -> None:
    import_module(f"benchmarks.{name}").main([str(argument) for argument in arguments])


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_says_what_it_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(name, "--help")
    assert caught.value.code == 0
    assert f"python -m benchmarks.{name}" in capsys.readouterr().out


def test_embed_parts(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("embed_parts", photographs, "--rounds", "1", "--threads", "1", "--runtime", "torch", "--precisions", "float32")
    assert "float32 on torch, 2 images" in capsys.readouterr().out


def test_top1(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.link(photographs / "0.jpg", tmp_path / "0.jpg")
    (tmp_path / "labels.csv").write_text("file,imagenet_class\n0.jpg,0\n")
    run("top1", tmp_path, *TORCH_ALONE)
    assert "top-1 of 1" in capsys.readouterr().out


def test_transform_parts(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("transform_parts", photographs, "--rounds", "1")
    assert "random crop, flip, of image and mask" in capsys.readouterr().out


def test_images(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("images", photographs, "--rounds", "1")
    assert "jpg with Adobe RGB, decode" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stage", "peer"),
    [
        ("pack", "webdataset ShardWriter, Pillow"),
        pytest.param("transform", "webdataset, torchvision v1, a DataLoader", marks=pytest.mark.slow),
        pytest.param("embed", "torch float32, a DataLoader", marks=pytest.mark.slow),
        pytest.param("chain", "a script, float32", marks=pytest.mark.slow),
    ],
)
def test_a_comparison(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, peer: str
) -> None:
    """Beside a peer that our own environment has, and whose work is compared."""
    run(
        stage,
        photographs,
        "--rounds",
        "1",
        "--workers",
        "1",
        "--only",
        peer,
        "--peers",
        sys.prefix,
        "--results",
        tmp_path,
    )
    result = json.loads((tmp_path / f"{stage}.json").read_text())
    # A CPU without bfloat16 leaves out what is of it, and says so.
    outcomes = [each for each in result["outcomes"] if "this CPU has no bfloat16" not in each["left_out"]]
    assert {outcome["left_out"] for outcome in outcomes} == {""}
    assert all(outcome["checked"] or outcome["variant"]["kind"] == "limit" for outcome in outcomes)
    assert any(peer in outcome["variant"]["name"] for outcome in outcomes)
    assert any("Shardmill" in outcome["variant"]["name"] for outcome in outcomes)
    assert "**Shardmill" in capsys.readouterr().out
    assert (tmp_path / f"{stage}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_loaders_hand_over_the_same(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "WHAT", {"crops": loading.WHAT["crops"]})
    peer = ["--only", "webdataset", "--peers", sys.prefix]
    run("loading", photographs, "--rounds", "1", "--workers", "1", *peer, "--results", tmp_path)
    outcomes = json.loads((tmp_path / "loading-crops.json").read_text())["outcomes"]
    assert {outcome["left_out"] for outcome in outcomes} == {""}
    assert [bool(outcome["checked"]) for outcome in outcomes] == [True] * 4 + [False]
    assert "**Shardmill, workers**" in capsys.readouterr().out


@pytest.mark.parametrize("what", loading.WHAT)
def test_loaders_in_this_process_hand_over_the_same(photographs: Path, tmp_path: Path, what: str) -> None:
    source = prepare(photographs, tmp_path / "prepared", ["list", "pack"], 1)
    link_folder(source, 1)
    found = []
    for variant in loading.variants("", what):
        if variant.name in ("Shardmill, one process", "webdataset, one process", "ImageFolder, one process"):
            function(variant.run)(source, tmp_path / variant.name, 1, **variant.options)
            found.append(dict(zip(*function(variant.read or "")(tmp_path / variant.name), strict=True)))
    ours, *others = found
    assert len(others) == 2
    for other in others:
        assert loading.WHAT[what](ours, other, {}).startswith("2 images, ")
    limits.load(source, tmp_path, 1, what)


def test_the_limit_of_embedding_runs(photographs: Path, tmp_path: Path) -> None:
    limits.infer(Input(photographs), tmp_path, 1)


def test_memory(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    for file in photographs.iterdir():
        os.link(file, tmp_path / "raw" / file.name)
        Image.new("L", (256, 256)).save(tmp_path / "raw" / f"{file.stem}.mask.png")
    for stage in STAGES:
        run("memory", "--stage", stage, "--folder", tmp_path, "--workers", "1")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["2"] * (len(STAGES) - 1)


def test_engines(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--shards", "1", "--seconds", "0.01", "--empty", "2", "--rounds", "1", "--workers", "1")
    run("engines", "--engines", "local", *sizes)
    assert "1.000 of local" in capsys.readouterr().out


def test_requests(capsys: pytest.CaptureFixture[str]) -> None:
    run("requests", "--stores", "local", "--samples", "2")
    assert "nothing to do" in capsys.readouterr().out


def test_watching(capsys: pytest.CaptureFixture[str]) -> None:
    run("watching", "--objects", "1000", "--rounds", "1")
    assert "get_gcs_keys" in capsys.readouterr().out


def test_change(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("change", photographs, "--images", "3", "--rounds", "1")
    assert "samples computed and copied: list 4 and 0, pack 1 and 3, transform 1 and 3, embed 1 and 3" in (
        capsys.readouterr().out
    )


def test_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    run("catalog", "--rows", "300", "--partition", "100")
    assert "300 rows in 3 files" in capsys.readouterr().out


def test_gpu(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("gpu", photographs, "--images", "3", "--shard", "2", "--models", "efficientnet-lite0", "--decoders", "cpu")
    said = capsys.readouterr().out
    assert "there is no CUDA device here" in said or "images/s from start to end" in said


def test_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    run("estimate")
    assert "| 5,000,000,000 | 5,000 × 1,000,000 |" in capsys.readouterr().out
