"""Shard sets: committed ones, and lazy ones, which say what to make and leave where and on what to the caller."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, BinaryIO

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.devices import GPUSpec
from shardmill.embedders import EmbedderSpec
from shardmill.errors import ConflictError, CorruptionError, TooManyRejectsError
from shardmill.images import MAX_PIXELS
from shardmill.progress import ProgressMeter, ProgressSink, silent
from shardmill.shards.commit import (
    Commit,
    ShardEntry,
    count_reasons,
    file_names,
    file_sizes,
    publish_commit,
    read_commit,
    rejects_of,
)
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.layout import Layout, Suffix
from shardmill.shards.report import Reject
from shardmill.shards.slicing import slice_by_hash, slice_by_key
from shardmill.shards.spec import ShardSpec
from shardmill.shards.ustar import stored_size
from shardmill.sources.manifest import Manifest
from shardmill.stages.embed import EmbedStage
from shardmill.stages.engine import Engine
from shardmill.stages.pack import PackStage, RawShard
from shardmill.stages.stage import InputShard, MakeShard, PlannedShard, Stage, left_behind, shard_fingerprint
from shardmill.stages.stored import StoredShard
from shardmill.stages.transform import TransformStage
from shardmill.storage import Storage, join_uri, relative_to
from shardmill.transforms import TransformSpec
from shardmill.versions import software_versions


@dataclass(frozen=True)
class ShardSet:
    """A committed partition of shards."""

    storage: Storage
    folder: str
    """URI of the partition's folder."""
    commit: Commit
    made: int = 0
    """Shards that the write which returned this set had to make; the others stood already."""

    @classmethod
    def open(cls, storage: Storage, folder: str, suffix: Suffix) -> ShardSet:
        """The committed shards in `folder`. Raises FileNotFoundError if nothing is committed there."""
        commit, _ = read_commit(storage, folder, suffix)
        if commit is None:
            raise FileNotFoundError(f"nothing is committed in {folder}: materialize it first")
        return cls(storage, folder, commit)

    @property
    def shards(self) -> list[StoredShard]:
        """The shards that hold samples, in the order of the index."""
        return [StoredShard(self.folder, entry) for entry in self.commit.shardlist]

    @property
    def urls(self) -> list[str]:
        """URIs of the data files, in the order of the index."""
        layout = Layout(self.commit.suffix)
        return [join_uri(self.folder, layout.data(entry.id, entry.fingerprint)) for entry in self.commit.shardlist]

    def rejects(self) -> Iterator[Reject]:
        """Every reject of the partition, from the shards' own reports."""
        return rejects_of(self.storage, self.folder, self.commit.suffix, self.commit.shards)

    def transform(self, spec: TransformSpec, max_pixels: int = MAX_PIXELS) -> LazyShardSet:
        """These shards after a transform, shard by shard."""
        return LazyShardSet(TransformStage(spec, max_pixels), self.shards)

    def embed(
        self,
        spec: EmbedderSpec,
        masks: Sequence[str] = (),
        max_pixels: int = MAX_PIXELS,
        devices: GPUSpec | None = None,
    ) -> LazyShardSet:
        """The embeddings of these shards, a part a shard. `masks` are components that are never embedded.

        `devices` says how many CUDA devices to use where the runtime is CUDA, and which will do; by default any one.
        """
        stage = EmbedStage(spec, tuple(masks), max_pixels, self.storage, devices or GPUSpec())
        return LazyShardSet(stage, self.shards)

    def open_table(self, entry: ShardEntry) -> BinaryIO:
        """A part of a table, its bytes verified. Raises CorruptionError if they are not what was committed."""
        uri = join_uri(self.folder, Layout(self.commit.suffix).data(entry.id, entry.fingerprint))
        try:
            stream, _ = self.storage.open(uri)
        except FileNotFoundError:
            raise CorruptionError(f"{uri} is gone, and index.json names it: materialize again") from None
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
        if digest.hexdigest() != entry.sha256:
            stream.close()
            raise CorruptionError(
                f"{uri} is not what index.json says: its SHA-256 differs. Delete it and materialize again"
            )
        stream.seek(0)
        return stream


