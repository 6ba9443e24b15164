"""A preset's pixels are those of the library that publishes it."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shardmill.embedders.framing import framed
from shardmill.embedders.preset import Preset
from shardmill.embedders.runtimes.device_images import write_framed
from shardmill.torchvision_compat import import_torchvision

import_torchvision()
torch = pytest.importorskip("torch")
timm_data = pytest.importorskip("timm.data")
open_clip_transform = pytest.importorskip("open_clip.transform")

SHAPES = [(256, 301), (303, 256), (61, 90), (40, 41), (48, 48), (300, 20)]
NONE = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def noise(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def is_the_same(preset: Preset, image: np.ndarray, transform: Any) -> None:
    """In noise, a neighbour is another pixel: a crop or a size that is off by one shows everywhere."""
    framing = preset.framing(*image.shape[:2])
    ours = framed(image, framing, preset.interpolation)
    theirs = transform(Image.fromarray(image)).permute(1, 2, 0).numpy() * 255
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 2.5
    on_device = torch.empty((1, *ours.shape), dtype=torch.uint8)
    write_framed(torch.from_numpy(image).permute(2, 0, 1)[None], framing, preset.interpolation, on_device, [0])
    assert np.abs(on_device[0].numpy().astype(int) - ours).max() <= 2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize(
    ("size", "crop_pct", "interpolation"),
    [((48, 48), 0.875, "bicubic"), ((48, 48), 1.0, "bilinear"), ((40, 56), 0.9, "bicubic")],
)
def test_as_timm_transforms(shape, crop_mode, size, crop_pct, interpolation):
    from timm.models import PretrainedCfg

    from shardmill.embedders.timm_models import _preset

    config = PretrainedCfg(
        input_size=(3, *size), crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation, architecture="a"
    )
    preset = _preset(config)
    data = timm_data.resolve_data_config(pretrained_cfg=config.to_dict())
    transform = timm_data.create_transform(**{**data, "normalize": False})
    image = noise(shape)
    is_the_same(preset, image, lambda picture: transform(picture).float() / 255)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_as_open_clip_transforms(shape, resize_mode, tmp_path, monkeypatch):
    import open_clip

    from shardmill.embedders.open_clip_models import _preset

    file = tmp_path / "tiny.json"
    file.write_text(json.dumps({"embed_dim": 8, "vision_cfg": {"image_size": 48}, "text_cfg": {}}))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    open_clip.add_model_config(file)
    published = {**NONE, "interpolation": "bilinear", "resize_mode": resize_mode, "fill_color": 128}
    settings = open_clip_transform.PreprocessCfg(size=48, **published)
    transform = open_clip_transform.image_transform_v2(settings, is_train=False)
    is_the_same(_preset("tiny", published), noise(shape), transform)


def test_words_change_with_all_that_changes_pixels():
    preset = Preset(resize=(256, 256), crop=(224, 224))
    others = [
        Preset(resize=(255, 255), crop=(224, 224)),
        Preset(resize=(256, 256), crop=(223, 224)),
        Preset(resize=(256, 256), crop=(224, 224), mode="squash"),
        Preset(resize=(256, 256), crop=(224, 224), interpolation="bilinear"),
        Preset(resize=(256, 256), crop=(224, 224), fill=(1, 0, 0)),
        Preset(resize=(256, 256), crop=(224, 224), mean=(0.5, 0.5, 0.5)),
        Preset(resize=(256, 256), crop=(224, 224), std=(0.5, 0.5, 0.5)),
    ]
    assert len({str(each) for each in [preset, *others]}) == len(others) + 1
