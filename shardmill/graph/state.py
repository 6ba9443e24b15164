"""The state of partitions: what stands, what a run would make, and why."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from shardmill.dataset import Dataset
from shardmill.errors import ConfigurationError, CorruptionError, SupersededError
from shardmill.graph.asset import Asset, Cut, Inputs
from shardmill.graph.lazy_shard_set import LazyShardSet
from shardmill.graph.planner import Planner
from shardmill.progress import ProgressSink, silent
from shardmill.shards.commit import Commit, ShardEntry
from shardmill.shards.layout import data_name, index_name
from shardmill.shards.reader import ShardSet
from shardmill.shards.stored import StoredShard
from shardmill.stages.stage import Foreseen, InputShard, Stage

State = Literal["missing", "stale", "up to date"]
_FORESEEN = "of "
"""Begins the digests of what is not made yet."""
_SHOWN = 60
"""Characters of a value that a reason quotes."""


@dataclass(frozen=True)
class AssetState:
    """Where an asset's partition stands, and what a run would do about it."""

    asset: str
    partition: str
    state: State
    why: tuple[str, ...] = ()
    """Why it is not up to date, a phrase each."""
    commit: Commit | None = None
    """What stands."""
    shards: int = 0
    """Shards that there will be."""
    to_make: int = 0
    """Those of them that are not there."""
    samples: int = 0
    """Samples that go into these, at most: those that an asset before rejects do not arrive."""
    to_compute: int = 0
    """Those of them that are computed: the others are copied from what stands. An estimate where what it is made of is
    to be made first: what changes there is taken for new here.
    """
    bytes: int = 0
    """Bytes that are read for them."""
    listed: int = 0
    """Objects that the source holds of it, where that is listed for it."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many of them belong to no sample, by rule."""
    seconds: float | None = None
    """Time that computing takes, one shard after the other, at the rate of the last time; None where none is known."""


def states(dataset: Dataset | Planner, partition: str, progress: ProgressSink = silent) -> Iterator[AssetState]:
    """The state of each asset of a partition against the source as it is now, in the graph's order.

    Lists the source, makes nothing. What is made of something that is to be made itself is foreseen: a shard that
    changes gives one that changes, and one that was lost comes out as it was.
    """
    planner = dataset if isinstance(dataset, Planner) else Planner(dataset)
    sets: dict[str, ShardSet] = {}
    planned: dict[str, LazyShardSet] = {}
    foreseen: dict[str, Mapping[str, Foreseen]] = {}
    stood: dict[str, str] = {}
    for asset in planner.graph:
        place = asset.place(partition)
        present = planner.dataset.stored(asset.name, place)
        lazy = planner.plan(asset, partition, sets, planned, progress)
        standing = lazy.standing(
            planner.dataset.storage, planner.dataset.folder(asset.name, place), present.commit if present else None
        )
        commit = present.commit if present else None
        is_in_step = commit is not None and _is_in_step(commit, lazy, stood)
        before = foreseen.get(asset.inputs[0], {}) if is_in_step and asset.inputs else {}
        foreseen[asset.name] = _what_becomes(planner.dataset, asset, place, commit, lazy, standing, before)
        if commit is not None:
            stood[asset.name] = commit.digest
        state = _state(
            planner, asset, place, present, lazy, standing, sum(each.computed for each in foreseen[asset.name].values())
        )
        if present is not None and state.state == "up to date":
            sets[asset.name] = present
        else:
            sets[asset.name] = _foreseen(planner.dataset, asset, place, present, lazy, standing)
            planned[asset.name] = lazy
        del lazy  # it may hold the manifest, while the next asset's is read
        yield state


def is_stale(dataset: Dataset | Planner, partition: str) -> bool:
    """Whether an asset of a partition is not there, or was made of another state of its inputs or by other rules."""
    return next(why_stale(dataset, partition), None) is not None


