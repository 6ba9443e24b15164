"""The engine on Ray: shards are made by actors, on the nodes of a cluster.

The engine keeps the shards, and hands each actor one at a time: Ray would hold the shard of an actor that died for an
actor to come in its place, though others wait for work and the cluster has lost the room. An actor lasts from run to
run, and its model with it. Driver and actors tell each other what is to be done and how far it is, never samples: those
go from the store to the actor and back.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from shardmill.engines.making import MakeShard, PlannedShard, check_that_it_travels, check_this_machine
from shardmill.engines.packages import compared_versions
from shardmill.engines.ray_cluster import RayCluster
from shardmill.engines.ray_sizes import ActorSize, actor_size, room
from shardmill.engines.ray_worker import Arrival, RayWorker, ShardProgress
from shardmill.engines.secrets import check_that_only_names_travel
from shardmill.errors import ConflictError, EngineError, ShardmillError
from shardmill.progress import format_duration
from shardmill.shards.commit import ShardEntry
from shardmill.stages.stage import Stage
from shardmill.storage import Storage

_LOOK_SECONDS = 5.0
"""Between two looks at the nodes: others may have come."""
_PAUSE_SECONDS = 1.0
"""Before actors are started again where a node has died that Ray takes for alive still."""
_TELL_SECONDS = 60.0
_STOP_SECONDS = 15.0
"""How long actors have to give a shard up before they are killed."""
_WORKER_DEATHS = 3
"""With one shard in hand on nodes that live on, or in a row while they start: it is their own fault."""
_NODE_DEATHS = 10
"""With one shard in hand."""


class RayEngine:
    """Runs stages on a cluster of Ray's. While it is open, its actors and their models stay."""

    def __init__(self, address: str, workers: int | None, say: Callable[[str], None]) -> None:
        """`address` as `RayCluster` takes it; `workers` threads in all, by default one a CPU of the cluster.

        `say` is told what it waits for, and what died.

        Raises:
            ConfigurationError: Ray is not installed, or the address is none.
        """
        self._cluster = RayCluster(address, workers, say)
        self._workers = workers
        self._say = say
        self._crew: _Crew | None = None
        self._opened = 0

    def __enter__(self) -> Self:
        self._opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._opened -= 1
        if not self._opened:
            try:
                self._dismiss()
            finally:
                self._cluster.close()

    def check(self, stage: Stage[Any], task: str) -> None:
        """Refuse a stage that this machine is too little for, where the cluster is to be of it alone.

        Of a cluster elsewhere nothing is known: some of its machines may be still to come.
        """
        if self._cluster.is_own:
            check_this_machine(stage, task)

    def run(
        self, make: MakeShard, shards: Sequence[PlannedShard], storage: Storage, advance: Callable[[int], None]
    ) -> Generator[ShardEntry]:
        """Run as every `Engine` does. Memory grows with the number of actors, not with that of shards.

        Raises:
            EngineError: The stage failed on a shard, or shards cannot be made on the cluster; names shard and node.
            ConfigurationError: The credentials hold secrets themselves, the stage cannot be pickled, or the nodes have
                other packages.
        """
        if not shards:
            return
        check_that_only_names_travel(storage, "Ray's workers")
        check_that_it_travels(make)
        with self:
            crew, whole = self._crew_for(make, len(shards)), False
            try:
                yield from crew.run(make, shards, storage, advance)
                whole = True
            finally:
                if not whole:
                    self._dismiss()

    def _crew_for(self, make: MakeShard, shards: int) -> _Crew:
        """The actors that are there; others where they are of another size: those keep what these would wait for."""
        resources, task = make.stage.resources, f"{make.stage.name} in {make.layout.folder}"
        devices = min(resources.gpus.count, shards) if resources.gpus else 0
        if not self._cluster.serves(resources.gpus, devices):
            self._dismiss()
            self._cluster.open(resources.gpus, devices, task)
        size = actor_size(resources, self._cluster.nodes(), self._workers)
        if self._crew is None or not self._crew.size.serves(size):
            self._dismiss()
            self._crew = _Crew(self._cluster, size, self._workers, self._say)
        return self._crew

    def _dismiss(self) -> None:
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.close()


def engine_at(address: str, workers: int | None, say: Callable[[str], None]) -> RayEngine:
    """The engine that the word `ray` asks for."""
    return RayEngine(address, workers, say)


@dataclass(eq=False)
class _Actor:
    """An actor, and what it has in hand."""

    handle: Any
    where: Arrival | None = None
    """None until it has started."""
    shard: PlannedShard | None = None


class _Crew:
    """Actors of one size."""

    def __init__(self, cluster: RayCluster, size: ActorSize, workers: int | None, say: Callable[[str], None]) -> None:
        self.size = size
        self._cluster = cluster
        self._workers = workers
        self._say = say
        self._actors: list[_Actor] = []
        """All of them, but for the dead."""
        self._idle: list[_Actor] = []
        self._called: dict[Any, _Actor] = {}
        """By the reference to what they will answer."""
        self._most = 0
        self._looked = self._hires_from = float("-inf")
        self._failed_starts = 0

    def run(
        self, make: MakeShard, shards: Sequence[PlannedShard], storage: Storage, advance: Callable[[int], None]
    ) -> Generator[ShardEntry]:
        """Entries as they are done. Where it does not come to its end, close the crew."""
        import ray

        run = _Run(make, storage, advance, deque(shards))
        waited = told = time.monotonic()
        while run.waiting or self._busy:
            self._hire(len(run.waiting) + self._busy, f"{make.stage.name} in {make.layout.folder}")
            while run.waiting and self._idle:
                self._hand_over(run, self._idle.pop())
            ready, others = ray.wait(list(self._called), num_returns=1, timeout=1.0)
            ready += ray.wait(others, num_returns=len(others), timeout=0)[0] if ready and others else []
            for reference in ready:
                entry = self._hear(run, reference)
                if entry is not None:
                    yield entry
            now = time.monotonic()
            if self._idle or self._busy:
                waited = told = now
            elif now - told >= _TELL_SECONDS:
                told = now
                self._say(self._waiting(run, now - waited))

    @property
    def _busy(self) -> int:
        return sum(actor.shard is not None for actor in self._called.values())

    def _hire(self, shards: int, task: str) -> None:
        """As many actors as there are shards, and as there may be room for."""
        import ray

        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._most = room(self.size, self._cluster.nodes(), self._workers, not self._cluster.is_own)
            self._looked = time.monotonic()
        if time.monotonic() < self._hires_from:
            return
        for _ in range(min(self._most, shards) - len(self._actors)):
            kind: Any = ray.remote(RayWorker)
            actor = _Actor(kind.options(**self.size.options()).remote(self.size.threads))
            self._actors.append(actor)
            self._called[actor.handle.arrive.remote(compared_versions(), self.size.gpus, task)] = actor

    def _hand_over(self, run: _Run, actor: _Actor) -> None:
        actor.shard = shard = run.waiting.popleft()
        again = run.deaths[shard.id] > 0
        self._called[actor.handle.make.remote(run.make, shard, run.storage, again)] = actor

    def _hear(self, run: _Run, reference: Any) -> ShardEntry | None:
        """What an actor has answered: the entry of a shard, where that is done."""
        import ray

        actor = self._called.pop(reference)
        try:
            answer: Arrival | ShardProgress = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            self._lost(run, actor, " ".join(str(error).split()))
            return None
        except ray.exceptions.RayError as error:
            where = actor.where.name if actor.where else str(self._cluster)
            raise EngineError(f"Ray failed while {run.of(actor.shard)} on {where}: {error}") from error
        if isinstance(answer, Arrival):
            self._arrived(actor, answer)
            return None
        assert actor.shard is not None
        assert actor.where is not None
        run.count(actor.shard, answer)
        if answer.error is not None:
            raise _with_node(answer.error, actor.where.name)
        if answer.entry is None:
            self._called[actor.handle.follow.remote()] = actor
            return None
        actor.shard = None
        self._idle.append(actor)
        return answer.entry

    def _arrived(self, actor: _Actor, arrival: Arrival) -> None:
        if arrival.error is not None:
            raise arrival.error
        self._failed_starts = 0
        actor.where = arrival
        self._idle.append(actor)

    def _lost(self, run: _Run, actor: _Actor, reason: str) -> None:
        """An actor died. Its shard is another's, unless it has cost too many.

        Raises:
            EngineError: It has; or no actor comes to life.
        """
        import ray

        ray.kill(actor.handle)  # it may live on where it cannot be reached
        self._actors.remove(actor)
        self._looked = float("-inf")
        if actor.where is None:
            if "its node" in reason:  # on which Ray starts actors until it notices
                self._hires_from = time.monotonic() + _PAUSE_SECONDS
                return
            self._failed_starts += 1
            if self._failed_starts >= _WORKER_DEATHS:
                raise EngineError(f"no worker comes to life on {self._cluster}: {reason}")
            return
        if actor.shard is None:
            return
        run.waiting.appendleft(actor.shard)
        run.deaths[actor.shard.id] += 1
        node_lives = self._cluster.lives(actor.where.node)
        what = f"{'a worker' if node_lives else 'a node'} died while {run.of(actor.shard)} on {actor.where.name}"
        deaths = run.deaths[actor.shard.id]
        if deaths >= (_WORKER_DEATHS if node_lives else _NODE_DEATHS):
            raise EngineError(
                f"{what}, the last of {deaths}: {reason}. If the node ran out of memory, give the engine fewer "
                "workers, or the cluster larger nodes. Finished shards are kept: run again to go on"
            )
        self._say(f"{what}. It is made again")

    def _waiting(self, run: _Run, seconds: float) -> str:
        nodes = self._cluster.nodes()
        has = f"{sum(node.cpus for node in nodes):g} CPU, {sum(node.gpus for node in nodes):g} GPU"
        return (
            f"{run.make.stage.name} in {run.make.layout.folder} has waited {format_duration(seconds)} for a worker "
            f"with {self.size}. {self._cluster} has {has} in all, in use or free"
        )

    def close(self) -> None:
        """Have what is in hand given up, and end the actors."""
        import ray

        actors, self._actors = self._actors, []
        try:
            given_up = [actor.handle.cancel.remote() for actor in actors if actor.shard is not None]
            if given_up:
                ray.wait(given_up, num_returns=len(given_up), timeout=_STOP_SECONDS)
        finally:
            for actor in actors:
                ray.kill(actor.handle)


class _Run:
    """One call of `run`."""

    def __init__(
        self, make: MakeShard, storage: Storage, advance: Callable[[int], None], waiting: deque[PlannedShard]
    ) -> None:
        self.make = make
        self.storage = storage
        self.waiting = waiting
        self.deaths: Counter[str] = Counter()
        """Actors that died with a shard in hand, by its id."""
        self._advance = advance
        self._counted: dict[str, int] = {}
        """Samples of shards that are in hand or have been lost."""

    def count(self, shard: PlannedShard, answer: ShardProgress) -> None:
        """No sample twice, though the shard be begun again."""
        before = self._counted.get(shard.id, 0)
        if answer.samples > before:
            self._counted[shard.id] = answer.samples
            self._advance(answer.samples - before)
        if answer.entry is not None:
            self._counted.pop(shard.id, None)

    def of(self, shard: PlannedShard | None) -> str:
        """What was going on."""
        which = f"shard {shard.id} of " if shard else ""
        return f"{self.make.stage.name} ran on {which}{self.make.layout.folder}"


def _with_node(error: ShardmillError, node: str) -> ShardmillError:
    if isinstance(error, ConflictError):
        return error  # it is about the store
    return EngineError(f"{error} (on {node})", getattr(error, "final", False))
