"""Lazy shard sets: they say what to make, and leave where and on what to the caller."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, pairwise
from typing import Any

from shardmill.engines.making import MakeShard, PlannedShard
from shardmill.engines.protocol import Engine
from shardmill.errors import ConflictError, SupersededError, TooManyRejectsError
from shardmill.left_out import LeftOut
from shardmill.progress import ProgressMeter, ProgressSink, silent
from shardmill.shards.catalog import Catalog
from shardmill.shards.commit import Commit, ShardEntry, read_commit
from shardmill.shards.earlier import earlier_shards, new_places
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.layout import Layout
from shardmill.shards.reader import ShardSet
from shardmill.shards.rejects import rejects_of
from shardmill.shards.slicing import Order
from shardmill.shards.standing import standing
from shardmill.shards.transaction import publish_commit
from shardmill.stages.stage import InputShard, Stage, shard_fingerprint
from shardmill.storage import Storage
from shardmill.versions import software_versions

_TRIES = 5
"""Commits that are tried of one plan, where files vanish or others commit the same meanwhile."""


@dataclass(frozen=True)
class LazyShardSet:
    """Shards that are described and not yet made."""

    stage: Stage[Any]
    """Resolved."""
    inputs: Sequence[InputShard]
    cut: Mapping[str, Any] = field(default_factory=dict)
    """What decided, beside the inputs, which samples were taken and which go into which shard."""
    order: Order = "hash"
    """What the shards are ordered by."""
    upstream: Mapping[str, ShardSet] = field(default_factory=dict)
    """What it is made of, by asset. If another commit of that stands by then, this one is not committed."""
    base: tuple[Commit | None, str | None] | None = None
    """The commit, and its version, that stood before it was planned; where not given, that before it is written."""
    left_out: LeftOut | None = None
    """Where something was listed for it, what of that belongs to no sample."""
    made: Mapping[str, ShardEntry] = field(default_factory=dict)
    """The shards of it that are made already, together with others' (`make_together`), by fingerprint."""

    @cached_property
    def fingerprints(self) -> list[str]:
        """A digest for each shard, in order, of all that determines its bytes."""
        stage = self.stage.identity()
        return [shard_fingerprint(stage, shard) for shard in self.inputs]

    @property
    def digest(self) -> str:
        """The digest of the whole set, known before anything is made: equal digests, equal shards."""
        return fingerprint(shards=self.fingerprints)

    def write(
        self,
        storage: Storage,
        folder: str,
        name: str,
        engine: Engine,
        max_reject_ratio: float = 1.0,
        progress: ProgressSink = silent,
        keep_seconds: float = 0.0,
    ) -> ShardSet:
        """Make what is not there yet, commit, and remove what is superseded. Returns the committed set.

        `folder` is that of the partition's data, `name` is `<dataset>/<asset>/<partition>`; what is superseded is kept
        for `keep_seconds`. A shard whose fingerprint stands already, committed or left by a run that was killed, is not
        made again. If it raises, the committed state is the one before, or another run's; it is the new one only where
        cleaning up failed.

        Raises:
            TooManyRejectsError: The rejects exceed `max_reject_ratio`.
            EngineError: The stage failed on a shard.
            StorageError: A store cannot do what it is asked for.
            ConflictError: Another run has committed something else meanwhile.
        """
        layout = Layout.at(folder)
        committed, version = self.base or read_commit(storage, layout)
        made: list[ShardEntry] = []
        before = self.made
        for _ in range(_TRIES):
            entries = {**self.standing(storage, folder, committed), **before}
            made += before.values()
            before = {}  # where files vanish, what stands counts
            todo = self.missing(storage, layout, committed, entries)
            if todo:
                storage.check_writable(layout.side)
                storage.check_movable(layout.side, layout.folder)
            meter = ProgressMeter(f"{self.stage.name} {name}", sum(shard.input.samples for shard in todo), progress)
            planned = {shard.id: shard.fingerprint for shard in todo}
            with contextlib.closing(engine.run(MakeShard(self.stage, layout), todo, storage, meter.advance)) as run:
                for entry in run:
                    entries[planned[entry.id]] = entry
                    made.append(entry)
            commit = self.commit_of(name, [entries[digest] for digest in self.fingerprints])
            new = new_places(storage, layout, commit, committed) if self.stage.goes_by_sample else {}
            commit = commit.model_copy(update={"seconds_a_sample": _pace(made, committed)})
            _check_rejects(storage, layout, commit, max_reject_ratio, self.stage.against_rejects)
            if committed is None or not commit.says_the_same_as(committed):
                self._check_that_it_is_of_what_stands()
            try:
                published = publish_commit(storage, layout, commit, committed, version, keep_seconds, self.left_out)
                if published is not None:
                    Catalog.beside(layout, commit.computation).add(storage, new)
                    copied = sum(entry.copied for entry in made)
                    computed = sum(entry.samples_in for entry in made) - copied
                    return ShardSet(storage, layout, published, len(made), computed, copied)
                committed, version = read_commit(storage, layout)
            except ConflictError:
                committed, version = read_commit(storage, layout)
                if committed is None or not commit.says_the_same_as(committed):
                    raise
        raise ConflictError(f"other runs remove what {name} needs faster than it can be committed. Run again")

    def standing(self, storage: Storage, folder: str, committed: Commit | None) -> dict[str, ShardEntry]:
        """Entries of the shards that stand, by fingerprint: their files are there, of the right size."""
        planned = [(shard.id, digest) for shard, digest in zip(self.inputs, self.fingerprints, strict=True)]
        return standing(storage, Layout.at(folder), planned, committed)

    def missing(
        self, storage: Storage, layout: Layout, committed: Commit | None, standing: Container[str]
    ) -> list[PlannedShard]:
        """The shards whose fingerprints are not in `standing`, each with what may hold some of its samples."""
        todo = [pair for pair in zip(self.inputs, self.fingerprints, strict=True) if pair[1] not in standing]
        if not todo or not self.stage.goes_by_sample:
            return [PlannedShard(*pair) for pair in todo]
        catalog = Catalog.beside(layout, self.stage.computation()).opened(storage)
        starts = sorted({shard.start for shard in self.inputs})
        ends = dict(pairwise([*starts, ""]))
        spans = [(shard.start, ends[shard.start]) for shard, _ in todo]
        earlier = earlier_shards(layout, committed, catalog, self.order, spans)
        return [PlannedShard(*pair, each) for pair, each in zip(todo, earlier, strict=True)]

    def _check_that_it_is_of_what_stands(self) -> None:
        """Refuse a plan that was overtaken: it would put an older state in a newer one's place.

        Raises:
            SupersededError: What it was planned of was committed anew since.
        """
        for shards in self.upstream.values():
            now, _ = read_commit(shards.storage, shards.layout)
            if now is None or not now.says_the_same_as(shards.commit):
                raise SupersededError(f"{shards.commit.name} was committed anew since this was planned of it")

    def commit_of(self, name: str, entries: Sequence[ShardEntry]) -> Commit:
        """The commit of these shards, in the order of `inputs`."""
        before = [shards.commit for shards in self.upstream.values()]
        return Commit(
            name=name,
            shardlist=[entry for entry in entries if entry.data is not None],
            emptylist=[entry for entry in entries if entry.data is None],
            order=self.order,
            stage=self.stage.name,
            stage_version=self.stage.version,
            computation=self.stage.computation(),
            suffix=self.stage.suffix,
            parameters=self.stage.parameters(),
            cut=dict(self.cut),
            made_of={asset: shards.commit.digest for asset, shards in self.upstream.items()},
            versions=software_versions(),
            total_samples_in=sum(entry.samples_in for entry in entries),
            total_samples=sum(entry.nsamples for entry in entries),
            total_bytes=sum(entry.filesize for entry in entries),
            total_filtered=sum(entry.filtered for entry in entries),
            total_rejects=sum(entry.total_rejects for entry in entries),
            rejects_by_reason=_added_up(entry.rejects for entry in entries),
            may_pass_before=sum(commit.may_pass + commit.may_pass_before for commit in before),
            listed=self.left_out.listed if self.left_out else 0,
            left_out=self.left_out.by_rule if self.left_out else {},
            left_out_sha256=self.left_out.digest if self.left_out else "",
        )


