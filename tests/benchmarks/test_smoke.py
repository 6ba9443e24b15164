"""Every benchmark runs, on a size at which it measures nothing."""

import os
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_embedding(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("embedding", photographs, "--rounds", "1", "--threads", "1", *TORCH_ALONE)
    assert "overlapped torch float32" in capsys.readouterr().out


def test_top1(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.link(photographs / "0.jpg", tmp_path / "0.jpg")
    (tmp_path / "labels.csv").write_text("file,imagenet_class\n0.jpg,0\n")
    run("top1", tmp_path, *TORCH_ALONE)
    assert "top-1 of 1" in capsys.readouterr().out


def test_transforms(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("transforms", photographs, "--rounds", "1")
    assert "random crop + flip, Shardmill" in capsys.readouterr().out


def test_images(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("images", photographs, "--rounds", "1")
    assert "jpg with Adobe RGB, decode" in capsys.readouterr().out


def test_stages(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("stages", photographs, "--rounds", "1", "--workers", "1")
    assert "2 images, 1 rounds" in capsys.readouterr().out


def test_memory(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    for file in photographs.iterdir():
        os.link(file, tmp_path / "raw" / file.name)
        Image.new("L", (256, 256)).save(tmp_path / "raw" / f"{file.stem}.mask.png")
    for stage in STAGES:
        run("memory", "--stage", stage, "--folder", tmp_path, "--workers", "1")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["2"] * (len(STAGES) - 1)


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
