"""`open_clip/<arch>`: the image towers of open_clip's models, and their text towers for queries.

`weights` is the tag of published weights (`laion2b_s34b_b79k`), as open_clip's `pretrained`, or a path or URI.
Preprocessing is what open_clip publishes with the tag; weights of the user's own take that of the architecture's first.
"""

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shardmill.embedders.hub import HubFile
from shardmill.embedders.net import NetEmbedder
from shardmill.embedders.preset import Preset, checked_interpolation
from shardmill.embedders.protocol import Embedder
from shardmill.embedders.spec import EmbedderSpec
from shardmill.embedders.unknown import unknown_model
from shardmill.embedders.weights import file_identity, read_state_dict
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage
from shardmill.temporary import temporary_directory
from shardmill.torchvision_compat import import_torchvision

if TYPE_CHECKING:
    from torch import Tensor, nn

_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""What open_clip calls weights on the hub, best first."""
_TEXTS = 64
"""Embedded at once."""


class OpenClipModel(NetEmbedder):
    """The embedder: see `shardmill.embedders.protocol.Embedder` and `TextEmbedder`."""

    def __init__(self, name: str, model: "nn.Module", dimension: int, preset: Preset) -> None:
        super().__init__(name, _image_tower(model), dimension, preset)
        self._model: Any = model

    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [len(texts), dimension], on the CPU, by open_clip's own tokenizer of the model."""
        import torch

        tokenizer = _tokenizer(self.name)
        made = [np.empty((0, self.dimension), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(texts), _TEXTS):
                tokens = tokenizer(list(texts[start : start + _TEXTS]))
                made.append(self._model.encode_text(tokens, normalize=False).float().numpy())
        return np.concatenate(made)


def load(spec: EmbedderSpec, weights: str | None, storage: Storage) -> Embedder:
    """The model, with the weights that `spec` names."""
    name, published = _model(spec)
    source = _source(spec, published)
    state = read_state_dict(source, storage, weights)
    model = _build(name)
    _fit(model, state, str(source))
    dimension = int(_open_clip().get_model_config(name)["embed_dim"])
    return OpenClipModel(spec.model, model, dimension, _preset(name, published))


def weights_identity(spec: EmbedderSpec, storage: Storage) -> str:
    """The digest of the weights' file, on the hub or where `spec.weights` says."""
    return file_identity(_source(spec, _model(spec)[1]), storage)


def preprocessing(spec: EmbedderSpec) -> str:
    """What open_clip publishes with the weights, else with the architecture's first ones."""
    return str(_preset(*_model(spec)))


def _open_clip() -> ModuleType:
    import_torchvision()
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        needs = "models of open_clip need it installed: pip install 'shardmill[open-clip]'"
        raise ConfigurationError(needs) from error


def _model(spec: EmbedderSpec) -> tuple[str, Mapping[str, Any] | None]:
    """The architecture, and what is published under the tag, if `weights` is one."""
    library = _open_clip()
    name = spec.model.partition("/")[2]
    if name not in library.list_models():
        raise unknown_model(spec.model, [f"open_clip/{each}" for each in library.list_models()])
    tags = library.list_pretrained_tags_by_model(name)
    published = library.get_pretrained_cfg(name, spec.weights) if spec.weights else None
    looks_like_a_tag = spec.weights is not None and not any(sign in spec.weights for sign in "/.\\")
    if spec.weights is None or (not published and looks_like_a_tag):
        missing = f"there are no weights {spec.weights} of it" if spec.weights else "it has no default weights"
        known = f"the tag of some that are published ({', '.join(tags)}), or " if tags else ""
        raise ConfigurationError(f"{spec.model}: {missing}; give as the embedder's `weights` {known}a path or URI")
    config = library.get_model_config(name)
    if published and bool(published.get("quick_gelu")) != bool(config.get("quick_gelu")):
        bare = name.removesuffix("-quickgelu")
        right = f"open_clip/{bare}-quickgelu" if published.get("quick_gelu") else f"open_clip/{bare}"
        raise ConfigurationError(f"the weights {spec.weights} are of another activation: the model is {right}")
    return name, published or None


def _source(spec: EmbedderSpec, published: Mapping[str, Any] | None) -> str | HubFile:
    """Where the weights are."""
    if published is None:
        return spec.weights or ""
    repository, _, name = published.get("hf_hub", "").rpartition("/")
    if not repository:
        raise ConfigurationError(
            f"the weights {spec.weights} of {spec.model} are at {published.get('url')}: fetch them, and give their "
            "path or URI as the embedder's `weights`"
        )
    if name in ("", _FILES[-1]):
        return HubFile(repository, _FILES)
    return HubFile(repository, [str(Path(name).with_suffix(".safetensors")), name])


def _preset(name: str, published: Mapping[str, Any] | None) -> Preset:
    """What `open_clip.image_transform` does of the published settings, at the size of the model."""
    library = _open_clip()
    if published is None:
        tags = library.list_pretrained_tags_by_model(name)
        published = library.get_pretrained_cfg(name, tags[0]) if tags else {}
    settings = {**_defaults(), **{key: value for key, value in published.items() if value is not None}}
    size = library.get_model_config(name)["vision_cfg"].get("image_size", settings["size"])
    height, width = (size, size) if isinstance(size, int) else size
    fill = settings["fill_color"]
    return Preset(
        resize=(height, width),
        crop=(height, width),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        mode=settings["resize_mode"],
        interpolation=checked_interpolation(settings["interpolation"]),
        fill=(fill, fill, fill),
    )


def _defaults() -> dict[str, Any]:
    """Of a model of which nothing is published."""
    transform: Any = importlib.import_module("open_clip.transform")
    return dict(vars(transform.PreprocessCfg()))


def _build(name: str) -> Any:
    """The model, its weights random: those of the towers are not fetched."""
    try:
        with _unwarned():
            model = _open_clip().create_model(name, load_weights=False, pretrained_text=False)
        return model.eval().requires_grad_(False)
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigurationError(
            f"open_clip/{name} cannot be built ({error}): its text tower is one of the package transformers, and its "
            "settings are on the hub"
        ) from error


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without the warning that the weights are random: they are loaded next."""

    def passes(record: logging.LogRecord) -> bool:
        return "open_clip" not in record.pathname or record.levelno > logging.WARNING

    logging.getLogger().addFilter(passes)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(passes)


def _fit(model: "nn.Module", state: "dict[str, Tensor]", source: str) -> None:
    """By open_clip's own loading, which translates names of other codes; it takes a file."""
    import torch

    with temporary_directory(prefix="shardmill-weights-") as folder:
        file = Path(folder, "weights.pt")
        torch.save(state, file)
        state.clear()
        try:
            _open_clip().load_checkpoint(model, str(file))
        except (RuntimeError, KeyError, StopIteration) as error:
            raise ConfigurationError(f"the weights {source} do not fit the model: {error}") from error


def _image_tower(model: Any) -> "nn.Module":
    """Only what makes vectors of images: what CUDA and the tracing take."""
    from torch import nn

    class ImageTower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = model.visual

        def forward(self, pixels: "Tensor") -> Any:
            features = self.visual(pixels)
            return features[0] if isinstance(features, tuple) else features  # CoCa gives its tokens, too

    return ImageTower()


def _tokenizer(model: str) -> Any:
    name = model.partition("/")[2]
    why: Exception
    try:
        return _open_clip().get_tokenizer(name)
    except ImportError as error:
        why, remedy = error, "pip install transformers sentencepiece"
    except Exception as error:  # of whatever kind the hub's client has
        why, remedy = error, "it comes from the Hugging Face hub, and is cached where it was fetched once"
    with suppress(IndexError):
        why = type(why)(str(why).strip().splitlines()[0])
    raise ConfigurationError(f"the tokenizer of {model} is not to be had here: {remedy} ({why})") from why
