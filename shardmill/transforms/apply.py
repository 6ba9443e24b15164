"""Run a spec over samples: decode what an operation sees, apply, encode."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from shardmill.errors import ConfigurationError, Rejected
from shardmill.images import MAX_PIXELS, in_work, shows_as_stored
from shardmill.samples import IMAGE_FORMATS, EncodedSample, image_format
from shardmill.transforms import reasons
from shardmill.transforms.operations import build_step, close_matches, draws_nothing
from shardmill.transforms.picture import as_tensor, is_mask
from shardmill.transforms.sample import DecodedSample, seeded_generator
from shardmill.transforms.spec import TransformSpec
from shardmill.transforms.steps import Step
from shardmill.transforms.values import decode_value, encode_value

if TYPE_CHECKING:
    import torch

Names: TypeAlias = Mapping[str, Sequence[str]]
"""What a component that a spec names can be called in a sample; one that is not in it has that name alone."""
_AS_NAMED: Names = MappingProxyType({})


def build_transform(
    spec: TransformSpec,
    components: Collection[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    names: Names = _AS_NAMED,
) -> "SampleTransform":
    """Check the spec and make it callable.

    Args:
        spec: The operations.
        components: Those that samples have, if known; the spec's names are then checked against them.
        max_pixels: Refuse larger images, stored ones and those that an operation would make.
        names: What the components that the spec names can be called in a sample.

    Raises:
        ConfigurationError: An unknown operation, arguments it does not take, or an unknown component.
    """
    _check_components(spec, components, names)
    transform = SampleTransform(spec, max_pixels, names)
    transform.prepare()
    return transform


class SampleTransform:
    """`EncodedSample -> [EncodedSample]`: one, several, or none where a filter dropped it.

    The result depends on the spec and the sample alone: not on threads, processes, order, or the global
    generator. Components that no operation sees pass byte for byte; so does an image that only custom
    callables saw and gave back as they got it. The others are encoded anew in the format of their suffix, or, with
    `format`, in that one under its suffix.

    It pickles as its spec; its operations are built where it is first called. Threads may share it.
    """

    def __init__(self, spec: TransformSpec, max_pixels: int = MAX_PIXELS, names: Names = _AS_NAMED) -> None:
        self._spec = spec
        self._max_pixels = max_pixels
        self._names = dict(names)
        self._masks = frozenset(_called(spec.masks, names))
        self._seen = _union([operation.components for operation in spec.operations], names)
        self._rewritten = _union([each.components for each in spec.operations if not each.is_custom], names)
        self.has_custom = any(operation.is_custom for operation in spec.operations)
        """Whether callables of the user's own run: they alone may make none or several of a sample."""
        self.reads_keys = not all(draws_nothing(operation) for operation in spec.operations)
        """Whether the result depends on the key: randomness does, and a callable of the user's own may."""
        self._steps: list[Step] | None = None
        self._lock = threading.Lock()

    def reads(self, component: str) -> bool:
        """Whether the result depends on this component; if not, it passes byte for byte."""
        if self.has_custom or (self._spec.format is not None and image_format(component) is not None):
            return True
        return image_format(component) is not None and (self._seen is None or component in self._seen)

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleTransform, (self._spec, self._max_pixels, self._names)

    def prepare(self) -> list[Step]:
        """Build the operations, once; a first call does it too.

        Raises:
            ConfigurationError: As `build_transform`.
        """
        with self._lock:
            if self._steps is None:
                self._steps = [self._step(number) for number in range(len(self._spec.operations))]
            return self._steps

    def _step(self, number: int) -> Step:
        try:
            return build_step(self._spec.operations[number], self._masks, self._names, self._max_pixels)
        except ConfigurationError as error:
            raise ConfigurationError(f"operations.{number}: {error}") from error

    def __call__(self, sample: EncodedSample, epoch: int | None = None) -> list[EncodedSample]:
        """Transform one sample, by default for the epoch of the spec.

        Raises:
            Rejected: An image cannot be decoded, or an operation failed on this sample or would make too large an
                image of it.
            ConfigurationError: What an operation gave cannot be a sample, whatever the input.
        """
        with in_work:
            return [made.encoded() for made in self.apply(sample, epoch)]

    def apply(self, sample: EncodedSample, epoch: int | None = None) -> list["TransformedSample"]:
        """As a call, but nothing is encoded yet."""
        with in_work:
            return self._apply(sample, self._spec.epoch if epoch is None else epoch)

    def _apply(self, sample: EncodedSample, epoch: int) -> list["TransformedSample"]:
        steps = self.prepare()
        decoded = {
            name: decode_value(data, name, name in self._masks, self._max_pixels, sample.is_checked)
            for name, data in sample.components.items()
            if image_format(name) is not None and (self._seen is None or name in self._seen)
        }
        if self.has_custom:
            decoded = {name: as_tensor(value) for name, value in decoded.items()}
        untouched = {id(value): (name, getattr(value, "_version", None)) for name, value in decoded.items()}
        generator = self._generator(sample.key, epoch)
        results = [DecodedSample(sample.key, {**sample.components, **decoded}, generator)]
        for step in steps:
            results = [made for each in results for made in step(each)]
        _check_keys(sample.key, results)

        def encode(name: str, value: Any, written: str) -> bytes:
            if isinstance(value, bytes) and (name == written and not self._normalises(name, value)):
                return value
            if isinstance(value, bytes):
                value = decode_value(value, name, False, self._max_pixels)
            as_given = untouched.get(id(value)) == (name, getattr(value, "_version", None))
            if as_given and name == written and not (self._rewritten is None or name in self._rewritten):
                return sample.components[name]
            return encode_value(value, written, self._is_mask(name, value), self._spec.jpeg_quality)

        return [
            TransformedSample(result.key, result.components, self._written_as(result), encode) for result in results
        ]

    def value(self, component: str, value: Any) -> Any:
        """What an operation would see of a component: an image or a mask decoded, as a tensor; all else as it is.

        Raises:
            Rejected: It cannot be decoded.
        """
        if isinstance(value, bytes) and image_format(component) is not None:
            value = decode_value(value, component, component in self._masks, self._max_pixels)
        return as_tensor(value)

    def _generator(self, key: str, epoch: int) -> "torch.Generator":
        """Seeded for a sample; one for all where none is used."""
        if self.reads_keys:
            return seeded_generator(self._spec.seed, key, epoch)
        return _unused_generator()

    def _written_as(self, sample: DecodedSample) -> dict[str, str]:
        """Component → its name in the output.

        Raises:
            Rejected: Two images would have one name.
        """
        wanted = self._spec.format
        names = {name: name for name in sample.components}
        if wanted is None:
            return names
        for name, value in sample.components.items():
            if image_format(name) not in (None, IMAGE_FORMATS[wanted]) and not self._is_mask(name, value):
                names[name] = name[: len(name) - len(name.rpartition(".")[2])] + wanted
        if len(set(names.values())) < len(names):
            twice = next(name for name in names if list(names.values()).count(names[name]) > 1)
            both = " and ".join(name for name in names if names[name] == names[twice])
            raise Rejected(reasons.DUPLICATE_COMPONENT, f"{both} would both be {names[twice]}")
        return names

    def _normalises(self, name: str, data: bytes) -> bool:
        """Whether an image that no operation saw is written anew: in other colours than sRGB, or turned by a tag."""
        if self._spec.format is None or image_format(name) is None or name in self._masks:
            return False
        return not shows_as_stored(data, name, self._max_pixels)

    def _is_mask(self, name: str, value: Any) -> bool:
        return name in self._masks or is_mask(value)


