"""From an operation of the spec to the step that runs it."""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from shardmill.errors import ConfigurationError, ShardmillError
from shardmill.importing import as_an_error
from shardmill.torchvision_compat import import_torchvision
from shardmill.transforms.sample import DecodedSample
from shardmill.transforms.spec import Operation
from shardmill.transforms.steps import CustomStep, NamedStep, Step

# Samples hold tensors from decoding to encoding: conversions from and to PIL have another meaning here.
_MEANING: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ToTensor": ("ToDtype", {"dtype": "float32", "scale": True}),
    "ToPILImage": ("Identity", {}),
}

_UNUSABLE: Mapping[str, str] = {
    "Transform": "it is the base class",
    "Lambda": "write an import path, package.module:callable, instead",
    "CutMix": "it mixes the images of a batch; do that in the training loader",
    "MixUp": "it mixes the images of a batch; do that in the training loader",
    "FiveCrop": "it makes five images of one; write a callable that yields sample.child(…) for each crop",
    "TenCrop": "it makes ten images of one; write a callable that yields sample.child(…) for each crop",
    "LinearTransformation": "its matrix has no place in a spec; write a callable",
}

_DRAW_NOTHING = frozenset(
    {"CenterCrop", "ConvertImageDtype", "Grayscale", "Identity", "Normalize", "Pad", "RGB", "Resize", "ToDtype"}
    | {"ToImage", "ToPILImage", "ToTensor"}
)


def build_step(
    operation: Operation, masks: Collection[str], names: Mapping[str, Sequence[str]], max_pixels: int
) -> Step:
    """Make the step, checking all that can be checked without a sample.

    `names` are what its components can be called in a sample, if not as the operation names them.

    Raises:
        ConfigurationError: No such operation, or arguments it does not take.
    """
    if operation.is_custom:
        return CustomStep(operation.operation, _build_custom(operation), masks, max_pixels)
    built = _build_named(operation.operation, operation.arguments)
    if operation.components is None:
        return NamedStep(operation.operation, built, None, max_pixels)
    called = {component: names.get(component, (component,)) for component in sorted(operation.components)}
    return NamedStep(operation.operation, built, called, max_pixels)


def draws_nothing(operation: Operation) -> bool:
    """Whether an operation is known to do the same to equal images, whatever the generator."""
    return operation.operation in _DRAW_NOTHING


def close_matches(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x' or 'y'?`, or nothing."""
    by_lower = {name.lower().replace("_", ""): name for name in known}
    found = difflib.get_close_matches(word.lower().replace("_", ""), by_lower, n=3)
    return f"; did you mean {' or '.join(repr(by_lower[name]) for name in found)}?" if found else ""


def _build_custom(operation: Operation) -> Callable[[DecodedSample], Any]:
    found = operation.load()
    is_class = isinstance(found, type)
    try:
        signature = inspect.signature(found)
    except ValueError:  # written in C
        pass
    else:
        _bind(operation.operation, signature, () if is_class else ("sample",), operation.arguments)
    if not is_class:
        return functools.partial(found, **operation.arguments)
    made: Callable[[DecodedSample], Any] = _construct(operation.operation, found, operation.arguments)
    if not callable(made):
        raise ConfigurationError(f"{operation.operation} has no __call__; a transform is called with each sample")
    return made


def _build_named(name: str, arguments: Mapping[str, Any]) -> Any:
    import_torchvision()
    from torchvision.transforms import v2

    if name in _UNUSABLE:
        raise ConfigurationError(f"{name} cannot be an operation here: {_UNUSABLE[name]}")
    known = [n for n, value in vars(v2).items() if isinstance(value, type) and issubclass(value, v2.Transform)]
    if name not in known:
        raise ConfigurationError(
            f"torchvision.transforms.v2 has no {name!r}{close_matches(name, known)} "
            "(a callable of your own is written package.module:callable)"
        )
    if name in _MEANING:
        name, arguments = _MEANING[name]
    cls = getattr(v2, name)
    _bind(name, inspect.signature(cls), (), arguments)
    return _construct(name, cls, {n: _argument(name, n, value) for n, value in arguments.items()})


def _bind(name: str, signature: inspect.Signature, positional: tuple[str, ...], arguments: Mapping[str, Any]) -> None:
    try:
        signature.bind(*positional, **arguments)
    except TypeError as error:
        takes = list(signature.parameters)[len(positional) :]
        unknown = [argument for argument in arguments if argument not in takes]
        hint = "".join(f"; it has no {argument!r}{close_matches(argument, takes)}" for argument in unknown)
        raise ConfigurationError(f"{name}: {error}{hint} (it takes {', '.join(takes) or 'no arguments'})") from error


def _construct(name: str, cls: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    try:
        with as_an_error("making it"):
            return cls(**arguments)
    except ShardmillError:
        raise
    except Exception as error:
        raise ConfigurationError(f"{name} refuses its arguments {dict(arguments)}: {error}") from error


def _argument(operation: str, name: str, value: Any) -> Any:
    """Make what YAML cannot write: enumerations, dtypes, types of component, and operations in operations."""
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import AutoAugmentPolicy, InterpolationMode

    if isinstance(value, dict) and name in ("fill", "dtype"):
        kinds = {"image": tv_tensors.Image, "mask": tv_tensors.Mask, "others": "others"}
        if unknown := set(value) - set(kinds):
            raise ConfigurationError(f"{operation}: {name} is given for {sorted(unknown)}, not for {', '.join(kinds)}")
        return {kinds[kind]: _argument(operation, name, each) for kind, each in value.items()}
    if name == "dtype" and isinstance(value, str):
        dtype = getattr(torch, value.removeprefix("torch."), None)
        if not isinstance(dtype, torch.dtype):
            raise ConfigurationError(f"{operation}: torch has no dtype {value!r}; write float32 or uint8, say")
        return dtype
    for argument, enumeration in (("interpolation", InterpolationMode), ("policy", AutoAugmentPolicy)):
        if name == argument and isinstance(value, str):
            values = [member.value for member in enumeration]
            if value not in values:
                hint = close_matches(value, values)
                raise ConfigurationError(f"{operation}: {name} {value!r} is none of {', '.join(values)}{hint}")
            return enumeration(value)
    if name == "transforms" and isinstance(value, list):
        return [_nested(operation, each) for each in value]
    return value


def _nested(outer: str, value: Any) -> Any:
    try:
        operation = Operation.model_validate(value)
    except ValidationError as error:
        raise ConfigurationError(
            f"{outer}: each of its transforms is {{operation: …, arguments: …}}: {error}"
        ) from error
    if operation.is_custom or operation.components is not None:
        raise ConfigurationError(f"{outer}: {operation.operation} within it can neither be custom nor name components")
    return _build_named(operation.operation, operation.arguments)
