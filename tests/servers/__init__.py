"""Object stores and PostgreSQL on loopback that enforce credentials, and a proxy that breaks the stores' answers.

`GCSServer` is fake-gcs-server behind a gate of ours, `S3Server` is SeaweedFS, `STSServer` and `SQSServer` are moto with
enforcement on, `PubSubServer` is ours, `PostgresServer` is Debian's, where it is installed.
`FaultProxy` stands in front of any of them. `fixtures` hands them to pytest, `python -m tests.servers` to a person.
"""

from tests.servers.faults import FaultProxy
from tests.servers.gcs import GCSServer
from tests.servers.postgres import PostgresServer
from tests.servers.pubsub import PubSubServer
from tests.servers.seaweedfs import S3Keys, S3Server
from tests.servers.sqs import SQSServer
from tests.servers.sts import STSServer

__all__ = ["FaultProxy", "GCSServer", "PostgresServer", "PubSubServer", "S3Keys", "S3Server", "SQSServer", "STSServer"]
