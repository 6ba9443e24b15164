"""Object stores on loopback that enforce credentials, and a proxy that breaks their answers.

`GCSServer` is fake-gcs-server behind a gate of ours, `S3Server` is SeaweedFS, `STSServer` is moto with enforcement on.
`FaultProxy` stands in front of any of them. `fixtures` hands them to pytest, `python -m tests.servers` to a person.
"""

from tests.servers.faults import FaultProxy
from tests.servers.gcs import GCSServer
from tests.servers.seaweedfs import S3Keys, S3Server
from tests.servers.sts import STSServer

__all__ = ["FaultProxy", "GCSServer", "S3Keys", "S3Server", "STSServer"]
