"""How large Ray's actors are and how many there is room for, as a pure function of a stage's needs and of the nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shardmill.devices import GPUSpec
from shardmill.stages.stage import Resources

_LIBRARIES = 1 << 30
"""Bytes of the interpreter and its libraries, torch among them."""
_LEAST = 2 << 30
"""Bytes that an actor has at least: one size then serves most stages, and none of them waits for new processes."""
_ROUNDING = 1e-6
"""Three thirds of a device are a device."""


@dataclass(frozen=True)
class Node:
    """A node of the cluster that is alive, and what it has in all."""

    id: str
    cpus: float = 0
    memory: float = 0
    """Bytes."""
    gpus: float = 0
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Node:
        """From what `ray.nodes()` says of it."""
        has = found["Resources"]
        return cls(found["NodeID"], has.get("CPU", 0), has.get("memory", 0), has.get("GPU", 0), found.get("Labels", {}))


@dataclass(frozen=True)
class ActorSize:
    """What each of the actors reserves, and which nodes will do."""

    threads: int
    memory: int
    """Bytes."""
    gpus: GPUSpec | None = None

    @property
    def devices(self) -> float:
        """The part of a device."""
        return (self.gpus.fraction or 1) if self.gpus else 0

    @property
    def labels(self) -> dict[str, str]:
        """That a node has to have."""
        return dict([self.gpus.node_label]) if self.gpus and self.gpus.node_label else {}

    def serves(self, other: ActorSize) -> bool:
        """Whether actors of this size will do where those of the other are asked for."""
        return (self.threads, self.gpus) == (other.threads, other.gpus) and self.memory >= other.memory

    def options(self) -> dict[str, Any]:
        """Of the actor, as Ray calls them."""
        options: dict[str, Any] = {"num_cpus": self.threads, "num_gpus": self.devices, "memory": self.memory}
        options |= {"max_restarts": 0, "max_task_retries": 0}
        if self.labels:
            options["label_selector"] = self.labels
        if not self.devices:
            options["scheduling_strategy"] = "SPREAD"  # parts of one device lie on one node: that is Ray's default
        return options

    def __str__(self) -> str:
        parts = [f"{self.threads} CPU", f"{self.memory / 2**30:.1f} GiB"]
        parts += [f"{self.devices:g} GPU"] if self.devices else []
        return ", ".join([*parts, *(f"{name}={value}" for name, value in self.labels.items())])


def actor_size(resources: Resources, nodes: Sequence[Node], workers: int | None) -> ActorSize:
    """No larger than what every node has that will do, so that none of them is left idle.

    `workers` bounds the threads in all. Where no node will do, it is the size that one to come should have room for.
    """
    gpus = resources.gpus
    memory = max(_LEAST, _LIBRARIES + resources.memory)
    size = ActorSize(resources.threads, memory, gpus)
    fitting = [node for node in nodes if _may_hold(node, size)]
    share = size.devices
    threads = min((_threads(node, share) for node in fitting), default=resources.threads)
    if not resources.model:
        threads = min(threads, resources.threads)
    if workers is not None:
        threads = min(threads, math.ceil(workers / _processes(gpus)) if gpus else workers)
    memory = min([memory, *(int(node.memory) for node in fitting if node.memory)])
    return ActorSize(max(1, threads), memory, gpus)


def room(size: ActorSize, nodes: Sequence[Node], workers: int | None, may_grow: bool = True) -> int:
    """How many actors of this size to ask for, where there are shards enough; at least one.

    As many as devices or `workers` that are asked for. Else as many as the nodes hold, and if the cluster may grow as
    many again, for which nothing waits: an autoscaler adds nodes for them.
    """
    if size.gpus:
        return _processes(size.gpus)
    if workers is not None:
        return math.ceil(workers / size.threads)
    held = sum(_held(node, size) for node in nodes if _may_hold(node, size))
    return max(1, 2 * held if may_grow else held)


def _processes(gpus: GPUSpec) -> int:
    """How many share the devices that are asked for."""
    return gpus.count * int(1 / (gpus.fraction or 1) + _ROUNDING)


def _may_hold(node: Node, size: ActorSize) -> bool:
    labelled = all(node.labels.get(name) == value for name, value in size.labels.items())
    return node.cpus >= 1 and node.gpus + _ROUNDING >= size.devices and labelled


def _threads(node: Node, share: float) -> int:
    return int(node.cpus / max(1, node.gpus / share)) if share else int(node.cpus)


def _held(node: Node, size: ActorSize) -> int:
    return int(min(node.cpus / size.threads, node.memory / size.memory))