def why_stale(dataset: Dataset | Planner, partition: str) -> Iterator[tuple[str, str]]:
    """(asset, reason) for each that is not up to date, as far as what is committed tells.

    Reads a small file an asset, and asks for one shard of each, since a folder may have been removed. Unlike `states`,
    it neither lists the source nor looks whether every shard stands.
    """
    planner = dataset if isinstance(dataset, Planner) else Planner(dataset)
    sets: dict[str, ShardSet] = {}
    stale: set[str] = set()
    for asset in planner.graph:
        present = planner.dataset.stored(asset.name, asset.place(partition))
        if present is None:
            reasons = ["nothing is committed"]
        elif any(present.storage.stat(uri) is None for uri in present.urls[:1]):
            reasons = ["its files are gone"]
        else:
            reasons = list(_reasons(planner, asset, partition, sets, stale, present.commit))
        if present is not None:
            sets[asset.name] = present
        if reasons:
            stale.add(asset.name)
        yield from ((asset.name, reason) for reason in reasons)


def _reasons(
    planner: Planner,
    asset: Asset,
    partition: str,
    sets: Mapping[str, ShardSet],
    stale: Collection[str],
    commit: Commit,
) -> Iterator[str]:
    """Why a commit whose files are there is not what would be made of these sets, some of which are `stale`."""
    before = [name for name in asset.inputs if name not in sets]
    cut = None
    if not before:
        try:
            inputs = Inputs(planner.dataset, partition, sets)
            # Of what the dataset has once it may look at all partitions, and is the same for each.
            is_shared = asset.scope == "dataset"
            cut = planner.shared_cut(asset, inputs, commit) if is_shared else planner.cut(asset, inputs)
            before = [name for name in cut.upstream if name in stale]
        except ConfigurationError:  # the inputs do not fit together, as long as one of them is stale
            before = [name for name in asset.inputs if name in stale]
            if not before:
                raise
    if before or cut is None:
        yield from (f"{name} is not up to date" for name in before)
    else:
        yield from _differences(planner.stage(asset), cut.parameters, _digests(cut), commit)
        yield from _passing(commit)


def _state(
    planner: Planner,
    asset: Asset,
    place: str,
    present: ShardSet | None,
    lazy: LazyShardSet,
    standing: Mapping[str, ShardEntry],
    to_compute: int,
) -> AssetState:
    todo = [shard for shard, digest in _shards(lazy) if digest not in standing]
    commit = present.commit if present else None
    if commit is None:
        state, why = "missing", ["nothing is committed"]
    else:
        digests = {name: shards.commit.digest for name, shards in lazy.upstream.items()}
        why = [*_differences(lazy.stage, lazy.cut, digests, commit), *_moved(lazy, commit, standing), *_passing(commit)]
        state = "stale" if why else "up to date"
    rate = planner.seconds_a_sample(asset, commit) if todo else None
    return AssetState(
        asset=asset.name,
        partition=place,
        state=state,  # type: ignore[arg-type]
        why=tuple(why),
        commit=commit,
        shards=len(lazy.inputs),
        to_make=len(todo),
        samples=sum(shard.samples for shard in todo),
        to_compute=to_compute,
        bytes=sum(shard.size for shard in todo),
        listed=lazy.left_out.listed if lazy.left_out else 0,
        left_out=lazy.left_out.by_rule if lazy.left_out else {},
        seconds=None if rate is None else rate * to_compute,
    )


def _what_becomes(
    dataset: Dataset,
    asset: Asset,
    place: str,
    commit: Commit | None,
    lazy: LazyShardSet,
    standing: Mapping[str, ShardEntry],
    before: Mapping[str, Foreseen],
) -> dict[str, Foreseen]:
    """What becomes of each shard that is to be made, by its id.

    A shard that is only foreseen tells nothing of its samples: what changes in the asset before is new to this one, or
    all of it, where that is not known.
    """
    found = {}
    for planned in lazy.missing(dataset.storage, dataset.layout(asset.name, place), commit, standing):
        shard, earlier = planned.input, planned.earlier
        found[shard.id] = Foreseen(shard.samples, shard.samples)
        if isinstance(shard, StoredShard) and shard.entry.sha256.startswith(_FORESEEN):
            if earlier.shards and shard.id in before:
                changed = min(shard.samples, before[shard.id].changed)
                found[shard.id] = Foreseen(changed, changed)
        else:
            with suppress(CorruptionError, SupersededError):  # what it is made of is lost itself
                found[shard.id] = lazy.stage.foresee(shard, dataset.storage, earlier)
    return found


