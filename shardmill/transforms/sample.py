"""A sample between decoding and encoding: what operations and custom callables work on."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DecodedSample:
    """A sample with its images decoded.

    Don't change a tensor in place: make a new one.

    Attributes:
        key: As in the shard; no dot after the last slash.
        components: Name → `tv_tensors.Image` uint8 [3, height, width], `tv_tensors.Mask` [height, width]
            (uint8, or int32 for a 16-bit one), or the bytes of what is not an image. A callable may also put
            in str, an int, or for `json` any JSON value.
        generator: Seeded for the spec's seed, the key and the epoch. torch's own random functions draw from
            it too.
    """

    key: str
    components: Mapping[str, Any]
    generator: "torch.Generator"

    def replace(self, components: Mapping[str, Any]) -> "DecodedSample":
        """The sample with these components and no others."""
        return dataclasses.replace(self, components=components)

    def child(self, name: str, components: Mapping[str, Any]) -> "DecodedSample":
        """A sample made from this one, keyed `<key>~<name>`: no raw object has a key with `~`.

        Its generator depends on the parent's seed and its own key, not on its siblings.

        Raises:
            ValueError: A dot or slash in the name, or no name.
        """
        if not name or "." in name or "/" in name:
            raise ValueError(f"a child's name is part of its key: no dot, no slash, not empty; got {name!r}")
        key = f"{self.key}~{name}"
        return DecodedSample(key, components, seeded_generator(self.generator.initial_seed(), key))


def seeded_generator(*parts: int | str) -> "torch.Generator":
    """A generator whose seed is a hash of the parts: the same on every machine, in every process."""
    import torch

    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
