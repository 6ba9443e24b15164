"""Samples of stored shards, and what was made of each before: the part that stages over them share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import ClassVar, NamedTuple

from typing_extensions import override

from shardmill.errors import Rejected
from shardmill.shards.earlier import Earlier, EarlierReader, Former
from shardmill.shards.fingerprint import sample_fingerprint
from shardmill.shards.parts import Bytes
from shardmill.shards.report import Reject
from shardmill.shards.stored import Rows, StoredShard
from shardmill.stages.lineage import Lineage
from shardmill.stages.stage import Foreseen, Stage
from shardmill.storage import Storage

_TOGETHER = 2048
"""Samples that are looked up together."""


class Fingerprints(NamedTuple):
    """Of what a stage makes of a sample. Empty ones are never looked up."""

    output: str
    """Of the output, as far as it is computed."""
    refusal: str
    """Of a refusal, which may say more of the sample than the output depends on."""


class InputSample(NamedTuple):
    """A sample of a stored shard, as its index describes it."""

    key: str
    rows: Rows
    fingerprints: Fingerprints
    former: Former | None
    """What was made of it before."""

    @property
    def refused(self) -> Rejected | None:
        """Why it was refused before."""
        reject = self.former and self.former.reject
        return Rejected(reject.reason, reject.detail) if reject else None

    def reject(self, why: Rejected, masks: Collection[str] = (), component: str = "") -> Reject:
        """Its reject, which names the raw object of `component`, else that of an image which is no mask."""
        return Reject.of(self.key, why, Lineage(self.rows, masks)(component).uri, self.fingerprints.refusal)


class StoredSamplesStage(Stage[StoredShard]):
    """A stage that makes something of each sample of a stored shard, for itself."""

    goes_by_sample: ClassVar[bool] = True

    @abstractmethod
    def fingerprints(self, computation: str, key: str, rows: Rows) -> Fingerprints:
        """Of what `computation`, that of this stage, makes of the sample with these rows of the index."""

    @override
    def foresee(self, shard: StoredShard, storage: Storage, earlier: Earlier) -> Foreseen:
        reader = EarlierReader(earlier, storage)
        new = sum(sample.former is None for sample in self.look_up(shard.rows(storage), reader))
        return Foreseen(new, new)

    def look_up(self, samples: Iterator[tuple[str, Rows]], reader: EarlierReader) -> Iterator[InputSample]:
        """The samples of a shard, in order, each with what was made of it before. Memory does not grow with them."""
        computation = self.computation()
        while some := list(islice(samples, _TOGETHER)):
            fingerprints = [self.fingerprints(computation, key, rows) for key, rows in some]
            found = reader.find({digest for each in fingerprints for digest in each})
            for (key, rows), each in zip(some, fingerprints, strict=True):
                yield InputSample(key, rows, each, _former(found, each))


def _former(found: Mapping[str, Former], each: Fingerprints) -> Former | None:
    """What stands of a sample. One that was refused or left out counts if the whole of it was equal."""
    refused, made = found.get(each.refusal), found.get(each.output)
    if refused is not None and not refused.rows:
        return refused
    return made if made is not None and made.rows else None


def of_all(computation: str, key: str, rows: Rows) -> Fingerprints:
    """Where everything of the sample counts: its key, and the names and bytes of its components."""
    components = (part for row in rows.values() for part in (row.component, row.sha256))
    digest = sample_fingerprint(computation, key, *components)
    return Fingerprints(digest, digest)


def components_of(names: Iterable[str], found: Iterable[Bytes]) -> dict[str, bytes]:
    """The components with these names, as they were read.

    Raises:
        CorruptionError: One is damaged.
        SupersededError: They are gone.
    """
    components = {}
    for name, data in zip(names, found, strict=True):
        if not isinstance(data, bytes):
            raise data
        components[name] = data
    return components
