"""`timm/<name>`: any of timm's models, its features after pooling.

The name is timm's, with the tag of published weights or without (`vit_base_patch16_224.augreg_in21k`). Preprocessing is
what timm publishes for it, also for weights of the user's own; their number of classes is free.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from shardmill.embedders.hub import HubFile
from shardmill.embedders.net import NetEmbedder
from shardmill.embedders.preset import Preset, checked_interpolation
from shardmill.embedders.protocol import Embedder
from shardmill.embedders.spec import EmbedderSpec
from shardmill.embedders.unknown import unknown_model
from shardmill.embedders.weights import file_identity, fit_state_dict, read_state_dict
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage
from shardmill.torchvision_compat import import_torchvision

if TYPE_CHECKING:
    from torch import Tensor, nn

_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm calls weights on the hub, best first."""


def load(spec: EmbedderSpec, weights: str | None, storage: Storage) -> Embedder:
    """The model, with the weights at `spec.weights`, or those that timm publishes."""
    name, config = _model(spec)
    source = spec.weights or _published(spec, config)
    state = read_state_dict(source, storage, weights)
    net = _timm().create_model(name, pretrained=False, num_classes=0)
    head = _fit(net, state, str(source), name, config)
    return NetEmbedder(spec.model, net, int(net.head_hidden_size), _preset(config), head)


def weights_identity(spec: EmbedderSpec, storage: Storage) -> str:
    """The digest of the weights' file, on the hub or where `spec.weights` says."""
    _, config = _model(spec)
    return file_identity(spec.weights or _published(spec, config), storage)


def preprocessing(spec: EmbedderSpec) -> str:
    """What timm publishes for the model and its tag."""
    return str(_preset(_model(spec)[1]))


def _timm() -> ModuleType:
    import_torchvision()
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigurationError("models of timm need it installed: pip install 'shardmill[timm]'") from error


def _model(spec: EmbedderSpec) -> tuple[str, Any]:
    """The name, with its tag, and timm's `PretrainedCfg` of it."""
    timm = _timm()
    name = spec.model.partition("/")[2]
    architecture, _, tag = name.partition(".")
    known = timm.models.get_arch_pretrained_cfgs(architecture)
    if not known:  # names that timm has given up are models without settings
        raise unknown_model(spec.model, [f"timm/{each}" for each in timm.list_models()])
    if tag and name not in known:
        raise unknown_model(spec.model, [f"timm/{each}" for each in [architecture, *known]])
    return name, timm.models.get_pretrained_cfg(name)


def _published(spec: EmbedderSpec, config: Any) -> HubFile:
    if not config.hf_hub_id:
        at = f" but at {config.url}: fetch them" if config.url else ""
        raise ConfigurationError(
            f"{spec.model}: timm has no weights of it on the hub{at}; give the embedder's `weights`, a path or URI"
        )
    repository, _, revision = config.hf_hub_id.partition("@")
    if repository == "timm/":
        repository += f"{config.architecture}.{config.tag}"
    names = [config.hf_hub_filename] if config.hf_hub_filename else _FILES
    return HubFile(repository, names, revision or None)


def _preset(config: Any) -> Preset:
    """What `timm.data.create_transform` makes of the configuration."""
    data = importlib.import_module("timm.data").resolve_data_config(pretrained_cfg=config.to_dict())
    channels, *crop = data["input_size"]
    if channels != 3:
        raise ConfigurationError(f"{config.architecture} takes images of {channels} channels, not of 3")
    height, width = (int(side / data["crop_pct"]) for side in crop)
    mean = tuple(data["mean"])
    border = data["crop_mode"] == "border"
    return Preset(
        resize=(height, width),
        crop=(crop[0], crop[1]),
        mean=mean,
        std=tuple(data["std"]),
        mode="longest" if border else "squash" if data["crop_mode"] == "squash" else "shortest",
        interpolation=checked_interpolation(data["interpolation"]),
        fill=(round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2])) if border else (0, 0, 0),
    )


def _fit(net: "nn.Module", state: "dict[str, Tensor]", source: str, name: str, config: Any) -> "nn.Module | None":
    """Load the weights, all but the classifier's, which is returned if it is one layer.

    Names of other codes, as the original authors' files have them, are translated where timm's module does that.
    """
    classifiers = [config.classifier] if isinstance(config.classifier, str) else list(config.classifier or ())
    expected = net.state_dict().keys()
    if not expected <= state.keys():
        timm: Any = importlib.import_module("timm.models")
        translate = getattr(sys.modules[timm.model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
        if translate is not None:
            state = translate(dict(state), net)
    ends = tuple(f"{classifier}." for classifier in classifiers)
    fit_state_dict(net, {key: value for key, value in state.items() if not (ends and key.startswith(ends))}, source)
    return _linear(state, classifiers[0]) if len(classifiers) == 1 else None


def _linear(state: "dict[str, Tensor]", name: str) -> "nn.Module | None":
    from torch import nn

    weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
    if weight is None or weight.ndim != 2:
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer
