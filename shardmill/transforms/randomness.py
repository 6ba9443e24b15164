"""Make code that draws from torch's global generator draw from a given one.

torchvision's operations call `torch.rand`, `torch.empty(...).uniform_()` and the like, which share one
generator among the threads of a process. Within `SeededRandomness` they do not.

The module is torch through and through: import it inside functions.
"""

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch  # noqa: TID253
from torch.overrides import TorchFunctionMode  # noqa: TID253
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: TID253

from shardmill.errors import ConfigurationError


class SeededRandomness(TorchFunctionMode):
    """Within its scope, in this thread, every random function of torch draws from `generator`.

    The global generator is neither read nor advanced. A random operator that takes no generator
    (`native_dropout`, say) is refused with `ConfigurationError`. Python's `random` and numpy are not touched.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._draws = _Draws(generator)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if not _may_draw(func):
            return func(*args, **(kwargs or {}))
        with self._draws:
            return func(*args, **(kwargs or {}))


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
def _may_draw(func: Callable[..., Any]) -> bool:
    """Whether the operator of that name is random. A function written in Python may hold anything."""
    if isinstance(func, types.FunctionType):
        return True
    packet = getattr(torch.ops.aten, getattr(func, "__name__", ""), None)
    return isinstance(packet, torch._ops.OpOverloadPacket) and any(
        torch.Tag.nondeterministic_seeded in getattr(packet, overload).tags
        for overload in packet.overloads()  # type: ignore[no-untyped-call]
    )


@functools.cache
def _with_generator(func: torch._ops.OpOverload) -> torch._ops.OpOverload:
    """The overload of a random operator that has the same arguments and a generator."""
    wanted = _signature(func) | {("generator", "Optional[Generator]")}
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
