"""Server processes that cannot outlive the process that started them, and the loopback ports they listen on."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import SystemRandom
from types import MappingProxyType, TracebackType
from typing import Self

# What every client of these servers should run under: no metadata server, no second endpoint.
CLIENT_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "NO_GCE_CHECK": "true",
        "GCE_METADATA_HOST": "127.0.0.1:9",
        "GCE_METADATA_IP": "127.0.0.1:9",
        "AWS_EC2_METADATA_DISABLED": "true",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
)

# The shell becomes the server; its background half waits on the pipe that only we hold. A closed pipe without the
# word means that we are gone, however we died.
_LEASH = """
exec 3<&0
(read -r word <&3; [ "$word" = released ] || kill -9 $$) >/dev/null 2>&1 &
exec "$@" </dev/null 3<&-
"""

START_SECONDS = 120.0

_PORTS = range(20_000, 32_000)
"""Below those that the kernel hands out by itself: between two starts of a server nothing takes its port."""
_claims: list[socket.socket] = []


class Child:
    """A server process. It is killed when `stop` is called or when this process ends, even by SIGKILL."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [shutil.which("sh") or "/bin/sh", "-c", _LEASH, "leash", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # a Ctrl-C is for us to handle
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the server."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End the server at once: nothing that it holds is wanted."""
        self._process.kill()
        self.stop()

    def stop(self) -> None:
        """Ask the server to end, and wait until it is gone."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        pipe = self._process.stdin
        if pipe is not None and not pipe.closed:
            try:
                pipe.write(b"released\n")
                pipe.close()
            except BrokenPipeError:
                pass

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return once `ready()` holds; raise with the tail of the log when the server ends or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if not self.alive or time.monotonic() > deadline:
                state = "did not become ready" if self.alive else "ended at once"
                self.stop()
                raise RuntimeError(f"a server {state}; its log {self.log} ends:\n{tail(self.log)}")
            time.sleep(0.03)


def tail(log: Path, characters: int = 2000) -> str:
    """The last characters of a log."""
    return log.read_text(errors="replace")[-characters:] if log.exists() else ""


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that nothing on 127.0.0.1 listens on; no other process is given them while this one lives."""
    shuffled = SystemRandom().sample(_PORTS, len(_PORTS))
    return list(islice(filter(_reserve, shuffled), count))


def _reserve(port: int) -> bool:
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0shardmill-test-port-{port}")  # the kernel frees the name when this process ends
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True


def accepts(port: int) -> bool:
    """Whether something on 127.0.0.1 accepts connections on `port`."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Server(ABC):
    """Processes that run inside a `with` block, on the first port, and a folder for them that goes with them."""

    def __init__(self, name: str, ports: int = 1) -> None:
        self._ports = free_ports(ports)
        self._folder = Path(tempfile.mkdtemp(prefix=f"shardmill-{name}-"))
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @abstractmethod
    def _start(self) -> None:
        """Start every process, and wait until they answer."""

    def _close(self) -> None:
        while self._children:
            self._children.pop().kill()
        shutil.rmtree(self._folder, ignore_errors=True)
