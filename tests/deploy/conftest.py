"""Fixtures: the files of deploy/, and Dagster instances that are put together from them on a real Postgres."""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.servers.postgres import Database, PostgresServer

DEPLOY = Path(__file__).parents[2] / "deploy"


@dataclass(frozen=True)
class Instance:
    """A DAGSTER_HOME, and the environment of whoever uses it."""

    home: Path
    database: Database
    environment: dict[str, str] = field(repr=False)

    def run(self, *command: str, fails: bool = False) -> str:
        """What one of the virtual environment's programs prints; it has to succeed, unless it `fails`."""
        finished = subprocess.run(
            [str(Path(sys.executable).with_name(command[0])), *command[1:]],
            env=self.environment,
            cwd=self.home,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
        assert bool(finished.returncode) is fails, finished.stdout
        return finished.stdout

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """What the database answers."""
        import psycopg2

        connection = psycopg2.connect(self.database.url)
        try:
            cursor = connection.cursor()
            cursor.execute(query)
            return list(cursor.fetchall())
        finally:
            connection.close()


MakeInstance = Callable[..., Instance]


@pytest.fixture(scope="session")
def deploy() -> Path:
    return DEPLOY


@pytest.fixture
def make_instance(tmp_path: Path, postgres_server: PostgresServer) -> MakeInstance:
    """`make_instance("compute_logs/s3.yaml", VARIABLE="value")`: dagster.yaml with that appended, a new database."""

    def make(*sections: str, **variables: str) -> Instance:
        home = tmp_path / "home"
        home.mkdir()
        files = [DEPLOY / name for name in ("dagster.yaml", *sections)]
        (home / "dagster.yaml").write_text("".join(file.read_text() for file in files))
        database = postgres_server.make_database(f"dagster-{uuid.uuid4().hex[:8]}")
        programs = Path(sys.executable).parent
        environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "DAGSTER_HOME": str(home),
            "DAGSTER_POSTGRES_HOST": database.host,
            "DAGSTER_POSTGRES_PORT": str(database.port),
            "DAGSTER_POSTGRES_DB": database.name,
            "DAGSTER_POSTGRES_USER": database.user,
            "DAGSTER_POSTGRES_PASSWORD": database.password,
            "DAGSTER_EVENT_BATCH_SIZE": "100",
            **variables,
        }
        return Instance(home, database, environment)

    return make


@pytest.fixture(scope="session")
def kubectl() -> str:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("no kubectl on this machine")
    return program
