"""The commit of a partition: `index.json`, a WebDataset shard index with fields of our own, replaced as a whole."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from itertools import islice
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shardmill.errors import ConfigurationError, CorruptionError
from shardmill.samples import image_format
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.index import Owner
from shardmill.shards.layout import Layout, Suffix, index_name
from shardmill.shards.report import ShardReport
from shardmill.shards.slicing import Order, position
from shardmill.storage import Storage

FORMAT = 2
"""Of everything below a dataset's folder. A change that older readers would take for something else raises it."""

_CHECKSUM = "checksum"


class ShardEntry(BaseModel):
    """One shard of a committed partition. `url`, `nsamples` and `filesize` are WebDataset's names."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    url: str | None
    """Relative to `index.json`; None if no sample was left, so that there is no data file."""
    nsamples: int
    rows: int
    """Of a table; of tars the number of samples."""
    filesize: int
    """Bytes of the data file."""
    id: str
    start: str
    """Where its range of positions begins; `Commit.position` says what they are."""
    fingerprint: str
    sha256: str
    """Of the data file; empty if there is none."""
    index: str
    """The shard's index, relative to `index.json`."""
    index_bytes: int
    index_sha256: str
    samples_in: int
    kept: int
    filtered: int
    rejects: dict[str, int]
    """How many samples were rejected, by reason."""
    may_pass: int
    """How many of these are tried again by the next run."""
    bytes_in: int
    seconds: float
    """Time that the stage took to make the shard."""
    runtime: str = ""
    """What computed the shard, where there is a choice and the run that committed it also made it."""
    copied: int = 0
    """How many of `samples_in` were copied from an earlier commit, if the run that committed the shard also made it."""
    picture: str | None = None
    """A picture of the shard, relative to `index.json`."""
    components: dict[str, int] = {}
    """How many samples have which components, as `ShardReport.components`."""
    objects: int = 0
    """Raw objects in its samples, where it was made of such."""
    rejected_objects: int = 0
    """Raw objects in its rejects."""
    summary: dict[str, float | str] = {}
    """Figures of the stage's own, for people."""

    @property
    def data(self) -> str | None:
        """Name of the data file, if there is one."""
        return None if self.url is None else self.url.rpartition("/")[2]

    @property
    def total_rejects(self) -> int:
        """Number of rejected samples."""
        return sum(self.rejects.values())

    @property
    def files(self) -> list[str]:
        """Names of the shard's files."""
        return [name for name in (self.data, self.picture, self.index) if name is not None]

    @classmethod
    def of(cls, owner: Owner, report: ShardReport, index: bytes, layout: Layout) -> ShardEntry:
        """The entry of a shard, from what its index says and the bytes that this is."""
        return cls(
            url=None if owner.data is None else layout.url(owner.data),
            nsamples=report.samples,
            rows=report.samples if report.rows is None else report.rows,
            filesize=report.bytes,
            id=owner.shard,
            start=owner.start,
            fingerprint=owner.fingerprint,
            sha256=report.sha256,
            index=index_name(owner.shard, owner.fingerprint),
            index_bytes=len(index),
            index_sha256=hashlib.sha256(index).hexdigest(),
            samples_in=report.samples_in,
            kept=report.kept,
            filtered=report.filtered,
            rejects=report.reasons,
            may_pass=len(report.may_pass),
            bytes_in=report.bytes_in,
            seconds=report.seconds,
            runtime=report.runtime,
            copied=report.copied,
            picture=owner.picture,
            components=report.components,
            objects=report.objects,
            rejected_objects=report.rejected_objects,
            summary=report.summary,
        )