@dataclass(frozen=True)
class TransformedSample:
    """What a transform made of a sample, or one of several, before it is encoded."""

    key: str
    components: Mapping[str, Any]
    """Name → what an operation made, or the bytes that none saw."""
    names: Mapping[str, str]
    """Name → what the component is called in the output."""
    _encode: Callable[[str, Any, str], bytes]

    def encoded(self) -> EncodedSample:
        """As it is stored.

        Raises:
            Rejected: A value cannot be encoded, for this sample.
            ConfigurationError: It cannot, whatever the input.
        """
        components = {
            self.names[name]: self._encode(name, value, self.names[name]) for name, value in self.components.items()
        }
        return EncodedSample(self.key, components)


@cache
def _unused_generator() -> "torch.Generator":
    return seeded_generator()


def _called(components: Iterable[str], names: Names) -> Iterator[str]:
    """All that these components can be called."""
    for component in components:
        yield from names.get(component, (component,))


def _union(groups: list[list[str] | None], names: Names) -> frozenset[str] | None:
    """None stands for every component."""
    union: set[str] = set()
    for group in groups:
        if group is None:
            return None
        union.update(_called(group, names))
    return frozenset(union)


def _check_keys(source: str, results: list[DecodedSample]) -> None:
    keys = set()
    for result in results:
        if not result.key or "." in result.key.rpartition("/")[2]:
            raise ConfigurationError(
                f"a transform made the key {result.key!r} of {source!r}: no dot after the last slash"
            )
        if result.key in keys:
            raise ConfigurationError(
                f"a transform made two samples {result.key!r} of {source!r}: name them apart by sample.child(name, …)"
            )
        if not result.components:
            raise ConfigurationError(
                f"a transform left {result.key!r} without components; return None to drop a sample"
            )
        keys.add(result.key)


def _check_components(spec: TransformSpec, known: Collection[str] | None, names: Names) -> None:
    for name in _called(spec.masks, names):
        _check_component(name, known, "masks")
        if image_format(name) not in ("PNG", "TIFF"):
            raise ConfigurationError(f"masks: {name!r} would change its labels; a mask is stored as png or tiff")
    for operation in spec.operations:
        for name in _called(operation.components or [], names):
            _check_component(name, known, operation.operation)
        if operation.is_custom:
            known = None  # it may add components


def _check_component(name: str, known: Collection[str] | None, where: str) -> None:
    if known is not None and name not in known:
        raise ConfigurationError(
            f"{where}: no component {name!r}{close_matches(name, known)} (samples have {', '.join(sorted(known))})"
        )
    if image_format(name) is None:
        raise ConfigurationError(
            f"{where}: {name!r} is not an image; an operation sees components that end in {', '.join(IMAGE_FORMATS)}"
        )
