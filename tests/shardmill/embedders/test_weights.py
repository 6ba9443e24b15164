"""Weights: what is no state dict is refused in plain words, and before anything else is done."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shardmill import graph
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.embedders import EmbedderSpec, weights_identity
from shardmill.embedders.weights import fit_state_dict, read_state_dict
from shardmill.engines import LocalEngine
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "no weights")
    return file.getvalue()


STATE = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
BAD = {
    "empty.pt": b"",
    "text.pt": b"echo 'a script, and no weights'\n",
    "html.pt": b"<!DOCTYPE html><html>404</html>",
    "zip.pt": zipped(),
    "cut.pt": saved(STATE)[:300],
    "pickle.pt": pickle.dumps(_Evil()),
    "inside.pt": saved({"weight": _Evil()}),
    "list.pt": saved([torch.zeros(2)]),
    "empty.safetensors": b"",
    "text.safetensors": b"no tensors at all",
    "torch.safetensors": saved(STATE),
    "nan.pt": saved({**STATE, "bias": torch.tensor([0.0, float("nan")])}),
    "complex.pt": saved({"weight": torch.zeros(2, 3, dtype=torch.complex64)}),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_state_dict_is_refused_by_name_and_never_executed(
    name: str, tmp_path: Path, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    file = tmp_path / name
    file.write_bytes(BAD[name])
    with pytest.raises(ConfigurationError, match=name):
        read_state_dict(str(file), storage)
    assert "executed" not in capsys.readouterr().out


def test_a_checkpoint_is_told_from_a_state_dict(tmp_path: Path, storage: Storage) -> None:
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(saved({"state_dict": STATE, "epoch": 3}))
    with pytest.raises(ConfigurationError, match="it is a checkpoint that holds 'state_dict', 'epoch'"):
        read_state_dict(str(file), storage)


def test_names_of_a_parallel_model_are_told_from_those_of_the_model() -> None:
    state = {f"module.{name}": tensor for name, tensor in STATE.items()}
    with pytest.raises(ConfigurationError, match=r"save model\.module\.state_dict"):
        fit_state_dict(torch.nn.Linear(3, 2), state, "w.pt")


@pytest.mark.parametrize("bad", ["text.pt", "shapes"])
def test_weights_are_checked_before_the_first_object_is_listed(
    bad: str, tmp_path: Path, images: Callable[..., Any]
) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(saved(STATE) if bad == "shapes" else BAD[bad])
    images(tmp_path / "raw", 2)
    spec = {
        "name": "d",
        "source": {"uri": str(tmp_path / "raw")},
        "partitions": ["p"],
        "root": str(tmp_path / "root"),
        "embedder": {"weights": str(weights)},
    }
    dataset = Dataset(DatasetSpec.model_validate(spec))
    with pytest.raises(ConfigurationError, match=r"embedder: .*weights\.pt"):
        list(graph.run(dataset, "p", LocalEngine(1)))
    assert not (tmp_path / "root").exists()


def test_published_weights_that_there_are_not_are_told_from_those_that_there_are(storage: Storage) -> None:
    spec = EmbedderSpec(model="torchvision/resnet18", weights="IMAGENET1K_V2")
    with pytest.raises(ConfigurationError, match="no weights IMAGENET1K_V2 of resnet18; there are IMAGENET1K_V1"):
        weights_identity(spec, storage)


def test_weights_that_are_not_given_are_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="has no `weights`: give the path or URI"):
        read_state_dict(None, Storage())
