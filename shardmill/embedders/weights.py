"""Weights: reading a state dict from a URI, fitting it into a network, and digesting it."""

import hashlib
import importlib
import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from shardmill.embedders.hub import HubFile, hub_file
from shardmill.errors import ConfigurationError, ConflictError, StorageError
from shardmill.memory import lacks_memory
from shardmill.storage import Storage, absolute_uri

if TYPE_CHECKING:
    from torch import Tensor, nn


def read_state_dict(uri: str | HubFile | None, storage: Storage, identity: str | None = None) -> "dict[str, Tensor]":
    """The state dict at `uri` (or a local path), also on the hub (`hf://`). Nothing but tensors is unpickled.

    An embedder's `weights` may be None, and are then missing.

    Raises:
        ConfigurationError: None is given, there is no such file, or it is not a state dict.
        ConflictError: Its bytes are not those of `identity`: what `file_identity` gave before, or the start of it.
    """
    import torch

    if uri is None:
        raise ConfigurationError("the embedder has no `weights`: give the path or URI of a state dict")
    on_hub = hub_file(uri)
    uri, storage = (str(uri), storage) if on_hub is None else (on_hub.path(), Storage())
    data = _read(uri, storage)
    if identity is not None and not _digest(data).startswith(identity):
        raise ConflictError(f"the weights {uri} are not those that the run was planned with: they were replaced")
    state = _safetensors(data, uri) if uri.endswith(".safetensors") else _pickled(data, uri)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        inner = [name for name, value in state.items() if isinstance(value, dict)] if isinstance(state, dict) else []
        hint = f"; it is a checkpoint that holds {', '.join(map(repr, state))}" if inner else ""
        raise ConfigurationError(f"{uri} holds no state dict{hint}. {_SAVE}")
    for name, tensor in state.items():
        if tensor.is_complex() or (tensor.is_floating_point() and bool(tensor.isnan().any())):
            what = "complex numbers" if tensor.is_complex() else "what is not a number (NaN)"
            raise ConfigurationError(f"{uri} holds {what} in {name!r}: no vectors come of it")
    return state


_SAVE = "Save it with torch.save(model.state_dict(), path)"


def _safetensors(data: bytes, uri: str) -> "dict[str, Tensor]":
    try:
        safetensors = importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise ConfigurationError(f"reading {uri} needs safetensors: pip install safetensors") from error
    try:
        return dict(safetensors.load(data))
    except Exception as error:  # of a kind that the module keeps to itself
        _pass_on_lack_of_memory(error, uri)
        raise ConfigurationError(f"{uri} is no safetensors file: {error}") from error


def _pickled(data: bytes, uri: str) -> Any:
    import torch

    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no such file may raise anything: KeyError for a text
        _pass_on_lack_of_memory(error, uri)
        raise ConfigurationError(f"{uri} is not a state dict that loads with weights_only=True. {_SAVE}") from error


def _pass_on_lack_of_memory(error: Exception, uri: str) -> None:
    if lacks_memory(error):
        raise MemoryError(f"{uri}: {error}") from error


def fit_state_dict(net: "nn.Module", state: "dict[str, Tensor]", source: str) -> None:
    """Load `state` into `net`, every name and shape of it.

    Raises:
        ConfigurationError: They do not fit.
    """
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        common = all(name.startswith("module.") for name in state)
        hint = ". All names begin with `module.`: save model.module.state_dict()" if state and common else ""
        raise ConfigurationError(f"the weights {source} do not fit the model: {error}{hint}") from error


def digest_state_dict(state: "dict[str, Tensor]") -> str:
    """sha256 (hex) over names, types, shapes and values, in the order of names."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_identity(uri: str | HubFile, storage: Storage) -> str:
    """`sha256:<hex>` of the file's bytes; read again only when the store says that the file has changed.

    Raises:
        ConfigurationError: There is no such file.
    """
    on_hub = hub_file(uri)
    if on_hub is not None:
        return on_hub.identity()
    uri = str(uri)
    try:
        info = storage.stat(absolute_uri(uri))
    except (StorageError, ConfigurationError) as error:
        raise _unreadable(uri, str(error)) from error
    if info is None:
        raise _unreadable(uri, "it does not exist")
    return _file_digest(uri, info.version, storage)


@lru_cache(maxsize=64)
def _file_digest(uri: str, version: str, storage: Storage) -> str:  # noqa: ARG001, version is there for the cache
    return _digest(_read(uri, storage))


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _read(uri: str, storage: Storage) -> bytes:
    try:
        return storage.read(absolute_uri(uri))
    except (StorageError, FileNotFoundError) as error:
        raise _unreadable(uri, str(error)) from error


def _unreadable(uri: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"the weights {uri} cannot be read: {why}")
