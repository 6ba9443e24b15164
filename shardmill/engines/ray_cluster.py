"""A driver's connection to Ray: to a cluster that stands somewhere, or to one of this machine while it lasts."""

from __future__ import annotations

import os
import re
import secrets
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from socket import create_connection
from typing import Any

from shardmill.concurrency import usable_cores
from shardmill.devices import VISIBLE, GPUSpec, fitting_devices, lease
from shardmill.engines.ray_sizes import Node
from shardmill.errors import ConfigurationError, EngineError
from shardmill.interrupts import interrupts_held_back

ADDRESS = "RAY_ADDRESS"
"""Ray's own variable: the cluster to connect to where none is named."""
_OBJECTS = 256 << 20
"""Bytes of shared memory of a cluster of one machine: what shards are made of, described; no samples."""

_STARTS = 3
"""Tries to start or to connect: Ray gives a process thirty seconds to start, and a busy machine may need more."""


class RayCluster:
    """A connection, opened when it is first used. What it started it ends, and nothing else."""

    def __init__(self, address: str, workers: int | None, say: Callable[[str], None]) -> None:
        """`address` is `auto` for the cluster that this machine belongs to, else host and port of Ray's client server.

        Without one it is what RAY_ADDRESS says, else a cluster of this machine alone.

        Raises:
            ConfigurationError: Ray is not installed, or the address is none.
        """
        if address and address != "auto" and not re.fullmatch(r"[^\s/:]+:[0-9]+", address):
            raise ConfigurationError(
                f"ray://{address} is no address: write ray://<host>:<port> with the port of Ray's client server, by "
                "default 10001, ray://auto on a node of the cluster, or ray for a cluster of this machine alone"
            )
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(f"the engine ray needs Ray: pip install 'shardmill[ray]' ({error})") from error
        named = f"ray://{address}" if address and address != "auto" else address
        self._address = named or os.environ.get(ADDRESS, "")
        self._workers = workers
        self._say = say
        self._held: ExitStack | None = None
        self._leased: tuple[GPUSpec, int] | None = None

    @property
    def is_own(self) -> bool:
        """Whether it is a cluster of this machine alone, which will never grow."""
        return not self._address

    def serves(self, gpus: GPUSpec | None, devices: int) -> bool:
        """Whether it is open, and has the devices if it is a cluster of our own."""
        if self._held is None or gpus is None or not self.is_own:
            return self._held is not None
        return self._leased is not None and self._leased[0] == gpus and self._leased[1] >= devices

    def open(self, gpus: GPUSpec | None, devices: int, task: str) -> None:
        """Connect anew. A cluster of our own gets so many devices, leased, as other runs on this machine do.

        Raises:
            EngineError: The cluster cannot be reached.
            ConfigurationError: Ray or Python are not those of the cluster, or there are too few devices.
        """
        self.close()
        with ExitStack() as held:
            if self.is_own:
                self._start(held, gpus, devices, task)
            else:
                self._attach(held)
            self._held = held.pop_all()

    def _start(self, held: ExitStack, gpus: GPUSpec | None, devices: int, task: str) -> None:
        variables: dict[str, str | None] = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE"),
        }
        if (
            not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
        ):  # else Ray leaves one in the home directory, for all clusters to come
            variables["RAY_AUTH_TOKEN"] = _token()
        if gpus is not None:
            leased = held.enter_context(lease(fitting_devices(gpus, task), devices, task, self._say)).devices
            variables[VISIBLE] = ",".join(leased)
        with interrupts_held_back(), _termination_kept(), _environment(variables), _explained("Ray on this machine"):
            _init_in_time(
                address="local",
                num_cpus=self._workers or usable_cores(),
                num_gpus=devices if gpus else 0,
                include_dashboard=False,
                object_store_memory=_OBJECTS,
            )
        _end_quietly(held)
        self._leased = (gpus, devices) if gpus else None

    def _attach(self, held: ExitStack) -> None:
        import ray

        if ray.is_initialized():
            return  # the caller's own connection, and the caller's to end
        with interrupts_held_back(), _termination_kept(), _explained(self._address):
            _init_in_time(address=self._address)
        _end_quietly(held)

    def nodes(self) -> list[Node]:
        """Those that are alive."""
        import ray

        return [Node.of(found) for found in ray.nodes() if found["Alive"]]

    def lives(self, node: str) -> bool:
        """Whether the node with this id is there. Ray itself notices only after seconds that one has died."""
        import ray

        for found in ray.nodes():
            if found["NodeID"] == node and found["Alive"]:
                if self._address.startswith("ray://"):  # nodes need not be reached from here
                    return True
                with suppress(OSError), create_connection((found["NodeManagerAddress"], found["NodeManagerPort"]), 2):
                    return True
        return False

    def close(self) -> None:
        """End the connection, and the cluster if it is our own. Devices are then free."""
        held, self._held, self._leased = self._held, None, None
        if held is not None:
            with interrupts_held_back():
                held.close()

    def __str__(self) -> str:
        return self._address or "Ray on this machine"


_TOO_SLOW = "timed out during startup|Starting Ray client server failed|start_specific_server"
"""Where Ray's processes have not come up: the last is a client's server whose port another one has taken meanwhile."""


@cache
def _token() -> str:
    """Without which nobody runs code on a cluster of our own. Ray reads it once a process."""
    return secrets.token_hex(32)


_QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


def _init_in_time(**arguments: Any) -> None:
    """`ray.init`, again where what it starts was too slow."""
    import ray

    for left in reversed(range(_STARTS)):
        try:
            with warnings.catch_warnings(action="ignore"):  # what they say is in the error, too
                ray.init(**arguments, **_QUIET)
            return
        except Exception as error:
            if not left or not re.search(_TOO_SLOW, str(error)):
                raise
            ray.shutdown()


def _end_quietly(held: ExitStack) -> None:
    """Close the connection with `held`; until then say nothing in Ray's name.

    Ray prints what befalls nodes on standard output, where the results of a command go, and has no setting for it.
    """
    import ray

    if (printing := sys.modules.get("ray._private.worker")) is not None:
        held.callback(setattr, printing, "_worker_logs_enabled", getattr(printing, "_worker_logs_enabled", True))
        printing._worker_logs_enabled = False  # type: ignore[attr-defined]
    held.callback(ray.shutdown)


@contextmanager
def _termination_kept() -> Iterator[None]:
    """What the caller does on SIGTERM stays: Ray would exit, and Dagster not learn that its run was terminated."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """What processes that start in the block inherit. None: Ray may set it, and it is as before afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Errors of a connection become ours."""
    try:
        yield
    except Exception as error:  # Ray raises any kind: a node that is slow to start is a plain Exception
        said = " ".join(str(error).split())
        if re.search("version", said, re.IGNORECASE):
            raise ConfigurationError(f"cannot connect to {where}: {said}") from error
        hint = ""
        if where.startswith("ray://") and "timeout" in said:
            hint = (
                ". Is this the port of Ray's client server? A cluster that asks for a token does not answer without: "
                "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
            )
        raise EngineError(f"cannot connect to {where}: {said}{hint}") from error