def pack(manifest: Manifest, spec: ShardSpec, stage: PackStage, made_from: str = "") -> LazyShardSet:
    """The samples of a manifest, packed into shards. `made_from` is for the commit."""
    groups = [tuple(group) for _, group in manifest.by_key()]
    keys = [group[0].key for group in groups]
    sizes = [sum(stored_size(item.size) for item in group) for group in groups]
    slice_up = slice_by_hash if spec.order == "hash" else slice_by_key
    slices = slice_up(keys, sizes, spec.max_samples, spec.max_bytes)
    shards = [RawShard(piece.id, tuple(groups[i] for i in piece.members)) for piece in slices]
    return LazyShardSet(stage, shards, made_from)


@dataclass(frozen=True)
class LazyShardSet:
    """Shards that are described and not yet made."""

    stage: Stage[Any]
    inputs: Sequence[InputShard]
    made_from: str = ""
    """See `Commit`."""
    samples: int = field(init=False)
    """Samples that go in."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", sum(shard.samples for shard in self.inputs))

    @cached_property
    def fingerprints(self) -> list[str]:
        """Of each shard, in order: digests of all that determines its bytes."""
        return [shard_fingerprint(self.stage, shard) for shard in self.inputs]

    @property
    def digest(self) -> str:
        """Of the whole set, known before anything is made: equal digests, equal shards."""
        return fingerprint(shards=self.fingerprints)

    def write(
        self,
        storage: Storage,
        folder: str,
        name: str,
        engine: Engine,
        max_reject_ratio: float = 1.0,
        progress: ProgressSink = silent,
    ) -> ShardSet:
        """Make what is not there yet, commit, and remove what is superseded. Returns the committed set.

        `folder` is the partition's, `name` is `<dataset>/<asset>/<partition>`. A shard whose fingerprint stands in
        the folder already, committed or left by a run that was killed, is not made again. Raises TooManyRejectsError,
        ConflictError, EngineError, StorageError; the committed state is then the one before.
        """
        committed, version = read_commit(storage, folder, self.stage.suffix)
        made = 0
        entries = self.standing(storage, folder, committed)
        if not storage.excludes(folder):
            self._claim(storage, folder, entries, committed)
        while True:
            todo = [
                PlannedShard(shard, digest)
                for shard, digest in zip(self.inputs, self.fingerprints, strict=True)
                if digest not in entries
            ]
            meter = ProgressMeter(f"{self.stage.name} {name}", sum(shard.input.samples for shard in todo), progress)
            make = MakeShard(self.stage, folder)
            if todo:
                storage.check_writable(folder)
            for entry in engine.run(make, todo, storage, meter.advance):
                entries[entry.fingerprint] = entry
                made += 1
            ordered = [entries[digest] for digest in self.fingerprints]
            try:
                rejects = list(rejects_of(storage, folder, self.stage.suffix, ordered))
            except FileNotFoundError:  # removed by the clean-up of another run
                entries = self.standing(storage, folder, committed)
                continue
            result = ShardSet(storage, folder, self._commit(name, ordered, count_reasons(iter(rejects))), made)
            _check_rejects(result.commit, rejects, max_reject_ratio)
            missing = publish_commit(storage, folder, result.commit, partial(iter, rejects), version, committed)
            if not missing and self._is_left_whole(result, committed):
                return result
            if not missing:  # the clean-up of a run that ended meanwhile took what we had found standing
                again = self.write(storage, folder, name, engine, max_reject_ratio, progress)
                return replace(again, made=made + again.made)
            layout = Layout(self.stage.suffix)
            gone = [digest for digest, entry in entries.items() if set(file_names(entry, layout)) & set(missing)]
            for digest in gone:
                del entries[digest]

    def standing(self, storage: Storage, folder: str, committed: Commit | None) -> dict[str, ShardEntry]:
        """Entries of the shards that stand in the folder, by fingerprint: their files are there, of the right size."""
        layout = Layout(self.stage.suffix)
        sizes = {relative_to(folder, info.uri): info.size for info in storage.list(folder)}
        known = {entry.fingerprint: entry for entry in committed.shards} if committed else {}
        indexed = [
            (shard.id, digest)
            for shard, digest in zip(self.inputs, self.fingerprints, strict=True)
            if layout.index(shard.id, digest) in sizes
        ]

        def find(shard: tuple[str, str]) -> ShardEntry | None:
            return known.get(shard[1]) or left_behind(storage, folder, *shard, layout)

        standing: dict[str, ShardEntry] = {}
        for (_, digest), entry in zip(indexed, bounded_map(find, indexed, REQUESTS_AT_ONCE), strict=True):
            if entry is None or not sizes.keys() >= set(file_names(entry, layout)):
                continue
            if all(sizes[file] == size for file, size in file_sizes(entry, layout).items()):
                standing[digest] = entry
        return standing

    def _claim(self, storage: Storage, folder: str, entries: dict[str, ShardEntry], committed: Commit | None) -> None:
        """Write the indexes of shards that no commit names anew: `gc` spares what is young, and may be at work.

        A shard whose index is gone, or somebody else's by now, is left out of `entries`.
        """
        layout = Layout(self.stage.suffix)
        known = {entry.fingerprint for entry in committed.shards} if committed else set()
        adopted = [entry for digest, entry in entries.items() if digest not in known]

        def renew(entry: ShardEntry) -> bool:
            uri = join_uri(folder, layout.index(entry.id, entry.fingerprint))
            try:
                data, info = storage.read_version(uri)
                storage.replace(uri, data, info.version)
            except ConflictError:  # renewed by another run, or made anew
                return True
            except FileNotFoundError:
                return False
            return True

        for entry, stands in zip(adopted, bounded_map(renew, adopted, REQUESTS_AT_ONCE), strict=True):
            if not stands:
                del entries[entry.fingerprint]

    def _is_left_whole(self, result: ShardSet, before: Commit | None) -> bool:
        """Whether all that was just committed stands, where nobody could be kept out; or another commit supersedes it.

        `before` is the commit that this one followed.
        """
        if result.storage.excludes(result.folder) or (before and result.commit.says_the_same_as(before)):
            return True
        layout = Layout(self.stage.suffix)
        standing = {relative_to(result.folder, info.uri) for info in result.storage.list(result.folder)}
        if all(standing >= set(file_names(entry, layout)) for entry in result.commit.shards):
            return True
        now, _ = read_commit(result.storage, result.folder, self.stage.suffix)
        return now is None or not result.commit.says_the_same_as(now)

    def _commit(self, name: str, entries: list[ShardEntry], reasons: dict[str, int]) -> Commit:
        return Commit(
            name=name,
            shardlist=[entry for entry in entries if entry.url is not None],
            emptylist=[entry for entry in entries if entry.url is None],
            stage=self.stage.name,
            stage_version=self.stage.version,
            suffix=self.stage.suffix,
            parameters=self.stage.parameters(),
            made_from=self.made_from,
            versions=software_versions(),
            total_samples_in=sum(entry.samples_in for entry in entries),
            total_samples=sum(entry.nsamples for entry in entries),
            total_bytes=sum(entry.filesize for entry in entries),
            total_filtered=sum(entry.filtered for entry in entries),
            total_rejects=sum(entry.rejects for entry in entries),
            rejects_by_reason=reasons,
        )


def _check_rejects(commit: Commit, rejects: Sequence[Reject], max_reject_ratio: float) -> None:
    ratio = commit.total_rejects / max(commit.total_samples_in, 1)
    if ratio <= max_reject_ratio:
        return
    reasons = ", ".join(f"{count} × {reason}" for reason, count in commit.rejects_by_reason.items())
    examples = "; ".join(f"{r.source_uri}: {r}" for r in rejects[:3])
    advice = "Mend or remove these objects" if commit.stage == "pack" else "Check what the dataset file says of it"
    raise TooManyRejectsError(
        f"{commit.name}: {commit.total_rejects} of {commit.total_samples_in} samples ({ratio:.1%}) were rejected, more "
        f"than max_reject_ratio = {max_reject_ratio:.1%}; nothing was committed. {reasons}. For example {examples}. "
        f"{advice}, or raise max_reject_ratio"
    )
