"""Random weights, seeded: nothing is downloaded."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shardmill.embedders import torchvision_models
from shardmill.embedders.framing import framed
from shardmill.embedders.modules import split_classifier
from shardmill.embedders.registry import load_embedder, weights_identity
from shardmill.embedders.runtimes import available_runtimes, build_runtime
from shardmill.embedders.spec import EmbedderSpec
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage
from shardmill.torchvision_compat import import_torchvision

torch = pytest.importorskip("torch")
torchvision = import_torchvision()

DIMENSIONS = {
    "resnet18": 512,
    "mobilenet_v3_small": 1024,
    "squeezenet1_1": 512,
    "shufflenet_v2_x0_5": 1024,
    "swin_t": 768,
}


@pytest.fixture
def random_weights(tmp_path: Path):
    def make(name: str, **arguments: object) -> str:
        torch.manual_seed(0)
        net = torchvision.models.get_model(name, weights=None, **arguments)
        path = tmp_path / f"{name}.pt"
        torch.save(net.state_dict(), path)
        return str(path)

    return make


@pytest.mark.parametrize("name", DIMENSIONS)
def test_head_of_the_features_is_the_whole_model(name, random_weights, photographs):
    path = random_weights(name)
    embedder = load_embedder(EmbedderSpec(model=f"torchvision/{name}", weights=path))
    assert embedder.dimension == DIMENSIONS[name]
    batch = torch.from_numpy(np.stack([embedder.preprocess(image) for image in photographs[:2]]))
    with torch.inference_mode():
        features = embedder.module()(batch)
        assert features.shape == (2, DIMENSIONS[name])
        head = embedder.head()
        if head is None:
            return
        net = torchvision.models.get_model(name, weights=None).eval()
        net.load_state_dict(torch.load(path, weights_only=True))
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        expected = net(((batch / 255 - mean) / std).permute(0, 3, 1, 2))
        torch.testing.assert_close(head(features), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "efficientnet_b0", "swin_t", "vit_h_14"])
def test_preprocess_is_the_preset(name, photographs):
    """As the preset does it to a Pillow image, which is what the weights were evaluated with."""
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    ours = torchvision_models.preset_of(preset)
    mean, std = (np.array(values, np.float32) for values in (preset.mean, preset.std))
    for image in photographs:
        expected = preset(Image.fromarray(image)).permute(1, 2, 0).numpy()
        pixels = framed(image, ours.framing(*image.shape[:2]), ours.interpolation)
        levels = np.abs(pixels - (expected * std + mean) * 255)
        assert levels.mean() < 0.02
        assert levels.max() < 2.5


@pytest.mark.parametrize("shape", [(256, 301), (303, 256), (333, 512), (427, 640), (90, 61)])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (64, 64), (60, 63), (60, 64)])
def test_every_pixel_of_preprocessed_noise_is_the_preset_s(resize, crop, shape):
    """In noise, a neighbour is another pixel: a crop or a size that is off by one shows everywhere."""
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    published = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    preset = type(published)(crop_size=crop, resize_size=resize, mean=(0.0,) * 3, std=(1.0,) * 3)
    ours = torchvision_models.preset_of(preset)
    pixels = framed(noise, ours.framing(*shape), ours.interpolation)
    expected = preset(Image.fromarray(noise)).permute(1, 2, 0).numpy() * 255
    assert np.abs(pixels - expected).max() < 1.5


def test_the_classifier_of_a_vision_transformer_is_its_head():
    net = torchvision.models.VisionTransformer(32, 16, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        logits = net(images)
        name, head = split_classifier(net)
        assert name == "heads.head"
        assert net(images).shape == (2, 8)
        torch.testing.assert_close(head(net(images)), logits)


@pytest.mark.parametrize("runtime", available_runtimes())
def test_runtimes_agree_with_the_module(runtime, random_weights, photographs):
    embedder = load_embedder(EmbedderSpec(model="torchvision/resnet18", weights=random_weights("resnet18")))
    inputs = np.stack([embedder.preprocess(image) for image in photographs[:2]])
    with build_runtime(embedder, EmbedderSpec(runtime=runtime, precision="float32")) as running:
        vectors = np.stack(list(running.embed(inputs)))
    with torch.inference_mode():
        expected = embedder.module()(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-4)


def test_weights_with_other_classes_load(random_weights):
    path = random_weights("resnet18", num_classes=7)
    embedder = load_embedder(EmbedderSpec(model="torchvision/resnet18", weights=path))
    assert embedder.dimension == 512
    assert embedder.head()(torch.zeros(1, 512)).shape == (1, 7)


def test_a_missing_download_says_how_to_give_weights(monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(ConfigurationError, match="path or URI as the embedder's `weights`"):
        load_embedder(EmbedderSpec(model="torchvision/resnet18"))


def test_published_weights_are_identified_without_a_download():
    default = weights_identity(EmbedderSpec(model="torchvision/resnet50"), Storage())
    assert default == "ResNet50_Weights.IMAGENET1K_V2:resnet50-11ad3fa6.pth"
    older = weights_identity(EmbedderSpec(model="torchvision/resnet50", weights="IMAGENET1K_V1"), Storage())
    assert older.startswith("ResNet50_Weights.IMAGENET1K_V1:")


class Unwanted:
    """Says so if it is unpickled."""

    def __reduce__(self):
        return print, ("unpickled",)


def test_a_cached_file_of_published_weights_is_compared_with_its_name_and_never_unpickled(
    tmp_path, monkeypatch, random_weights, capsys
):
    """Whoever may write to the cache must not choose the vectors, or run code."""
    import pickle

    import torch

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    cached = tmp_path / "checkpoints/resnet18-f37072fd.pth"
    cached.write_bytes(Path(random_weights("resnet18")).read_bytes())
    with pytest.raises(ConfigurationError, match="not what torchvision publishes under this name; delete it"):
        load_embedder(EmbedderSpec(model="torchvision/resnet18"))
    cached.write_bytes(pickle.dumps(Unwanted()))
    with pytest.raises(ConfigurationError, match="delete it"):
        load_embedder(EmbedderSpec(model="torchvision/resnet18"))
    assert "unpickled" not in capsys.readouterr().out
