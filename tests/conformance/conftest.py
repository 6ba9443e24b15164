"""A dataset whose names and components are as odd as a source may have them: what every reader has to find."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from shardmill import graph
from shardmill.cli import app
from shardmill.dataset import load_dataset
from shardmill.engines import LocalEngine
from shardmill.sources.names import encode_component, encode_key

Samples = Mapping[str, Mapping[str, bytes]]
"""Key → component → bytes."""
Urls = Callable[..., list[str]]

ASSET = "webdataset_shards"
STRANGE = (
    "__meta__/__b",
    "été 1",
    "x*y [z]#?",
    "a%20b",
    "l" * 120,
    "deep/er/-and.hidden/k",
    "__c__",
    "~tilde",
    "&=+@,'\"",
)
"""Keys that stand in a shard under another name, or need care on their way; their components do, too."""


def _picture(number: int, format: str) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (5 + number % 7, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def _pets(number: int) -> dict[str, bytes]:
    """Several images, a class, JSON, text with every character, bytes; sizes around a block of a tar."""
    return {
        "jpg": _picture(number, "JPEG"),
        "trimap.png": _picture(number + 100, "PNG"),
        "cls": b"%d" % (number % 3),
        "json": json.dumps({"width": number, "name": "é"}).encode(),
        "txt": f"a caption {number}\n\té".encode(),
        "bin": np.random.default_rng(number).bytes((0, 1, 511, 512, 513)[number % 5]),
    }


def _sources() -> dict[str, dict[str, dict[str, bytes]]]:
    plain = {f"{'train' if number % 2 else 'val'}/cat_{number:03}": _pets(number) for number in range(12)}
    strange = {key: {**_pets(number), "__key__": b"k", "Ä b": b"c"} for number, key in enumerate(STRANGE)}
    alike = {
        f"{folder}/same": {"txt": folder.encode(), "left.png": _picture(n, "PNG"), "right.png": _picture(9 + n, "PNG")}
        for n, folder in enumerate("abc")
    }
    texts = {f"note_{number}": {"txt": f"text {number}".encode()} for number in range(5)}
    mixed = {f"m{number}": {name: _pets(number)[name] for name in names} for number, names in enumerate(MIXED)}
    return {
        "plain": plain,
        "strange": strange,
        "alike": alike,
        "texts": texts,
        "mixed": mixed,
        "empty": {"broken": {"jpg": b""}},
    }


MIXED = (("jpg", "cls"), ("txt",), ("jpg", "trimap.png", "json"), ("bin", "cls"))


@pytest.fixture(scope="session")
def sources() -> Mapping[str, Samples]:
    """Of each partition the samples, by the keys and with the components that they have in shards."""

    def encoded(samples: Samples) -> Samples:
        return {
            encode_key(key): {encode_component(name): data for name, data in each.items()}
            for key, each in samples.items()
        }

    return {name: encoded(samples) for name, samples in _sources().items()} | {"empty": {}}


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset's file; all is made."""
    folder = tmp_path_factory.mktemp("conformance")
    for partition, samples in _sources().items():
        (folder / "raw" / partition).mkdir(parents=True)
        for key, components in samples.items():
            for component, data in components.items():
                object = folder / f"raw/{partition}/{key}.{component}"
                object.parent.mkdir(parents=True, exist_ok=True)
                object.write_bytes(data)
    declared = {
        "name": "odd",
        "source": {"uri": f"{folder}/raw/{{partition}}"},
        "partitions": [*_sources()],
        "root": str(folder / "root"),
        "shards": {"max_samples": 4},
        "max_reject_ratio": 1.0,
    }
    path = folder / "defs.yaml"
    path.write_text(yaml.safe_dump({"attributes": declared}))
    dataset = load_dataset(path)
    with LocalEngine(1) as engine:
        for partition in _sources():
            for _, shards in graph.run(dataset, partition, engine):
                assert shards.commit.total_rejects == (partition == "empty" and shards.commit.suffix == "tar")
    return path


@pytest.fixture(scope="session")
def urls(file: Path) -> Urls:
    """`urls("plain")`: what `shardmill urls` prints of that partition."""

    def call(*partitions: str) -> list[str]:
        done = CliRunner().invoke(app, ["urls", str(file), ASSET, *partitions])
        assert done.exit_code == 0, done.stderr
        return done.stdout.splitlines()

    return call