class Commit(BaseModel):
    """What `index.json` holds. Shards without samples are listed apart, since readers of `shardlist` expect a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ser_json_inf_nan="strings")

    kind: Literal["wids-shard-index-v1"] = Field("wids-shard-index-v1", alias="__kind__")
    wids_version: Literal[1] = 1
    shardmill_format: int = FORMAT
    name: str
    """`<dataset>/<asset>/<partition>`."""
    shardlist: list[ShardEntry]
    emptylist: list[ShardEntry] = []
    order: Order = "hash"
    """What the shards are ordered by: see `position`."""
    stage: str
    stage_version: int
    computation: str = ""
    """Digest of what the stage does to a sample (`Stage.computation`)."""
    suffix: Suffix
    parameters: dict[str, Any] = {}
    """What the stage was told; part of every fingerprint."""
    cut: dict[str, Any] = {}
    """What decided, beside the inputs, which samples were taken and which went into which shard."""
    made_of: dict[str, str] = {}
    """Asset → digest of the commit of it that this one was made of."""
    versions: dict[str, str] = {}
    """Of the software that made it; for the reader, part of no fingerprint."""
    total_samples_in: int = 0
    total_samples: int = 0
    total_bytes: int = 0
    total_filtered: int = 0
    total_rejects: int = 0
    rejects_by_reason: dict[str, int] = {}
    seconds_a_sample: float | None = None
    """What a sample takes that is not copied: of the shards of this run, else what the commit before says."""
    rejects_sha256: str = ""
    """Of what the rows of `rejects.parquet` say."""
    may_pass_before: int = 0
    """How many rejects of the assets that it was made of are tried again by the next run."""
    listed: int = 0
    """Objects that were found in the source, where that was listed for it."""
    left_out: dict[str, int] = {}
    """How many of them belong to no sample, by the rule that leaves them out. They are no part of the digest."""
    left_out_sha256: str = ""
    """Of what the rows of `left_out.parquet` say; empty where nothing was listed."""
    superseded: list[str] = []
    """Files that the commits before named, and that were there when this one was made: they are being removed."""

    @property
    def shards(self) -> list[ShardEntry]:
        """All shards, those without samples too."""
        return [*self.shardlist, *self.emptylist]

    @property
    def files(self) -> set[str]:
        """Names of all files of all shards."""
        return {name for entry in self.shards for name in entry.files}

    @property
    def may_pass(self) -> int:
        """How many rejects are tried again by the next run."""
        return sum(entry.may_pass for entry in self.shards)

    @property
    def components(self) -> dict[str, int]:
        """How many samples have which components (`cls jpg`), the most frequent first."""
        total = sum((Counter(entry.components) for entry in self.shards), Counter[str]())
        return dict(sorted(total.items(), key=lambda each: (-each[1], each[0])))

    @property
    def warnings(self) -> list[str]:
        """What a person should know who declared how they are made, or reads them with other tools."""
        return [*self._missing_masks(), *self._differing_components()]

    def _missing_masks(self) -> list[str]:
        there = sorted({name for names in self.components for name in names.split()})
        if self.stage != "transform" or not there or "other" in there:
            return []
        names = self.parameters["names"]
        return [
            f"{self.name}: no sample has {mask}, which `masks` names (there are {', '.join(there)}). A label map under "
            "another name is changed like a photograph, labels included"
            for mask in self.parameters["masks"]
            if not {*names.get(mask, (mask,))} & {*there}
        ]

    def _differing_components(self) -> list[str]:
        sets = self.components
        if len(sets) < 2:
            return []
        shown = "; ".join(f"{count:,} have {names}" for names, count in islice(sets.items(), 5))
        formats = {name.rpartition(".")[2] for names in sets for name in names.split() if image_format(name)}
        advice = ". A transform with `format: jpg` writes every image as jpg" if len(formats) > 1 else ""
        return [
            f"{self.name}: samples differ in their components: {shown}{'; …' if len(sets) > 5 else ''}. Readers that "
            f"take their columns from the first samples, such as Hugging Face's, miss the others{advice}"
        ]

    @property
    def is_final(self) -> bool:
        """Whether no sample will be tried again, here or in what it was made of."""
        return not self.may_pass and not self.may_pass_before

    @property
    def digest(self) -> str:
        """Digest over the names and digests of all shards and their indexes: equal digests, equal data and lineage."""
        return fingerprint(shards=[(e.id, e.fingerprint, e.sha256, e.index_sha256) for e in self.shards])

    def says_the_same_as(self, other: Commit) -> bool:
        """Whether the two differ in nothing but times, versions of software, and what they removed."""
        mine, theirs = (
            (c.digest, c.name, c.stage, c.stage_version, c.parameters, c.cut, c.made_of, c.may_pass_before)
            for c in (self, other)
        )
        return mine == theirs and self.left_out_sha256 == other.left_out_sha256

    def position(self, origin: str) -> str:
        """The place of a sample among all, by the key of the packed sample that it descends from.

        Positions are compared as text. A shard holds those from its `start` up to the start of the next one, in
        ascending order.
        """
        return position(origin, self.order)

    def to_json(self) -> bytes:
        """The bytes of `index.json`."""
        content = json.loads(self.model_dump_json(by_alias=True))
        return json.dumps({**content, _CHECKSUM: fingerprint(content=content)}, indent=1).encode()


def read_commit(storage: Storage, layout: Layout) -> tuple[Commit | None, str | None]:
    """The commit of a partition and its version; (None, None) if there is none.

    Raises:
        CorruptionError: It is damaged, or was edited.
        ConfigurationError: It is of another format.
    """
    try:
        data, info = storage.read_version(layout.commit)
    except FileNotFoundError:
        return None, None
    commit = parse_commit(data, layout.commit)
    if not commit.name.endswith(f"/{layout.name}"):
        raise CorruptionError(
            f"{layout.commit} is the commit of {commit.name}, not of {layout.name}: was a folder renamed or exchanged? "
            "Put it back, or delete this file and run again"
        )
    return commit, info.version


def parse_commit(data: bytes, uri: str) -> Commit:
    """The commit in these bytes; errors name `uri`.

    Raises:
        CorruptionError: It is damaged, or was edited.
        ConfigurationError: It is of another format.
    """
    try:
        content = json.loads(data)
        found = content.get("shardmill_format", FORMAT)
        if isinstance(found, int) and found > FORMAT:
            raise ConfigurationError(
                f"{uri} is of format {found}, and this version of Shardmill reads formats up to {FORMAT}: upgrade it"
            )
        if isinstance(found, int) and found < FORMAT:
            raise ConfigurationError(
                f"{uri} is of format {found}, of an early version of Shardmill, and this one reads format {FORMAT}. "
                "Give the dataset another `root`, or delete what it has stored and run again"
            )
        checksum = content.pop(_CHECKSUM)
        if checksum != fingerprint(content=content):
            raise ValueError("its content is not what its checksum says")
        return Commit.model_validate(content)
    except (ValidationError, ValueError, KeyError, AttributeError, RecursionError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise CorruptionError(
            f"{uri} is damaged or was edited. Delete it and run again: shards that stand are found again. {said}"
        ) from error
