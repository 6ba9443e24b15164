"""Transform: a tar shard → a tar shard of the samples that a transform makes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

from typing_extensions import override

from shardmill.images import MAX_PIXELS
from shardmill.samples import EncodedSample
from shardmill.stages.samples import SampleStage
from shardmill.stages.stage import Resources
from shardmill.storage import Storage
from shardmill.transforms import SampleTransform, TransformSpec, build_transform


@dataclass(frozen=True)
class TransformStage(SampleStage):
    """Applies a transform to every sample. An output component descends from the input component of the same name,
    else from the sample's image.
    """

    spec: TransformSpec
    max_pixels: int = MAX_PIXELS
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """What a component that the spec names can be called in a sample, if it is not its name alone."""
    _resolved: dict[str, Any] | None = field(default=None, compare=False)

    name: ClassVar[str] = "transform"
    against_rejects: ClassVar[str] = "Check what the dataset file says of it"
    version: ClassVar[int] = 2
    resources = Resources(memory=1 << 30)

    @property
    @override
    def masks(self) -> Collection[str]:
        return [name for mask in self.spec.masks for name in self.names.get(mask, (mask,))]

    @override
    def parameters(self) -> dict[str, Any]:
        if self._resolved is not None:
            return self._resolved
        return {**self.spec.fingerprint_parameters(), **self._beside}

    @override
    def declared(self) -> dict[str, Any]:
        return {**self.spec.model_dump(mode="json"), **self._beside}

    @property
    def _beside(self) -> dict[str, Any]:
        return {"names": {name: list(each) for name, each in self.names.items()}, "max_pixels": self.max_pixels}

    @override
    def resolve(self, storage: Storage) -> Self:
        build_transform(self.spec, names=self.names)
        return replace(self, _resolved=self.parameters())

    @property
    @override
    def reads_keys(self) -> bool:
        return self._transform.reads_keys

    @override
    def reads(self, component: str) -> bool:
        return self._transform.reads(component)

    @cached_property
    def _transform(self) -> SampleTransform:
        return build_transform(self.spec, max_pixels=self.max_pixels, names=self.names)

    @override
    def process(self, sample: EncodedSample) -> Iterable[EncodedSample]:
        return self._transform(sample)