def _pace(made: Iterable[ShardEntry], before: Commit | None) -> float | None:
    """Seconds a sample of the shards that were computed and not copied for the most part; else those of before."""
    computed = [entry for entry in made if 2 * entry.copied <= entry.samples_in]
    samples = sum(entry.samples_in - entry.copied for entry in computed)
    if samples:
        return sum(entry.seconds for entry in computed) / samples
    return before.seconds_a_sample if before else None


def _added_up(reasons: Iterable[dict[str, int]]) -> dict[str, int]:
    """The most frequent first."""
    total: Counter[str] = Counter()
    for each in reasons:
        total.update(each)
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def _check_rejects(storage: Storage, layout: Layout, commit: Commit, max_reject_ratio: float, mend: str) -> None:
    allowed = max_reject_ratio * max(commit.total_samples_in, 1)
    if commit.total_rejects <= allowed:
        return
    ratio = commit.total_rejects / max(commit.total_samples_in, 1)
    reasons = ", ".join(f"{count} × {reason}" for reason, count in commit.rejects_by_reason.items())
    examples = ""
    with contextlib.suppress(SupersededError):  # removed by another run meanwhile
        examples = "; ".join(f"{r.source_uri}: {r}" for r in islice(rejects_of(storage, layout, commit.shards), 3))
    may_pass = f" {commit.may_pass} of them may pass: run again to have them tried again." if commit.may_pass else ""
    raise TooManyRejectsError(
        f"{commit.name}: {commit.total_rejects} of {commit.total_samples_in} samples ({ratio:.1%}) were rejected, more "
        f"than max_reject_ratio = {max_reject_ratio:.1%}; nothing was committed. {reasons}. For example {examples}."
        f"{may_pass} {mend}, or raise max_reject_ratio",
        final=commit.total_rejects - commit.may_pass > allowed,
    )
