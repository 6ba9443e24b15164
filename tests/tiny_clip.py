"""Architectures of open_clip, small enough for tests: one of each kind of image tower, with random weights."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
TINY: dict[str, dict[str, Any]] = {
    "tiny-vit": {
        "embed_dim": 48,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": _TEXT,
    },
    "tiny-resnet": {
        "embed_dim": 48,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": _TEXT,
    },
    "tiny-map": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 64,
            "timm_model_name": "test_vit2",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {**_TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
    "tiny-convnext": {
        "embed_dim": 48,
        "vision_cfg": {
            "image_size": 64,
            "timm_model_name": "test_convnext",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
        },
        "text_cfg": _TEXT,
    },
    "tiny-coca": {
        "embed_dim": 64,
        "custom_text": True,
        "multimodal_cfg": {
            "width": 64,
            "context_length": 76,
            "vocab_size": 49408,
            "mlp_ratio": 4,
            "layers": 1,
            "dim_head": 32,
            "heads": 2,
            "n_queries": 16,
            "attn_pooler_heads": 2,
        },
        "vision_cfg": {
            "image_size": 64,
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 16,
            "output_tokens": True,
            "attentional_pool": True,
            "attn_pooler_queries": 16,
            "attn_pooler_heads": 2,
        },
        "text_cfg": {**_TEXT, "context_length": 76, "width": 64, "embed_cls": True, "output_tokens": True},
    },
}


def set_statistics(visual: Any) -> None:
    """Batch norms as after some training: with those that they begin with, all images have nearly the same vector."""
    import torch

    norms = [module for module in visual.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        torch.nn.init.ones_(norm.weight)
    if norms:
        side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
        with torch.no_grad():
            visual.train()(torch.randn(4, 3, side, side))


NewWeights = Callable[[str, Path], Path]


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewWeights]:
    """`tiny_clip("tiny-vit", folder)` saves weights of one and gives their path. This process knows the model."""
    import torch

    from shardmill import import_torchvision

    import_torchvision()
    open_clip = pytest.importorskip("open_clip")

    folder = tmp_path_factory.mktemp("tiny_clip")
    for name, config in TINY.items():
        (folder / f"{name}.json").write_text(json.dumps(config))

    def make(name: str, into: Path) -> Path:
        torch.manual_seed(0)
        model = open_clip.create_model(name, load_weights=False)
        set_statistics(model.visual)
        torch.save(model.state_dict(), into / f"{name}.pt")
        return into / f"{name}.pt"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
        patch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
        open_clip.add_model_config(folder)
        yield make
