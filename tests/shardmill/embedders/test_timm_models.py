"""Random weights, seeded: nothing is downloaded. What is compared with is timm's own transform and forward."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardmill.embedders import EmbedderSpec, load_embedder, preprocessing, weights_identity
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage
from shardmill.torchvision_compat import import_torchvision
from tests.shardmill.embedders.agreement import agrees

import_torchvision()
torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

KINDS = [
    "test_resnet",  # residual
    "test_byobnet",
    "test_efficientnet",  # depthwise, with a head of its own
    "test_convnext",
    "test_nfnet",  # no normalisation, standardised weights
    "test_vit",
    "test_vit3",  # registers, pooled by attention
    "test_vit_relpos",
    "test_maxvit",  # windows and grids
    "test_mambaout",
    "mobilenetv3_small_050",  # its features are wider than its last block
    "mixer_s32_224",
    "eva02_tiny_patch14_224",  # rotary positions, 336 px
    "deit_tiny_distilled_patch16_224",  # two classifiers
]
SLOW = [
    "vit_small_patch14_reg4_dinov2",  # 518 px, registers
    "swin_tiny_patch4_window7_224",
    "inception_v3",
]
RandomWeights = Callable[..., Path]


@pytest.fixture
def random_weights(tmp_path: Path) -> RandomWeights:
    def make(name: str, **arguments: Any) -> Path:
        torch.manual_seed(0)
        path = tmp_path / f"{name}.pt"
        torch.save(timm.create_model(name, **arguments).state_dict(), path)
        return path

    return make


@pytest.mark.parametrize("name", [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_vectors_are_those_of_timm(name: str, random_weights: RandomWeights, photographs) -> None:
    path = random_weights(name)
    embedder = load_embedder(EmbedderSpec(model=f"timm/{name}", weights=str(path)))
    theirs = timm.create_model(name, num_classes=0).eval()
    state = torch.load(path, weights_only=True)
    theirs.load_state_dict({key: state[key] for key in theirs.state_dict()})
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs), is_training=False)
    agrees(embedder, [photographs[1], photographs[5]], transform, theirs)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_the_head_of_the_features_is_the_whole_model(name: str, random_weights: RandomWeights, photographs) -> None:
    path = random_weights(name, num_classes=7)
    embedder = load_embedder(EmbedderSpec(model=f"timm/{name}", weights=str(path)))
    whole = timm.create_model(name, num_classes=7).eval()
    whole.load_state_dict(torch.load(path, weights_only=True))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(whole), normalize=False)
    from PIL import Image

    pixels = transform(Image.fromarray(photographs[1]))
    config = whole.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    head = embedder.head()
    assert head is not None
    with torch.inference_mode():
        ours = head(embedder.module()(pixels.permute(1, 2, 0)[None]))
        torch.testing.assert_close(ours, whole((pixels / 255 - mean)[None] / std), rtol=1e-3, atol=1e-4)


def test_weights_without_a_classifier_load(random_weights: RandomWeights) -> None:
    path = random_weights("test_vit", num_classes=0)
    embedder = load_embedder(EmbedderSpec(model="timm/test_vit", weights=str(path)))
    assert (embedder.dimension, embedder.head()) == (64, None)


def test_weights_are_read_from_safetensors_and_known_by_their_bytes(random_weights: RandomWeights, tmp_path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = random_weights("test_resnet")
    safetensors.save_file(torch.load(path, weights_only=True), tmp_path / "w.safetensors")
    one, other = (
        EmbedderSpec(model="timm/test_resnet", weights=str(file)) for file in (path, tmp_path / "w.safetensors")
    )
    assert weights_identity(one, Storage()) != weights_identity(other, Storage())
    assert load_embedder(one).weights_digest == load_embedder(other).weights_digest


def test_names_of_the_original_authors_are_translated_as_timm_does(random_weights: RandomWeights, tmp_path) -> None:
    state = torch.load(random_weights("test_convnext"), weights_only=True)
    renamed = {
        key.replace("stem.", "downsample_layers.0.").replace("head.norm.", "norm.").replace("head.fc.", "head."): value
        for key, value in state.items()
        if not key.startswith("stages.")
    }
    staged = {key.replace("stages.", "stages.").replace(".blocks.", ".blocks."): state[key] for key in state}
    torch.save({**{key: staged[key] for key in staged if key.startswith("stages.")}, **renamed}, tmp_path / "o.pt")
    embedder = load_embedder(EmbedderSpec(model="timm/test_convnext", weights=str(tmp_path / "o.pt")))
    like = load_embedder(EmbedderSpec(model="timm/test_convnext", weights=str(tmp_path / "test_convnext.pt")))
    assert embedder.weights_digest == like.weights_digest


def test_weights_of_another_model_are_refused_by_name(random_weights: RandomWeights) -> None:
    path = random_weights("test_resnet")
    for name in ("test_vit", "dla34"):  # timm itself would leave the second one random
        with pytest.raises(ConfigurationError, match=r"test_resnet\.pt do not fit the model"):
            load_embedder(EmbedderSpec(model=f"timm/{name}", weights=str(path)))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet5O", "timm/resnet50"),
        ("resnet50.a1_in2k", r"timm/resnet50\.a1_in1k"),
        ("hf-hub:timm/resnet18", "did you mean|there are"),
    ],
)
def test_an_unknown_name_or_tag_says_which_come_close(name: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=hint):
        weights_identity(EmbedderSpec(model=f"timm/{name}", weights="w.pt"), Storage())


def test_preprocessing_is_that_of_the_tag() -> None:
    one, other = (
        preprocessing(EmbedderSpec(model=f"timm/convnext_tiny.{tag}")) for tag in ("fb_in22k", "fb_in22k_ft_in1k_384")
    )
    assert "crop (224, 224)" in one
    assert "crop (384, 384)" in other
    assert "squash" in other


def test_a_model_without_published_weights_asks_for_some() -> None:
    with pytest.raises(ConfigurationError, match=r"give the embedder's `weights`, a path or URI"):
        weights_identity(EmbedderSpec(model="timm/vit_relpos_small_patch16_rpn_224"), Storage())


def test_images_of_two_sizes_go_into_one_batch(random_weights: RandomWeights, photographs) -> None:
    embedder = load_embedder(EmbedderSpec(model="timm/test_vit", weights=str(random_weights("test_vit"))))
    batch = np.stack([embedder.preprocess(image) for image in photographs])
    assert batch.shape == (len(photographs), *embedder.input_size, 3)
