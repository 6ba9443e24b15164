"""Make code that draws from torch's global generator draw from a given one.

torchvision's operations call `torch.rand`, `torch.empty(...).uniform_()` and the like, which share one
generator among the threads of a process. Within `SeededRandomness` they do not.

The module is torch through and through: import it inside functions.
"""

import enum
import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch  # noqa: TID253
import torch.nn.functional as F  # noqa: TID253
from torch.overrides import TorchFunctionMode  # noqa: TID253
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: TID253

from shardmill.errors import ConfigurationError

# Written in Python, called by torchvision on every image, and drawing nothing: no need to look inside.
_QUIET = frozenset({F.affine_grid, F.grid_sample, F.interpolate})

Check = Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any]], None]

_GENERATOR = ("generator", "Optional[Generator]")


class SeededRandomness(TorchFunctionMode):
    """Within its scope, in this thread, every random function of torch draws from `generator`.

    The global generator is neither read nor advanced. Python's `random` and numpy are not touched. `check` sees each
    call of a function of torch before it is made, and may refuse it.

    Raises:
        ConfigurationError: Within its scope: a random operator takes no generator (`native_dropout`, say).
    """

    def __init__(self, generator: torch.Generator, check: Check | None = None) -> None:
        super().__init__()
        self._generator = generator
        self._check = check
        self._draws = _Draws(generator)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._check is not None:
            self._check(func, args, kwargs)
        way = _way_of(func)
        if way is _Way.LOOK_INSIDE:
            with self._draws:
                return func(*args, **kwargs)
        if way is _Way.TAKES_GENERATOR and kwargs.get("generator") is None:
            kwargs["generator"] = self._generator
        return func(*args, **kwargs)


class _Way(enum.Enum):
    NOT_RANDOM = enum.auto()
    TAKES_GENERATOR = enum.auto()
    LOOK_INSIDE = enum.auto()


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands the generator to each random operator; costs too much to stay on for every operator."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = generator

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags:
            func = _with_generator(func)
            if kwargs.get("generator") is None:
                kwargs["generator"] = self._generator
        return func(*args, **kwargs)


@functools.cache
def _way_of(func: Callable[..., Any]) -> _Way:
    """Judge a function by the operator of its name; one written in Python may hold anything."""
    if func in _QUIET:
        return _Way.NOT_RANDOM
    if isinstance(func, types.FunctionType):
        return _Way.LOOK_INSIDE
    packet = getattr(torch.ops.aten, getattr(func, "__name__", ""), None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return _Way.NOT_RANDOM
    overloads = [getattr(packet, name) for name in packet.overloads()]  # type: ignore[no-untyped-call]
    if not any(torch.Tag.nondeterministic_seeded in overload.tags for overload in overloads):
        return _Way.NOT_RANDOM
    if any(_GENERATOR in _signature(overload) for overload in overloads):
        return _Way.TAKES_GENERATOR
    return _Way.LOOK_INSIDE


@functools.cache
def _with_generator(func: torch._ops.OpOverload) -> torch._ops.OpOverload:
    """The overload of a random operator that has the same arguments and a generator.

    Raises:
        ConfigurationError: There is none.
    """
    wanted = _signature(func) | {_GENERATOR}
    for name in func.overloadpacket.overloads():
        overload: torch._ops.OpOverload = getattr(func.overloadpacket, name)
        if _signature(overload) == wanted:
            return overload
    raise ConfigurationError(
        f"{func} draws from torch's global generator and takes no other, so that its result would "
        "depend on the order of the samples. Draw with torch.rand and its like, or from sample.generator"
    )


def _signature(func: torch._ops.OpOverload) -> set[tuple[str, str]]:
    return {(argument.name, str(argument.type)) for argument in func._schema.arguments}
