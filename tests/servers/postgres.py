"""PostgreSQL, as Debian packages it, with a password; it can be killed and started again on the same data."""

import os
import secrets
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.processes import Child, Server

ADMIN = "postgres"


@dataclass(frozen=True)
class Database:
    """Where a client connects, and as whom."""

    name: str
    port: int
    password: str = field(repr=False)
    user: str = ADMIN
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """As psycopg2 takes it."""
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{self.name}"


def installed() -> Path | None:
    """Folder of the newest PostgreSQL server's programs, if this machine has one."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    if pg_config := shutil.which("pg_config"):
        folders.insert(0, Path(subprocess.check_output([pg_config, "--bindir"], text=True).strip()))
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


class PostgresServer(Server):
    """PostgreSQL on 127.0.0.1, data and all in a folder that goes with it.

    What was committed outlives `kill`. A crash of the machine it would not: nothing is flushed to the disk.
    """

    def __init__(self) -> None:
        super().__init__("postgres")
        self._password = secrets.token_hex(8)
        # The server refuses to run as root.
        self._as_user = ["setpriv", f"--reuid={ADMIN}", f"--regid={ADMIN}", "--clear-groups"] * (os.geteuid() == 0)

    def make_database(self, name: str) -> Database:
        """Create an empty database."""
        import psycopg2

        connection = psycopg2.connect(self._database(ADMIN).url)
        connection.autocommit = True  # CREATE DATABASE refuses a transaction
        try:
            connection.cursor().execute(f'CREATE DATABASE "{name}"')
        finally:
            connection.close()
        return self._database(name)

    def kill(self) -> None:
        """End the server as a crash does: clients have lost their connections, nothing is put in order."""
        self._children.pop().kill()
        self._wait_for_backends()

    def restart(self) -> None:
        """Start the killed server again, on the same data and port."""
        self._serve()

    def _start(self) -> None:
        programs = installed()
        if programs is None:
            raise RuntimeError("no PostgreSQL server on this machine: install Debian's postgresql")
        self._programs = programs
        if self._as_user:
            shutil.chown(self._folder, ADMIN, ADMIN)
        password = self._folder / "password"
        password.write_text(self._password)
        password.chmod(0o644)  # in a folder that only the server's user may enter
        command = [
            *self._as_user,
            str(programs / "initdb"),
            f"--pgdata={self._data}",
            f"--username={ADMIN}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        made = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr}")
        self._serve()

    def _serve(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self._ports[0],
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # in the data folder: a killed server leaves nothing elsewhere
            "fsync": "off",
            "max_connections": 200,
        }
        command = [*self._as_user, str(self._programs / "postgres"), "-D", str(self._data)]
        command += [f"--{name}={value}" for name, value in settings.items()]
        self._children.append(Child(command, self._folder / "postgres.log"))
        self._children[0].wait_until(self._answers)

    def _answers(self) -> bool:
        import psycopg2

        try:
            psycopg2.connect(self._database(ADMIN).url, connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _wait_for_backends(self) -> None:
        """Return once the killed server's other processes have noticed.

        Until then they answer their clients, and the data folder is theirs.
        """
        deadline = time.monotonic() + 60
        while any(_works_in(process, self._data) for process in Path("/proc").glob("[0-9]*")):
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes of a killed PostgreSQL still work in {self._data}")
            time.sleep(0.02)

    def _database(self, name: str) -> Database:
        return Database(name, self._ports[0], self._password)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _close(self) -> None:
        for server in self._children:
            server.signal(signal.SIGQUIT)  # at once, and its shared memory goes
            deadline = time.monotonic() + 10
            while server.alive and time.monotonic() < deadline:
                time.sleep(0.02)
        super()._close()


def _works_in(process: Path, folder: Path) -> bool:
    with suppress(OSError):
        return (process / "cwd").readlink() == folder
    return False
