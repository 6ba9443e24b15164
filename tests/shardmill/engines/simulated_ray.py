"""What the engine asks of Ray, in threads of this process: actors that start, answer and die when the test says so."""

import itertools
import pickle
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_futures
from types import SimpleNamespace
from typing import Any

import pytest

from shardmill.engines import ray_worker
from shardmill.engines.ray_worker import RayWorker


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class SimulatedActor:
    """One `RayWorker`, in a thread of its own."""

    def __init__(self, ray: "SimulatedRay", node: str, worker: RayWorker) -> None:
        self.node, self.dead = node, False
        self._ray, self._worker = ray, worker
        self._thread = ThreadPoolExecutor(1)
        self._asked: list[Future[Any]] = []

    def __getattr__(self, method: str) -> SimpleNamespace:
        if method.startswith("_"):
            raise AttributeError(method)
        return SimpleNamespace(remote=lambda *arguments: self._call(method, arguments))

    def _call(self, method: str, arguments: tuple[Any, ...]) -> Future[Any]:
        answer: Future[Any] = Future()
        self._asked.append(answer)
        self._ray.calls.append(method)
        sent = pickle.dumps(arguments)
        self._ray.sent.append(sent)

        def run() -> None:
            self._ray.here.node = self.node
            result = pickle.dumps(getattr(self._worker, method)(*pickle.loads(sent)))
            if not answer.done():
                answer.set_result(pickle.loads(result))

        if self.dead or self.node in self._ray.dead_nodes:
            self.die()
        else:
            self._thread.submit(run)
        return answer

    def die(self) -> None:
        """Its process is gone: what it was asked it will not answer."""
        self.dead = True
        self._worker._cancelled = True
        for answer in self._asked:
            if not answer.done():
                gone = self.node in self._ray.dead_nodes
                why = "because its node has died" if gone else "unexpectedly"
                answer.set_exception(RayActorError(f"The actor died\n\t{why}"))


class SimulatedRay:
    """Stands in for the module."""

    def __init__(self, nodes: int = 1, cpus: int = 2) -> None:
        self.exceptions = SimpleNamespace(RayError=RayError, RayActorError=RayActorError)
        self.util = SimpleNamespace(get_node_ip_address=lambda: "192.0.2.1")
        self.here = threading.local()
        self.names = [f"node{number}" for number in range(nodes)]
        self.cpus = cpus
        self.dead_nodes: set[str] = set()
        self.unnoticed: set[str] = set()
        """Of these, those that Ray takes for alive."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.actors: list[SimulatedActor] = []
        self.calls: list[str] = []
        self.sent: list[bytes] = []
        self.options: list[dict[str, Any]] = []
        self.connected: list[dict[str, Any]] = []
        self.shutdowns = 0
        self.born: Callable[[SimulatedActor], None] = lambda _: None
        self._turn: Iterator[int] = itertools.count()

    def init(self, **arguments: Any) -> None:
        self.connected.append(arguments)

    def is_initialized(self) -> bool:
        return len(self.connected) > self.shutdowns

    def shutdown(self) -> None:
        self.shutdowns += 1

    def nodes(self) -> list[dict[str, Any]]:
        address, port = self._listener.getsockname()
        same = {"Resources": {"CPU": self.cpus, "memory": 16 << 30}, "NodeManagerAddress": address}
        return [
            {
                **same,
                "NodeID": name,
                "Alive": name not in self.dead_nodes - self.unnoticed,
                "NodeManagerPort": 1 if name in self.dead_nodes else port,
            }
            for name in self.names
        ]

    def get_runtime_context(self) -> SimpleNamespace:
        return SimpleNamespace(get_node_id=lambda: self.here.node)

    def remote(self, kind: type[RayWorker]) -> SimpleNamespace:
        def options(**given: Any) -> SimpleNamespace:
            self.options.append(given)
            return SimpleNamespace(remote=start)

        def start(*arguments: Any) -> SimulatedActor:
            alive = [name for name in self.names if name not in self.dead_nodes - self.unnoticed]
            actor = SimulatedActor(self, alive[next(self._turn) % len(alive)], kind(*arguments))
            self.actors.append(actor)
            self.born(actor)
            return actor

        return SimpleNamespace(options=options)

    def wait(
        self, references: Sequence[Future[Any]], num_returns: int, timeout: float
    ) -> tuple[list[Future[Any]], list[Future[Any]]]:
        if not references:
            time.sleep(timeout)
            return [], []
        when = FIRST_COMPLETED if num_returns == 1 else "ALL_COMPLETED"
        done = wait_for_futures(references, timeout, when).done
        ready = [each for each in references if each in done][:num_returns]
        return ready, [each for each in references if each not in ready]

    def get(self, reference: Future[Any]) -> Any:
        return reference.result()

    def kill(self, actor: SimulatedActor) -> None:
        actor.die()

    def kill_node(self, node: str) -> None:
        """With all actors on it."""
        self.dead_nodes.add(node)
        for actor in self.actors:
            if actor.node == node:
                actor.die()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> SimulatedRay:
    """Two nodes, which the word `ray` connects to."""
    simulated = SimulatedRay(nodes=2, cpus=2)
    monkeypatch.setitem(sys.modules, "ray", simulated)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    monkeypatch.setattr(ray_worker, "_ANSWER_SECONDS", 0.05)
    return simulated
