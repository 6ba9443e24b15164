"""Random weights, seeded: nothing is downloaded. What is compared with is open_clip's own transform and encoders."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardmill.embedders import EmbedderSpec, embed_text, load_embedder, preprocessing, weights_identity
from shardmill.embedders.protocol import TextEmbedder
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage
from shardmill.torchvision_compat import import_torchvision
from tests.shardmill.embedders.agreement import agrees, cosine
from tests.tiny_clip import TINY

import_torchvision()
torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

TEXTS = ["a dog on a beach", "две собаки", "x" * 500]


def theirs(name: str, path: Path) -> tuple[Any, Any]:
    """open_clip's model and transform."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    published = open_clip.get_pretrained_cfg(name, tags[0]) if tags else {}
    given = {f"image_{key}": published.get(key) for key in ("mean", "std", "interpolation", "resize_mode")}
    model, _, transform = open_clip.create_model_and_transforms(name, load_weights=False, **given)
    open_clip.load_checkpoint(model, str(path))
    return model.eval(), transform


@pytest.mark.parametrize("name", TINY)
def test_vectors_are_those_of_open_clip(name: str, tiny_clip, tmp_path: Path, photographs) -> None:
    path = tiny_clip(name, tmp_path)
    embedder = load_embedder(EmbedderSpec(model=f"open_clip/{name}", weights=str(path)))
    model, transform = theirs(name, path)
    images = [photographs[1], photographs[5]]
    agrees(embedder, images, transform, lambda pixels: model.encode_image(pixels, normalize=False))


@pytest.mark.parametrize("name", TINY)
def test_texts_are_embedded_as_open_clip_does_and_stored_as_images_are(name: str, tiny_clip, tmp_path: Path) -> None:
    path = tiny_clip(name, tmp_path)
    spec = EmbedderSpec(model=f"open_clip/{name}", weights=str(path), normalize=True, dtype="float16")
    model, _ = theirs(name, path)
    with torch.inference_mode():
        expected = model.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=False).numpy()
    embedder = load_embedder(spec)
    assert isinstance(embedder, TextEmbedder)
    np.testing.assert_allclose(embedder.embed_text(TEXTS), expected, rtol=1e-3, atol=1e-4)
    vectors = embed_text(spec, TEXTS, Storage())
    assert (vectors.dtype, vectors.shape) == (np.float16, (3, embedder.dimension))
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=1e-3)
    assert min(map(cosine, vectors, expected)) > 0.999
    assert embed_text(spec, [], Storage()).shape == (0, embedder.dimension)


def test_an_embedder_of_images_alone_embeds_no_text() -> None:
    with pytest.raises(ConfigurationError, match="efficientnet-lite0 embeds no text: the models of open_clip do"):
        embed_text(EmbedderSpec(), ["a dog"], Storage())
    with pytest.raises(ConfigurationError, match="an empty text has no vector"):
        embed_text(EmbedderSpec(), ["a dog", " "], Storage())


def test_a_tokenizer_that_is_not_here_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from shardmill.embedders.open_clip_models import _tokenizer

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigurationError, match=r"the tokenizer of open_clip/ViT-B-16-SigLIP is not to be had here"):
        _tokenizer("open_clip/ViT-B-16-SigLIP")


def test_published_settings_are_those_of_the_tag_and_else_of_the_first() -> None:
    def of(name: str, weights: str) -> str:
        return preprocessing(EmbedderSpec(model=f"open_clip/{name}", weights=weights))

    assert "squash" in of("ViT-H-14-quickgelu", "dfn5b")
    assert "shortest" in of("ViT-H-14-quickgelu", "metaclip_fullcc")
    assert "mean (0.5, 0.5, 0.5)" in of("ViT-B-16-SigLIP", "./mine.pt")
    assert of("ViT-B-32", "./mine.pt") == of("ViT-B-32", "laion2b_s34b_b79k")


@pytest.mark.parametrize(
    ("name", "weights", "says"),
    [
        ("ViT-B-33", "x.pt", "did you mean open_clip/ViT-B-32"),
        ("ViT-B-32", None, "it has no default weights; give .* laion2b_s34b_b79k"),
        ("ViT-B-32", "laion2b", "there are no weights laion2b of it; give .* laion2b_s34b_b79k"),
        ("ViT-B-32", "openai", "the model is open_clip/ViT-B-32-quickgelu"),
        ("ViT-S-16", None, "give as the embedder's `weights` a path or URI"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(name: str, weights: str | None, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        weights_identity(EmbedderSpec(model=f"open_clip/{name}", weights=weights), Storage())


def test_weights_of_another_model_are_refused_by_name(tiny_clip, tmp_path: Path) -> None:
    path = tiny_clip("tiny-vit", tmp_path)
    with pytest.raises(ConfigurationError, match=r"tiny-vit\.pt do not fit the model"):
        load_embedder(EmbedderSpec(model="open_clip/tiny-resnet", weights=str(path)))


def test_loading_says_nothing_of_random_weights(tiny_clip, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tiny_clip("tiny-vit", tmp_path)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_embedder(EmbedderSpec(model="open_clip/tiny-vit", weights=str(path)))
    assert caplog.records == []


def test_the_command_prints_the_vectors_that_find_images(
    tiny_clip, tmp_path: Path, images, write_dataset, call_command
) -> None:
    path = tiny_clip("tiny-vit", tmp_path)
    clip = {"model": "open_clip/tiny-vit", "weights": str(path), "normalize": True}
    images(tmp_path / "raw", 2)
    several = {"embedders": {"clip": clip, "lite0": {"model": "efficientnet-lite0"}}, "embedder": None}
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", **several)
    done = call_command("embed-text", file, "a dog", "a cat", "--embedder", "clip", "--json")
    assert done.returncode == 0, done.stderr
    records = list(map(json.loads, done.stdout.splitlines()))
    assert [record["text"] for record in records] == ["a dog", "a cat"]
    expected = embed_text(EmbedderSpec.model_validate(clip), ["a dog", "a cat"], Storage())
    np.testing.assert_allclose([record["embedding"] for record in records], expected, rtol=1e-6)
    plain = call_command("embed-text", file, "a dog", "a cat", "--embedder", "clip").stdout.splitlines()
    assert [list(map(float, line.split())) for line in plain] == [record["embedding"] for record in records]
    unnamed = call_command("embed-text", file, "a dog")
    assert unnamed.returncode == 1
    assert "has no embedder without a name: its embedders are clip, lite0; give the name of one" in unnamed.stderr
    assert "efficientnet-lite0 embeds no text" in call_command("embed-text", file, "a", "--embedder", "lite0").stderr


def test_a_query_of_other_weights_than_the_table_s_is_refused(
    tiny_clip, tmp_path: Path, images, make_dataset, run_chain
) -> None:
    path = tiny_clip("tiny-vit", tmp_path)
    images(tmp_path / "raw", 2)
    embedder = {"model": "open_clip/tiny-vit", "weights": str(path), "runtime": "torch"}
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", embedder=embedder)
    before = dataset.embed_text(["a dog"])
    run_chain(dataset)
    assert dataset.embed_text(["a dog"]).tolist() == before.tolist()
    other = tmp_path / "other.pt"
    state = torch.load(path, weights_only=True)
    torch.save({name: value + 1 if value.is_floating_point() else value for name, value in state.items()}, other)
    changed = make_dataset(tmp_path / "raw", tmp_path / "root", embedder={**embedder, "weights": str(other)})
    with pytest.raises(ConfigurationError, match=r"d/embeddings/p is of weights sha256:\w+, and texts would be"):
        changed.embed_text(["a dog"])