def _is_in_step(commit: Commit, lazy: LazyShardSet, stood: Mapping[str, str]) -> bool:
    """Whether a commit was made as it would be now, of what stands of its inputs."""
    made_of = {name: stood.get(name) for name in lazy.upstream}
    return commit.made_of == made_of and not any(_changes(commit.parameters, lazy.stage.parameters()))


def _differences(
    stage: Stage[Any], cut: Mapping[str, Any], made_of: Mapping[str, str], commit: Commit
) -> Iterator[str]:
    """How a commit was made otherwise than it would be now."""
    if commit.stage != stage.name:
        yield f"it was made by {commit.stage}, and is made by {stage.name} now"
    elif commit.stage_version != stage.version:
        yield f"{stage.name} is at version {stage.version}, and it was made by version {commit.stage_version}"
    yield from _changes(commit.parameters, stage.parameters())
    yield from _changes(commit.cut, cut)
    for name, digest in made_of.items():
        if commit.made_of.get(name) != digest:
            yield f"{name} has changed"


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    plain = json.loads(json.dumps(dict(now)))
    for name in dict.fromkeys((*then, *plain)):
        if then.get(name) != plain.get(name):
            yield f"{name} was {_quoted(then.get(name))}, and is {_quoted(plain.get(name))}"


def _quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _moved(lazy: LazyShardSet, commit: Commit, standing: Mapping[str, ShardEntry]) -> Iterator[str]:
    """Shards that are new, not needed any more, or gone."""
    named, wanted = {entry.fingerprint for entry in commit.shards}, set(lazy.fingerprints)
    figures = {
        "new or changed": len(wanted - named),
        "superseded": len(named - wanted),
        "lost": len((wanted & named) - standing.keys()),
    }
    for what, count in figures.items():
        if count:
            yield f"{count} {'shard is' if count == 1 else 'shards are'} {what}"


def _passing(commit: Commit) -> Iterator[str]:
    if commit.may_pass:
        yield f"{commit.may_pass} rejects are tried again"


def _digests(cut: Cut) -> dict[str, str]:
    return {name: shards.commit.digest for name, shards in cut.upstream.items()}


def _shards(lazy: LazyShardSet) -> Iterator[tuple[InputShard, str]]:
    return zip(lazy.inputs, lazy.fingerprints, strict=True)


def _foreseen(
    dataset: Dataset,
    asset: Asset,
    place: str,
    present: ShardSet | None,
    lazy: LazyShardSet,
    standing: Mapping[str, ShardEntry],
) -> ShardSet:
    """The set as it will be, but for the digests of what is not made yet: those equal no others."""
    layout = dataset.layout(asset.name, place)
    # The fingerprint of what a dataset has once need not name all that it was made of.
    committed = present.commit.shards if present and asset.scope == "partition" else []
    lost = {entry.fingerprint: entry for entry in committed}

    def entry(shard: InputShard, digest: str) -> ShardEntry:
        known = standing.get(digest) or lost.get(digest)
        if known is not None:
            return known
        url = layout.url(data_name(shard.id, digest, "", asset.format)) if shard.samples else None
        return ShardEntry(
            url=url,
            nsamples=shard.samples,
            rows=shard.samples,
            filesize=shard.size,
            id=shard.id,
            start=shard.start,
            fingerprint=digest,
            sha256=f"{_FORESEEN}{digest}",
            index=index_name(shard.id, digest),
            index_bytes=0,
            index_sha256=f"{_FORESEEN}{digest}",
            samples_in=shard.samples,
            kept=shard.samples,
            filtered=0,
            rejects={},
            may_pass=0,
            bytes_in=shard.size,
            seconds=0.0,
        )

    commit = lazy.commit_of(dataset.name(asset.name, place), [entry(*shard) for shard in _shards(lazy)])
    return ShardSet(dataset.storage, layout, commit)
