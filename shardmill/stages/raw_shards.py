"""Raw shards: the samples of a manifest, cut into what is packed into a shard each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardmill.samples import image_format
from shardmill.shards.slicing import slice_by_hash, slice_by_key
from shardmill.shards.spec import ShardSpec
from shardmill.shards.ustar import stored_size
from shardmill.sources.manifest import Manifest, RawObject


@dataclass(frozen=True, eq=False)
class RawShard:
    """The raw objects of one shard's samples."""

    id: str
    start: str
    listed: Manifest
    """What they are objects of."""
    images: bool = False
    """Whether a sample without an image is rejected: something that is made of the shards reads one."""
    rows: NDArray[np.int64] | None = None
    """Their numbers, in the order in which the samples stand in the shard; None for all as they stand."""

    @property
    def manifest(self) -> Manifest:
        """The objects, in the order in which the samples stand in the shard.

        Made anew each time: a plan has many shards of which nobody asks for them.
        """
        return self._with(*RawObject._fields)

    @cached_property
    def samples(self) -> int:
        """Number of samples."""
        return self._with("key").samples

    @cached_property
    def size(self) -> int:
        """Size of the objects."""
        return self._with("size").bytes

    @property
    def groups(self) -> tuple[tuple[RawObject, ...], ...]:
        """The objects of each sample, made anew each time."""
        return tuple(group for _, group in self.manifest.by_key())

    def identity(self) -> Any:
        """What every object is, but for its time. Whether images are needed counts where a sample has none."""
        manifest = self.manifest
        needs = ["images"] if self.images and _lacks_an_image(manifest) else []
        return [manifest.digest_of_samples, *needs]

    def _with(self, *fields: str) -> Manifest:
        return self.listed if self.rows is None else self.listed.part(self.rows, fields)

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels without the objects of other shards."""
        return RawShard, (self.id, self.start, self.manifest, self.images)


def _lacks_an_image(manifest: Manifest) -> bool:
    pictured = {key for key, component in manifest.rows("key", "component") if image_format(component)}
    return len(pictured) < manifest.samples


def pack(manifest: Manifest, spec: ShardSpec, images: bool = False) -> list[RawShard]:
    """The samples of a manifest, cut into shards; `images` is that of each `RawShard`."""
    starts = manifest.starts
    ends = np.append(starts[1:], manifest.objects)
    keys = manifest.table["key"].take(starts).combine_chunks()
    sizes = np.add.reduceat(stored_size(manifest.table["size"].to_numpy()), starts)
    slice_up = slice_by_hash if spec.order == "hash" else slice_by_key
    slices = slice_up(keys, sizes, spec.max_samples, spec.max_bytes)
    return [RawShard(piece.id, piece.start, manifest, images, _rows(starts, ends, piece.members)) for piece in slices]


def _rows(starts: NDArray[np.int64], ends: NDArray[np.int64], members: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of the objects of these samples, sample by sample."""
    counts = ends[members] - starts[members]
    before = np.cumsum(counts) - counts
    return np.repeat(starts[members] - before, counts) + np.arange(counts.sum())
