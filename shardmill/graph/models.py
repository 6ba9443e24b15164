"""Which models the vectors of a dataset's partitions come from: vectors of two of them are not to be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.dataset import Dataset
from shardmill.errors import CorruptionError
from shardmill.shards.commit import Commit

_DECIDE = ("model", "weights", "preprocessing", "precision", "decode", "normalize")
"""Parameters of an embedder that a vector depends on, but for its rounding to `dtype`."""
_LOOKED = 100
"""Commits that are read. A partition of another model than the last one's is among the oldest."""


class ModelPartitions(NamedTuple):
    """The partitions whose vectors one model made."""

    model: str
    """Its name, and what tells it from the others."""
    partitions: list[str]


def models_of(commits: Mapping[str, Commit]) -> list[ModelPartitions]:
    """The models of these partitions of one asset, by their commits. Those without vectors count for none."""
    found = {key: _decisive(commit) for key, commit in commits.items() if commit.total_samples}
    differ = [number for number in range(1, len(_DECIDE)) if len({each[number] for each in found.values()}) > 1]
    by_model: dict[tuple[str, ...], list[str]] = {}
    for partition, each in found.items():
        by_model.setdefault(each, []).append(partition)
    return [
        ModelPartitions(", ".join([each[0], *(f"{_DECIDE[number]} {each[number]}" for number in differ)]), partitions)
        for each, partitions in by_model.items()
    ]


def look_at_models(dataset: Dataset, asset: str, partitions: Iterable[str]) -> tuple[list[ModelPartitions], int]:
    """The models of these partitions and of others, spread over the times when they were committed; and how many.

    At most a hundred others are read. All of them are, if there are no more; else the oldest and the newest are among
    them, so that a model that was changed once shows as long as a partition of the old one is left.
    """
    stood = {key: info.modified for key, info in dataset.commits(asset).items() if dataset.may_have(key)}
    by_age = sorted(stood, key=lambda key: (stood[key], key))
    step = max(1.0, (len(by_age) - 1) / (_LOOKED - 1))
    spread = [by_age[round(number * step)] for number in range(min(_LOOKED, len(by_age)))]
    keys = list(dict.fromkeys([*partitions, *spread]))

    def read(partition: str) -> Commit | None:
        try:
            shards = dataset.stored(asset, partition)
        except CorruptionError:  # its own checks say so
            return None
        return shards.commit if shards else None

    found = zip(keys, bounded_map(read, keys, REQUESTS_AT_ONCE), strict=True)
    commits = {key: commit for key, commit in found if commit is not None}
    return models_of(commits), len(commits)


def _decisive(commit: Commit) -> tuple[str, ...]:
    return tuple(_said(commit.parameters.get(name)) for name in _DECIDE)


def _said(value: Any) -> str:
    return "not given" if value is None else str(value)
