"""A cluster of simulated Ray nodes, in a process of its own: a raylet that dies takes its driver with it.

As a program it is that process: it obeys one JSON object a line, and ends when its input does.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.servers.processes import free_ports


class RayNodes:
    """A head without CPUs, where drivers connect, and nodes that come and go, within a `with` block."""

    def __init__(self) -> None:
        [self.client_port] = free_ports(1)
        self.nodes: list[str] = []
        """Ids of those that are there."""

    def __enter__(self) -> Self:
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        command = [sys.executable, "-m", __name__, str(self.client_port)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        self.address: str = self._answer()["address"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    @property
    def environment(self) -> dict[str, str]:
        """Of a driver that connects by the word `ray`."""
        return {"RAY_ADDRESS": self.address}

    @property
    def client_address(self) -> str:
        """Of the server of Ray's client."""
        return f"{self.address.rpartition(':')[0]}:{self.client_port}"

    def add(self, cpus: int = 1, **arguments: Any) -> str:
        """Another node. Returns its id."""
        node = str(self._ask({"add": {"num_cpus": cpus, **arguments}})["node"])
        self.nodes.append(node)
        return node

    def kill(self, node: str) -> None:
        """As if it lost power."""
        self._ask({"kill": node})
        self.nodes.remove(node)

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError("the cluster ended")


def main(client_port: int) -> None:
    """Serve."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "ray_client_server_port": client_port}
    cluster = in_time(lambda: Cluster(initialize_head=True, head_node_args=head))
    nodes: dict[str, Any] = {}
    print(json.dumps({"address": cluster.address}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "add" in command:
            node = in_time(lambda added=command["add"]: cluster.add_node(**added))
            nodes[node.node_id] = node
            print(json.dumps({"node": node.node_id}), flush=True)
        else:
            cluster.remove_node(nodes.pop(command["kill"]), allow_graceful=False)
            print("{}", flush=True)
    cluster.shutdown()


def in_time(start: Callable[[], Any]) -> Any:
    """What `start` gives: Ray waits thirty seconds for a node, and a busy machine may need more."""
    for left in reversed(range(5)):
        try:
            return start()
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
    raise AssertionError


if __name__ == "__main__":
    main(int(sys.argv[1]))
