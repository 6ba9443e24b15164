"""Embedders of the user's own, by their import path."""

import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from shardmill import graph, open_shards
from shardmill.dataset import load_dataset
from shardmill.embedders import EmbedderSpec, load_embedder, preprocessing, weights_identity
from shardmill.engines import LocalEngine
from shardmill.errors import ConfigurationError, ConflictError, EngineError
from shardmill.storage import Storage

MODULE = """
import torch
from shardmill import NetEmbedder, Preset, read_state_dict

class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, pixels):
        return pixels.mean((2, 3)) * self.scale

def load(spec, storage):
    net = Mean()
    if spec.weights is not None:
        net.load_state_dict(read_state_dict(spec.weights, storage))
    return NetEmbedder(spec.model, net, dimension=3, preset=Preset(resize=(8, 8), crop=(8, 8)))

load.code_version = "7"
number = 1

def bare(spec, storage):
    return object()

def broken(spec, storage):
    raise KeyError("no such layer")

def leaving(spec, storage):
    raise SystemExit(3)

def with_(**what):
    def load(spec, storage):
        made = NetEmbedder(spec.model, Mean(), dimension=3, preset=Preset(resize=(8, 8), crop=(8, 8)))
        made.__dict__.update(what)
        return made
    return load

def darkened(image):
    image //= 2
    return image[:8, :8].copy()

endless = with_(dimension=0)
nameless = with_(weights_digest=None)
uncut = with_(preprocess=lambda image: image)
floats = with_(preprocess=lambda image: image[:8, :8] / 255)
nothing = with_(preprocess=lambda image: None)
darkens = with_(preprocess=darkened)

class Divides(Mean):
    # A black image has no vector.
    def forward(self, pixels):
        return super().forward(pixels) / (pixels.abs().sum() > 0)

def divides(spec, storage):
    preset = Preset(resize=(8, 8), crop=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
    return NetEmbedder(spec.model, Divides(), dimension=3, preset=preset)

class Random(Mean):
    def __init__(self):
        super().__init__()
        self.scale.data.uniform_()

def random(spec, storage):
    return NetEmbedder(spec.model, Random(), dimension=3, preset=Preset(resize=(8, 8), crop=(8, 8)))
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `mine_of_tests` in a folder where Python looks."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/mine_of_tests.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield tmp_path / "code/mine_of_tests.py"
    sys.modules.pop("mine_of_tests", None)


def of(name: str, **fields: Any) -> EmbedderSpec:
    return EmbedderSpec(model=f"mine_of_tests:{name}", **fields)


def test_a_function_of_ten_lines_is_an_embedder_of_a_dataset(
    mine: Path, tmp_path: Path, images: Callable[..., Any], write_dataset
) -> None:
    images(tmp_path / "raw", 3)
    embedder = {"model": "mine_of_tests:load", "runtime": "torch"}
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", embedder=embedder)
    list(graph.run(load_dataset(file), "p", LocalEngine(1)))
    table = open_shards(f"{tmp_path}/root/d/embeddings/p").table(["key", "embedding"])
    assert table.num_rows == 3
    assert table.schema.field("embedding").type.list_size == 3


def test_the_example_of_the_docs_is_an_embedder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    page = (repository / "docs/embedders.md").read_text()
    (code,) = (each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def load" in each)
    (tmp_path / "of_the_docs.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 16, 16), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    torch.save(net.state_dict(), tmp_path / "w.pt")
    spec = EmbedderSpec(model="of_the_docs:load", weights=str(tmp_path / "w.pt"))
    embedder = load_embedder(spec)
    assert (embedder.dimension, preprocessing(spec)) == (64, "code_version 1")
    assert embedder.module()(torch.zeros(2, 224, 224, 3, dtype=torch.uint8)).shape == (2, 64)


def test_its_code_version_and_its_weights_are_what_the_vectors_depend_on(mine: Path, tmp_path: Path) -> None:
    assert preprocessing(of("load")) == "code_version 7"
    assert preprocessing(of("bare")) == "code_version None"
    built_in = weights_identity(of("load"), Storage())
    assert built_in == f"digest:{load_embedder(of('load')).weights_digest}"
    torch.save({"scale": torch.ones(3)}, tmp_path / "w.pt")
    given = weights_identity(of("load", weights=str(tmp_path / "w.pt")), Storage())
    assert given.startswith("sha256:")
    torch.save({"scale": torch.zeros(3)}, tmp_path / "w.pt")
    assert weights_identity(of("load", weights=str(tmp_path / "w.pt")), Storage()) != given


def test_weights_that_were_replaced_since_planning_are_refused(mine: Path, tmp_path: Path) -> None:
    torch.save({"scale": torch.ones(3)}, tmp_path / "w.pt")
    for spec in (of("load"), of("load", weights=str(tmp_path / "w.pt"))):
        load_embedder(spec, weights_identity(spec, Storage()))
        with pytest.raises(ConflictError, match="other weights than those that the run was planned with"):
            load_embedder(spec, "sha256:0")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("mine_of_tests:lod", "cannot import mine_of_tests:lod: .* has no attribute 'lod'"),
        ("no_such_module_of_tests:load", "cannot import no_such_module_of_tests:load: No module named"),
        ("mine_of_tests:number", r"is a int, not a function load\(spec, storage\)"),
        ("mine_of_tests:bare", "gives a object without name, dimension, .* shardmill.NetEmbedder makes one"),
        (
            "mine_of_tests:broken",
            r"the embedder mine_of_tests:broken does not load: KeyError: 'no such layer' \(.*_of_tests\.py, line \d",
        ),
        ("mine_of_tests:endless", "gives dimension 0: it is to be a number from 1 on"),
        ("mine_of_tests:nameless", "gives weights_digest None: it is to be text"),
        ("mine_of_tests:leaving", r"does not load: EndedError: loading it calls sys\.exit\(3\)"),
    ],
)
def test_what_is_wrong_with_it_is_said_before_the_first_object_is_listed(
    model: str, says: str, mine: Path, tmp_path: Path, images: Callable[..., Any], write_dataset
) -> None:
    images(tmp_path / "raw", 1)
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", embedder={"model": model})
    with pytest.raises(ConfigurationError, match=says):
        list(graph.run(load_dataset(file), "p", LocalEngine(1)))
    assert not (tmp_path / "root").exists()


def test_a_module_that_gives_other_vectors_than_it_says_is_refused(mine: Path, monkeypatch) -> None:
    from shardmill.embedders import build_runtime

    embedder = load_embedder(of("load"))
    embedder.dimension = 4  # type: ignore[misc]
    with pytest.raises(ConfigurationError, match=r"mine_of_tests:load gives torch.float32 \[1, 3\] for an image"):
        build_runtime(embedder, EmbedderSpec(runtime="torch"), 1)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("uncut", EngineError, r"uncut preprocesses an image to uint8 \[\d+, \d+, 3\], not to uint8 \[8, 8, 3\]"),
        ("floats", EngineError, r"floats preprocesses an image to float64 \[8, 8, 3\], not to uint8 \[8, 8, 3\]"),
        ("nothing", EngineError, "nothing preprocesses an image to NoneType, not to an array"),
        ("random", ConflictError, "it makes others each time, such as random ones without a seed"),
    ],
)
def test_what_goes_wrong_with_it_in_a_run_is_said_and_what_was_made_beside_it_is_committed(
    name: str,
    error: type[Exception],
    says: str,
    mine: Path,
    tmp_path: Path,
    images: Callable[..., Any],
    write_dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["shardmill.graph.run"], "_LONGEST_WAIT_SECONDS", 0)
    images(tmp_path / "raw", 3)
    dataset = load_dataset(with_embedders(write_dataset, tmp_path, bad=name, good="load"))
    with pytest.raises(error, match=says):
        list(graph.run(dataset, "p", LocalEngine(1)))
    assert dataset.stored("embeddings_bad", "p") is None
    made = dataset.stored("embeddings_good", "p")
    assert made is not None
    assert made.commit.total_samples == 3


def test_one_that_changes_its_images_changes_no_other_s_vectors(
    mine: Path, tmp_path: Path, images: Callable[..., Any], write_dataset
) -> None:
    images(tmp_path / "raw", 3)
    found = []
    for embedders in ({"bad": "darkens", "good": "load"}, {"good": "load"}, {"bad": "darkens"}):
        dataset = load_dataset(with_embedders(write_dataset, tmp_path / str(len(found)), tmp_path / "raw", **embedders))
        found.append({name: made.commit.digest for name, made in graph.run(dataset, "p", LocalEngine(1))})
    both, good, bad = found
    assert both["embeddings_good"] == good["embeddings_good"]
    assert both["embeddings_bad"] == bad["embeddings_bad"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_image_without_a_finite_vector_is_a_reject(
    dtype: str, mine: Path, tmp_path: Path, images: Callable[..., Any], write_dataset
) -> None:
    images(tmp_path / "raw", 3)
    Image.new("RGB", (8, 8)).save(tmp_path / "raw/0001_black.png")
    embedder = {"model": "mine_of_tests:divides", "runtime": "torch", "dtype": dtype}
    file = write_dataset(
        tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", embedder=embedder, transform=None, max_reject_ratio=1
    )
    list(graph.run(load_dataset(file), "p", LocalEngine(1)))
    table = open_shards(f"{tmp_path}/root/d/embeddings/p")
    assert table.commit.rejects_by_reason == {"no finite vector": 1}
    assert table.commit.total_samples == 3
    vectors = table.table()["embedding"].to_pylist()
    assert all(math.isfinite(value) for vector in vectors for value in vector)


def with_embedders(write_dataset: Any, tmp_path: Path, raw: Path | None = None, **names: str) -> Path:
    """A dataset file."""
    tmp_path.mkdir(exist_ok=True)
    embedders = {name: {"model": f"mine_of_tests:{model}", "runtime": "torch"} for name, model in names.items()}
    file: Path = write_dataset(
        tmp_path / "d.yaml",
        raw or tmp_path / "raw",
        tmp_path / "root",
        embedder=None,
        embedders=embedders,
        transform=None,
    )
    return file
