"""`torchvision/<name>`: any of torchvision's classification models, without its classifier.

Preprocessing is that of the weights' own preset. Weights of the user's own (a URI) take the preset of the
model's default weights; their number of classes is free.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from shardmill.embedders.modules import split_classifier
from shardmill.embedders.net import NetEmbedder
from shardmill.embedders.preset import Preset, checked_interpolation
from shardmill.embedders.protocol import Embedder
from shardmill.embedders.spec import EmbedderSpec
from shardmill.embedders.unknown import unknown_model
from shardmill.embedders.weights import file_identity, fit_state_dict, read_state_dict
from shardmill.errors import ConfigurationError, ConflictError
from shardmill.storage import Storage
from shardmill.torchvision_compat import import_torchvision

if TYPE_CHECKING:
    from torch import Tensor

# Ported from TensorFlow: their weights expect inputs scaled its way, which the builder does on request.
BUILDER_ARGUMENTS = {name: {"transform_input": True, "init_weights": False} for name in ("googlenet", "inception_v3")}


def _embedder(name: str, state: "dict[str, Tensor]", source: str, preset: Any) -> NetEmbedder:
    """The model without its classifier, whose number of classes is that of the weights."""
    from torch import nn

    builder: Any = import_torchvision().models.get_model
    net = builder(name, weights=None, **BUILDER_ARGUMENTS.get(name, {}))
    classifier_name, classifier = split_classifier(net)
    classes = state.get(f"{classifier_name}.weight")
    if classes is not None and isinstance(classifier, nn.Linear):
        classifier = nn.Linear(classifier.in_features, classes.shape[0], bias=classifier.bias is not None)
    net.set_submodule(classifier_name, classifier)
    fit_state_dict(net, state, source)
    split_classifier(net)
    linear: Any = classifier  # a convolution in SqueezeNet: that is no head
    dimension = int(getattr(linear, "in_features", None) or linear.in_channels)
    head = classifier if hasattr(linear, "in_features") else None
    return NetEmbedder(f"torchvision/{name}", net, dimension, preset_of(preset), head)


def preset_of(published: Any) -> Preset:
    """A preset of torchvision's."""
    resize, crop = int(published.resize_size[0]), int(published.crop_size[0])
    return Preset(
        resize=(resize, resize),
        crop=(crop, crop),
        mean=tuple(published.mean),
        std=tuple(published.std),
        interpolation=checked_interpolation(published.interpolation.value),
    )


def load(spec: EmbedderSpec, weights: str | None, storage: Storage) -> Embedder:
    """The model, with the weights that `spec` names. Published weights are known by the digest in their name."""
    name = _name(spec)
    published = _published(name, spec.weights)
    if spec.weights is None or spec.weights == published.name:
        return _embedder(name, _download(published), str(published), published.transforms())
    state = read_state_dict(spec.weights, storage, weights)
    return _embedder(name, state, spec.weights, published.transforms())


def weights_identity(spec: EmbedderSpec, storage: Storage) -> str:
    """The digest of the weights' file, or the file name under which torchvision publishes them."""
    weights = _published(_name(spec), spec.weights)
    if spec.weights is None or spec.weights == weights.name:
        return f"{weights}:{weights.url.rpartition('/')[2]}"  # the name ends in the start of its sha256
    return file_identity(spec.weights, storage)


def preprocessing(spec: EmbedderSpec) -> str:
    """The preset that torchvision publishes with the weights, else with the model's default ones."""
    preset = _published(_name(spec), spec.weights).transforms()
    settings = (preset.resize_size, preset.crop_size, preset.interpolation.value, preset.mean, preset.std)
    return "resize {}, crop {}, {}, mean {}, std {}".format(*settings)


def _name(spec: EmbedderSpec) -> str:
    models: Any = import_torchvision().models
    name = spec.model.partition("/")[2]
    known = models.list_models(module=models)
    if name not in known:
        raise unknown_model(spec.model, [f"torchvision/{each}" for each in known])
    return name


def _published(name: str, weights: str | None) -> Any:
    """The member of the model's weights enumeration called `weights`, else its default."""
    enumeration: Any = import_torchvision().models.get_model_weights(name)
    if weights is not None and weights not in enumeration.__members__ and re.fullmatch("[A-Z][A-Z0-9_]+", weights):
        known = ", ".join(enumeration.__members__)
        raise ConfigurationError(f"torchvision publishes no weights {weights} of {name}; there are {known}")
    return enumeration[weights] if weights in enumeration.__members__ else enumeration.DEFAULT


def _download(weights: Any) -> "dict[str, Tensor]":
    """What torchvision publishes, from its cache if it is there; compared with the digest in its name either way."""
    import torch

    file = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
    begins = re.search(r"-([0-9a-f]{8,})\.", file.name)
    prefix = begins[1] if begins else None
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(file), prefix, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise ConfigurationError(
            f"{weights} cannot be downloaded from {weights.url} ({error}); fetch the file elsewhere "
            "and give its path or URI as the embedder's `weights`"
        ) from error
    try:
        return read_state_dict(str(file), Storage(), prefix and f"sha256:{prefix}")
    except ConflictError as error:
        raise ConfigurationError(f"{file} is not what torchvision publishes under this name; delete it") from error
