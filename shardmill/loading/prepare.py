"""What a stored sample becomes: components chosen, decoded to tensors and plain values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias

from shardmill.errors import ConfigurationError, Rejected
from shardmill.images import MAX_PIXELS
from shardmill.library_threads import one_thread_each
from shardmill.loading.through_server import ThroughServer
from shardmill.samples import EncodedSample, called_so, image_format
from shardmill.sources.names import MAX_COMPONENT, encode_component, encode_key, is_member_name
from shardmill.transforms import SampleTransform, TransformSpec, build_transform, reasons
from shardmill.transforms.picture import as_tensor
from shardmill.transforms.values import decode_value

KEY, URL = "__key__", "__url__"
"""WebDataset's names for what every sample has."""


Transform: TypeAlias = SampleTransform | ThroughServer
"""What is called for each sample, and epoch: here, or on a server."""


@dataclass(frozen=True)
class Prepare:
    """Makes of a stored sample the dict that a training loop gets, or several, or none. Picklable.

    Images are `tv_tensors.Image` uint8 [3, height, width]; masks `tv_tensors.Mask` [height, width], uint8, or int32 of
    16-bit ones; or what the transform made of them. `cls` is an int, `json` its value, `txt` a str; anything else stays
    bytes.
    """

    components: Sequence[str] | None = None
    """Those that are handed over; by default all."""
    transform: Transform | None = None
    """Run on each sample before, all of its components there."""
    decode: bool = True
    """Whether values are; else bytes, of what a transform made those that would be stored."""
    masks: Sequence[str] = ()
    """Components that are label maps. A transform says of its own."""

    def __call__(
        self, sample: EncodedSample, cells: Mapping[str, Any], epoch: int, url: str = ""
    ) -> list[dict[str, Any]]:
        """What is made of a sample in an epoch, each with the sample's `cells`.

        Raises:
            Rejected: It lacks a component, one cannot be decoded, or the transform fails on it.
            ConfigurationError: The transform is wrong, whatever the sample.
        """
        _settle_in_worker()
        made = self._made(sample, epoch)
        return [{KEY: key, URL: url, **self._values(components), **cells} for key, components in made]

    def _made(self, sample: EncodedSample, epoch: int) -> Iterator[tuple[str, _Named]]:
        """Keys and components, these by the names that they have in the output."""
        if self.transform is None:
            yield sample.key, {name: (name, data) for name, data in sample.components.items()}
            return
        packed, own = as_packed(sample)
        if self.decode and isinstance(self.transform, SampleTransform):
            results: Iterable[tuple[str, _Named]] = (
                (made.key, {made.names[name]: (name, value) for name, value in made.components.items()})
                for made in self.transform.apply(packed, epoch)
            )
        else:
            results = (
                (made.key, {name: (name, data) for name, data in made.components.items()})
                for made in self.transform(packed, epoch)
            )
        for key, components in results:
            child = key.removeprefix(packed.key)
            yield (
                key if child == key else sample.key + child,
                {own.get(name, name): each for name, each in components.items()},
            )

    def _values(self, components: _Named) -> dict[str, Any]:
        if self.components is None:
            return {name: self._value(*each) for name, each in components.items()}
        chosen = {}
        for name in self.components:
            found = called_so(name, components)
            if found is None:
                present = ", ".join(sorted(components)) or "none"
                raise Rejected(reasons.MISSING_COMPONENT, f"{name} is asked for; the sample has {present}")
            chosen[name] = self._value(*components[found])
        return chosen

    def _value(self, component: str, value: Any) -> Any:
        if not self.decode:
            return value
        if isinstance(value, bytes) and image_format(component) is None:
            return plain_value(value, component)
        if isinstance(self.transform, SampleTransform):
            return self.transform.value(component, value)
        return as_tensor(decode_value(value, component, component in self.masks, MAX_PIXELS))


def as_packed(sample: EncodedSample) -> tuple[EncodedSample, Mapping[str, str]]:
    """A sample under the names that packing gives, and its own names of its components by those.

    A tar of others may have names that no shard has. A plan knows components by a shard's names, and draws by its keys.
    """
    if all(is_member_name(sample.key, name) for name in sample.components):
        return sample, {}
    key = sample.key if is_member_name(sample.key, "x" * MAX_COMPONENT) else encode_key(sample.key)
    own = {name if is_member_name("x", name) else encode_component(name): name for name in sample.components}
    if len(own) < len(sample.components):  # two become one: they stay apart
        return sample, {}
    return replace(sample, key=key, components={name: sample.components[each] for name, each in own.items()}), own


def built(transform: Transform | TransformSpec | None) -> Transform | None:
    """A transform as it is called.

    Raises:
        ConfigurationError: An operation of it is unknown, or its arguments are wrong; or a dataset has to build it; or
            it is no transform.
    """
    if transform is None or isinstance(transform, SampleTransform | ThroughServer):
        return transform
    if not isinstance(transform, TransformSpec):
        raise ConfigurationError(
            f"transform is a {type(transform).__name__}: it is what `dataset.transform()` gives, a TransformSpec or a "
            "ThroughServer. A function of your own is an operation of a TransformSpec, package.module:callable"
        )
    if type(transform) is not TransformSpec:  # names of components and `max_pixels` stand elsewhere in the file
        raise ConfigurationError(
            "this is a transform as a dataset file declares it: give `dataset.transform(…)` for it"
        )
    return build_transform(transform)


_Named: TypeAlias = Mapping[str, tuple[str, Any]]
"""Components by the names that they are handed over by: the one that tells their format, and the value."""


@cache
def _settle_in_worker() -> None:
    """Let libraries compute in the calling thread, for good, in a process that is one of several at work."""
    from torch.utils.data import get_worker_info

    if get_worker_info() is not None:
        _for_good.enter_context(one_thread_each())


_for_good = ExitStack()


def plain_value(data: bytes, component: str) -> Any:
    """The value of a component that is no image; bytes where its name says nothing of it.

    Raises:
        Rejected: It is not what its name says.
    """
    suffix = component.rpartition(".")[2]
    convert = _VALUES.get(suffix)
    if convert is None:
        return data
    try:
        return convert(data)
    except (ValueError, RecursionError) as error:
        raise Rejected(UNREADABLE_VALUE, f"{component}: {error}") from error


UNREADABLE_VALUE = "unreadable value"
"""Why a sample cannot be prepared, beside what is wrong with its images."""
_VALUES: Mapping[str, Callable[[bytes], Any]] = {
    **dict.fromkeys(("txt", "text", "transcript"), bytes.decode),
    **dict.fromkeys(("cls", "cls2", "index", "inx", "id"), int),
    **dict.fromkeys(("json", "jsn"), json.loads),
}
"""What webdataset, too, makes of components with these suffixes."""
