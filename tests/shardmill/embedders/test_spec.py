import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from shardmill.embedders.registry import load_embedder, preprocessing, weights_identity
from shardmill.embedders.spec import EmbedderSpec
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage


def test_importing_the_spec_imports_no_torch():
    code = "import sys, shardmill.embedders.spec, shardmill.embedders.registry, shardmill.embedders.runtimes;"
    code += "print({'torch', 'torchvision', 'openvino', 'timm', 'open_clip', 'huggingface_hub'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"


def test_fingerprint_ignores_how_it_runs_and_sees_what_it_computes(tmp_path: Path):
    spec = EmbedderSpec(component="jpg")
    parameters = spec.declared()
    assert weights_identity(spec, Storage()).startswith("sha256:")
    same = spec.model_copy(update={"batch_size": 8, "runtime": "torch"})
    assert same.declared() == parameters
    for change in (
        {"normalize": True},
        {"dtype": "float16"},
        {"component": "png"},
        {"precision": "bfloat16"},
    ):
        assert spec.model_copy(update=change).declared() != parameters


def test_fingerprint_changes_with_the_weights_bytes_not_with_their_place(tmp_path: Path):
    first, moved = tmp_path / "a.pt", tmp_path / "b.pt"
    first.write_bytes(b"one")
    moved.write_bytes(b"one")
    identity = weights_identity(EmbedderSpec(weights=str(first)), Storage())
    assert weights_identity(EmbedderSpec(weights=f"file://{moved}"), Storage()) == identity
    first.write_bytes(b"other")
    assert weights_identity(EmbedderSpec(weights=str(first)), Storage()) != identity


def test_finish_normalises_each_row_by_itself_and_keeps_zeros():
    vectors = np.random.default_rng(0).normal(size=(5, 1280)).astype(np.float32)
    vectors[3] = 0
    spec = EmbedderSpec(normalize=True, dtype="float16")
    stored = spec.finish(vectors)
    assert stored.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(stored.astype(np.float32), axis=1), [1, 1, 1, 0, 1], atol=1e-3)
    for row in range(5):
        assert spec.finish(vectors[row : row + 1]).tobytes() == stored[row].tobytes()
    assert EmbedderSpec().finish(vectors) is vectors


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("efficientnet-lite", "efficientnet-lite0"),
        ("torchvision/resnet55", "torchvision/resnet50"),
        ("clip", "there are efficientnet-lite0"),
    ],
)
def test_an_unknown_model_names_close_matches(model: str, hint: str):
    with pytest.raises(ConfigurationError, match=hint):
        load_embedder(EmbedderSpec(model=model))


@pytest.mark.parametrize(
    ("model", "library", "extra"),
    [("timm/resnet18", "timm", "timm"), ("open_clip/ViT-B-32", "open_clip", "open-clip")],
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    model: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, library, None)
    for ask in (preprocessing, load_embedder, lambda spec: weights_identity(spec, Storage())):
        with pytest.raises(ConfigurationError, match=rf"pip install 'shardmill\[{extra}\]'"):
            ask(EmbedderSpec(model=model, weights="w.pt"))


def test_spec_refuses_unknown_fields():
    with pytest.raises(ValidationError):
        EmbedderSpec.model_validate({"modle": "efficientnet-lite0"})
