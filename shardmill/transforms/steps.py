"""Operations as they run: `DecodedSample -> [DecodedSample]`."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from shardmill.errors import ConfigurationError, Rejected, ShardmillError
from shardmill.importing import EndedError, as_an_error
from shardmill.memory import lacks_memory
from shardmill.samples import image_format
from shardmill.torchvision_compat import import_torchvision
from shardmill.transforms import reasons
from shardmill.transforms.picture import Picture, as_tensor, is_mask, size_of
from shardmill.transforms.sample import DecodedSample

Step = Callable[[DecodedSample], list[DecodedSample]]


class NamedStep:
    """An operation of torchvision's.

    Args:
        name: As the spec has it.
        operation: The object of torchvision's.
        called: The components that it sees, each with what it can be called; None stands for all images.
        max_pixels: Of an image that it may make.
    """

    def __init__(self, name: str, operation: Any, called: Mapping[str, Sequence[str]] | None, max_pixels: int) -> None:
        from shardmill.transforms.bounds import PixelBounds
        from shardmill.transforms.kernels import kernel_of

        self._name = name
        self._operation = operation
        self._kernel = kernel_of(operation)
        self._called = called
        self._max_pixels = max_pixels
        self._bounds = PixelBounds(name, max_pixels)

    def __call__(self, sample: DecodedSample) -> list[DecodedSample]:
        """The sample with what the operation makes of its images.

        Raises:
            Rejected: A component is missing, sizes differ, or the operation fails on it.
        """
        seen = self._seen(sample)
        if not seen:
            return [sample]
        sizes = {name: size_of(value) for name, value in seen.items()}
        differ = len(set(sizes.values())) > 1
        if differ and any(is_mask(value) for value in seen.values()):
            raise self._differ(sizes)
        try:
            changed = self._changed(seen, sample)
        except ShardmillError:
            raise
        except Exception as error:
            _pass_on_lack_of_memory(error, self._name, sample)
            if differ:
                raise self._differ(sizes) from error
            raise Rejected(reasons.TRANSFORM_FAILED, f"{self._name}: {type(error).__name__}: {error}") from error
        return [sample.replace({**sample.components, **changed})]

    def _seen(self, sample: DecodedSample) -> dict[str, Any]:
        if self._called is None:
            return {name: value for name, value in sorted(sample.components.items()) if _is_decoded(value)}
        seen: dict[str, Any] = {}
        for component, names in self._called.items():
            found = {each: sample.components[each] for each in names if each in sample.components}
            if not found:
                present = ", ".join(sorted(sample.components))
                raise Rejected(reasons.MISSING_COMPONENT, f"{self._name} needs {component}; the sample has {present}")
            seen |= found
        return seen

    def _changed(self, seen: dict[str, Any], sample: DecodedSample) -> dict[str, Any]:
        if self._kernel is not None:
            made = self._kernel(self._operation, list(seen.values()), sample.generator, self._max_pixels)
            if made is not None:
                return dict(zip(seen, made, strict=True))
        from shardmill.transforms.randomness import SeededRandomness

        tensors = {name: as_tensor(value) for name, value in seen.items()}
        with SeededRandomness(sample.generator, self._bounds.check):
            changed: dict[str, Any] = self._operation(tensors)
        for value in changed.values():
            self._bounds.check_result(value)
        return changed

    def _differ(self, sizes: Mapping[str, tuple[int, int]]) -> Rejected:
        told = ", ".join(f"{name} {width} x {height}" for name, (height, width) in sizes.items())
        return Rejected(reasons.SIZES_DIFFER, f"{self._name} sees {told} together")


class CustomStep:
    """A callable of the user's own, which gets tensors; `name` is its import path."""

    def __init__(
        self, name: str, function: Callable[[DecodedSample], Any], masks: Collection[str], max_pixels: int
    ) -> None:
        from shardmill.transforms.bounds import PixelBounds

        self._name = name
        self._function = function
        self._masks = masks
        self._bounds = PixelBounds(name, max_pixels)

    def __call__(self, sample: DecodedSample) -> list[DecodedSample]:
        """What the callable makes of it.

        Raises:
            Rejected: It fails on this sample, or refuses it.
            ConfigurationError: It gives what is no sample.
        """
        from shardmill.transforms.randomness import SeededRandomness

        sample = sample.replace({name: as_tensor(value) for name, value in sample.components.items()})
        try:
            with SeededRandomness(sample.generator, self._bounds.check), as_an_error(f"the callable {self._name}"):
                made = self._function(sample)
                if not (made is None or isinstance(made, DecodedSample | Iterable)):
                    raise ConfigurationError(_gave(self._name, made))
                results = [made] if isinstance(made, DecodedSample) else list(made if made is not None else ())
        except ShardmillError:
            raise
        except EndedError as error:
            raise ConfigurationError(f"{error} on {sample.key}: raise shardmill.Rejected to refuse a sample") from error
        except Exception as error:
            _pass_on_lack_of_memory(error, self._name, sample)
            raise Rejected(reasons.TRANSFORM_FAILED, f"{self._name}: {type(error).__name__}: {error}") from error
        for result in results:
            if not isinstance(result, DecodedSample):
                raise ConfigurationError(_gave(self._name, result))
            for value in result.components.values():
                self._bounds.check_result(value)
        return [_typed(result, self._masks) for result in results]


def _is_decoded(value: Any) -> bool:
    import torch

    return isinstance(value, Picture | torch.Tensor)


def _gave(name: str, made: Any) -> str:
    if inspect.iscoroutine(made):
        made.close()
    return f"{name} gave a {type(made).__name__}; return a DecodedSample, several, or None"


def _pass_on_lack_of_memory(error: Exception, name: str, sample: DecodedSample) -> None:
    if lacks_memory(error):
        raise MemoryError(f"{name} on {sample.key}: {error}") from error


def _typed(sample: DecodedSample, masks: Collection[str]) -> DecodedSample:
    """Turn plain tensors that a callable made into what torchvision's operations know: images and masks."""
    import torch

    tv_tensors = import_torchvision().tv_tensors
    plain = {name: value for name, value in sample.components.items() if type(value) is torch.Tensor}
    if not plain:
        return sample
    typed = {
        name: (tv_tensors.Mask if name in masks or value.ndim == 2 else tv_tensors.Image)(value)
        for name, value in plain.items()
        if image_format(name) is not None
    }
    return sample.replace({**sample.components, **typed})
