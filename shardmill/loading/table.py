"""Samples at random: a map-style dataset, as `torch.utils.data.DataLoader` takes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch  # noqa: TID253
from torch.utils.data import Dataset  # noqa: TID253

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import ConfigurationError
from shardmill.loading.prepare import Prepare, built
from shardmill.loading.sources import What, check_components, check_lists, open_source
from shardmill.samples import EncodedSample
from shardmill.storage import Storage
from shardmill.tables import true_rows
from shardmill.transforms import SampleTransform, TransformSpec

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc


class _Place(NamedTuple):
    shard: int
    number: int


class SampleTable(Dataset[dict[str, Any]]):
    """The samples of committed partitions, or of tars, by number or key: one ranged read each. Picklable.

        table = SampleTable("s3://ours/pets/webdataset_shards/2026-01", transform=dataset.transform())
        table[17]["jpg"], table["beagle_7"]["cls"], len(table)

    A transform has to make one sample of each. It is pinned to the commits that it began with. `epoch` is that of the
    transform's randomness; workers of a `DataLoader` see it change.
    """

    def __init__(
        self,
        what: What,
        *,
        storage: Storage | None = None,
        components: Sequence[str] | None = None,
        transform: SampleTransform | TransformSpec | None = None,
        columns: Sequence[str] = (),
        filter: pc.Expression | None = None,
        embeddings: What | None = None,
        masks: Sequence[str] = (),
        decode: bool = True,
    ) -> None:
        """The arguments are those of `ShardStream`.

        Raises:
            NothingCommittedError: Nothing is committed in a folder.
            ConfigurationError: What is asked for is not there.
        """
        check_lists(components=components, columns=columns, masks=masks)
        read = components if transform is None else None
        self.source = open_source(what, storage, columns, filter, embeddings, read)
        if transform is None:
            check_components(self.source.shards, [*(components or ()), *masks])
        self._prepare = Prepare(components, built(transform), decode, (*self.source.masks, *masks))
        counts = [shard.samples for shard in self.source.shards]
        if self.source.selected is not None:
            counts = [len(numbers) for numbers in self.source.selected]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._process = os.getpid()
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """Which epoch's random draws the transform makes; 0 to begin with."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __repr__(self) -> str:
        return f"<SampleTable: {len(self):,} samples in {len(self.source.shards):,} shards>"

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, which: int | str) -> dict[str, Any]:
        """The sample with this number, or this key.

        Raises:
            IndexError: There is no such number.
            KeyError: There is no such key.
            Rejected: It cannot be decoded, or the transform refuses it.
            CorruptionError: Its bytes are not those that were committed.
        """
        place = self._place(which)
        return self._prepared(place, self._read(place))

    def __getitems__(self, which: Sequence[int | str]) -> list[dict[str, Any]]:
        """Several, read at the same time: a `DataLoader` asks for each batch so."""
        places = [self._place(each) for each in which]
        read = (
            bounded_map(self._read, places, min(len(places), REQUESTS_AT_ONCE))
            if len(places) > 1
            else map(self._read, places)
        )
        return [self._prepared(place, sample) for place, sample in zip(places, read, strict=True)]

    def _read(self, place: _Place) -> EncodedSample:
        self._check_that_it_is_no_fork(self.source.shards[place.shard].url)
        [(_, sample)] = self.source.shards[place.shard].read([range(place.number, place.number + 1)])
        if not isinstance(sample, EncodedSample):
            raise sample
        return sample

    def _check_that_it_is_no_fork(self, url: str) -> None:
        """The threads of a bucket's client are not in a fork, which would wait for them for ever."""
        if os.getpid() != self._process and not url.startswith("file://"):
            raise ConfigurationError(
                f"{url} cannot be read in a process that was forked: give the DataLoader "
                "multiprocessing_context='spawn', or 'forkserver'"
            )

    def _prepared(self, place: _Place, sample: EncodedSample) -> dict[str, Any]:
        [cells] = self.source.cells(place.shard, [place.number])
        url = self.source.shards[place.shard].url
        try:
            made = self._prepare(sample, cells, self.epoch, url)
        except Exception as error:
            error.add_note(f"It was raised for the sample {sample.key!r} of {url}.")
            raise
        if len(made) != 1:
            raise ConfigurationError(
                f"the transform makes {len(made)} samples of {sample.key}, and a table has one in its place: use "
                "ShardStream"
            )
        return made[0]

    def _place(self, which: int | str) -> _Place:
        row = self._row_of(which) if isinstance(which, str) else int(which)
        if not -len(self) <= row < len(self):
            raise IndexError(f"sample {row} of {len(self)}")
        row %= len(self)
        shard = int(np.searchsorted(self._ends, row, "right"))
        number = row - (int(self._ends[shard - 1]) if shard else 0)
        selected = self.source.selected
        return _Place(shard, number if selected is None else int(selected[shard][number]))

    def _row_of(self, key: str) -> int:
        import pyarrow.compute as pc

        found = true_rows(pc.equal(self.keys, key)).to_pylist()
        if not found:
            raise KeyError(key)
        if len(found) > 1:
            raise ConfigurationError(
                f"{len(found)} samples are called {key!r}: ask by number, {found[0]} or {found[1]}"
            )
        return int(found[0])

    @cached_property
    def keys(self) -> pa.ChunkedArray:
        """The keys of the samples by their numbers, as Arrow's strings."""
        import pyarrow as pa

        found = []
        for number, shard in enumerate(self.source.shards):
            keys = shard.places().keys
            selected = self.source.selected
            found.append(keys if selected is None else keys.take(pa.array(selected[number])))
        return pa.chunked_array(found, pa.string())

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _process=os.getpid())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "keys"}
