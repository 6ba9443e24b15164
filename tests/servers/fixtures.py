"""Pytest fixtures: the servers, once a session and only if a test asks; a fresh bucket and fault proxies a test."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.servers.faults import FaultProxy
from tests.servers.gcs import GCSServer
from tests.servers.postgres import PostgresServer, installed
from tests.servers.processes import CLIENT_ENVIRONMENT
from tests.servers.pubsub import PubSubServer
from tests.servers.seaweedfs import S3Server
from tests.servers.sqs import SQSServer
from tests.servers.sts import STSServer

StartProxy = Callable[..., FaultProxy]


@pytest.fixture(scope="session", autouse=True)
def client_environment() -> Iterator[None]:
    """No test asks a metadata server; gcsfs makes no layout calls."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CLIENT_ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def gcs_server(client_environment: None) -> Iterator[GCSServer]:
    with GCSServer() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(client_environment: None) -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def sts_server(client_environment: None) -> Iterator[STSServer]:
    with STSServer() as server:
        yield server


@pytest.fixture(scope="session")
def sqs_server(client_environment: None) -> Iterator[SQSServer]:
    with SQSServer() as server:
        yield server


@pytest.fixture(scope="session")
def pubsub_server(gcs_server: GCSServer) -> Iterator[PubSubServer]:
    with PubSubServer(gcs_server.url) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    if installed() is None:
        pytest.skip("no PostgreSQL server on this machine: install Debian's postgresql")
    with PostgresServer() as server:
        yield server


@pytest.fixture
def gcs_bucket(gcs_server: GCSServer) -> str:
    """Name of a new bucket that no account has a role on."""
    return gcs_server.make_bucket(_unique())


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """Name of a new bucket."""
    return s3_server.make_bucket(_unique())


@pytest.fixture
def fault_proxy() -> Iterator[StartProxy]:
    """`fault_proxy(upstream_url, rate=0.2, seed=1, kinds=("reset",))` starts a proxy that ends with the test."""
    with ExitStack() as proxies:
        yield lambda *arguments, **options: proxies.enter_context(FaultProxy(*arguments, **options))


def _unique() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"
