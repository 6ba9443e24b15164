"""SeaweedFS as an S3 server that enforces keys, actions and write preconditions."""

import json
import secrets
import signal
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers.processes import Child, Server

PORTS = (
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
)
PUBLIC_BUCKET = "public"


@dataclass(frozen=True)
class S3Keys:
    """What a client signs with."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True)
class Identity:
    """A name, its keys and its actions: `Read`, or `Read:bucket` for one bucket only."""

    name: str
    keys: S3Keys
    actions: tuple[str, ...]

    def as_config(self, *, revoked: bool) -> dict[str, Any]:
        """The identity as SeaweedFS's configuration writes it.

        A reload takes over changed keys but keeps identities that are gone. So a revoked one gets keys nobody has.
        """
        access_key = secrets.token_hex(10) if revoked else self.keys.access_key_id
        keys = {"accessKey": access_key, "secretKey": self.keys.secret_access_key}
        return {"name": self.name, "credentials": [keys], "actions": list(self.actions)}


class S3Server(Server):
    """`weed mini` on 127.0.0.1 with an admin, a reader, a writer and anonymous access to the bucket `public`.

    Revoked keys are refused with 403 InvalidAccessKeyId from the moment that `revoke` returns.
    """

    region = "us-east-1"

    def __init__(self) -> None:
        super().__init__("s3", len(PORTS))
        self.admin = S3Keys("LABADMIN", "admin-secret-0001")
        self.reader = S3Keys("LABREADER", "reader-secret-0001")
        self.writer = S3Keys("LABWRITER", "writer-secret-0001")
        self._identities = [
            Identity("admin", self.admin, ("Admin", "Read", "Write", "List", "Tagging")),
            Identity("reader", self.reader, ("Read", "List")),
            Identity("writer", self.writer, ("Read", "Write", "List", "Tagging")),
        ]
        self._revoked: set[str] = set()

    def _start(self) -> None:
        self._write_identities()
        (self._folder / "data").mkdir()
        self._children.append(Child(self._command(), self._folder / "weed.log", {"HOME": str(self._folder)}))
        self._children[0].wait_until(self._answers)
        self.make_bucket(PUBLIC_BUCKET)

    def restart(self) -> None:
        """Kill the server in the midst of whatever it does, and start it again on what it had stored."""
        self._children.pop().kill()
        self._children.append(Child(self._command(), self._folder / "weed.log", {"HOME": str(self._folder)}))
        self._children[0].wait_until(self._answers)

    def client(self, keys: S3Keys | None = None) -> Any:
        """A boto3 client without retries: of the admin, or of whoever holds `keys`."""
        import boto3
        from botocore.config import Config

        keys = keys or self.admin
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id=keys.access_key_id,
            aws_secret_access_key=keys.secret_access_key,
            config=Config(retries={"max_attempts": 1, "mode": "standard"}, s3={"addressing_style": "path"}),
        )

    def make_bucket(self, name: str) -> str:
        """Create a bucket, as the admin."""
        self.client().create_bucket(Bucket=name)
        return name

    def identity(self, name: str, *actions: str) -> S3Keys:
        """Add an identity with these actions, such as `Read:bucket`, and return its keys."""
        keys = S3Keys(f"LAB{name.upper()}", f"{name}-secret-0001")
        self._identities.append(Identity(name, keys, actions))
        self._reload(keys, accepted=True)
        return keys

    def revoke(self, keys: S3Keys) -> None:
        """Refuse these keys from now on."""
        self._revoked.add(keys.access_key_id)
        self._reload(keys, accepted=False)

    def allow(self, keys: S3Keys) -> None:
        """Accept revoked keys again."""
        self._revoked.discard(keys.access_key_id)
        self._reload(keys, accepted=True)

    def _reload(self, keys: S3Keys, *, accepted: bool) -> None:
        """Make the running server read its identities, and wait until it treats `keys` so."""
        self._write_identities()
        if not self._children:
            return
        self._children[0].signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while self._accepts(keys) is not accepted:
            if time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS did not take over its identities: {keys.access_key_id}")
            time.sleep(0.02)

    def _accepts(self, keys: S3Keys) -> bool:
        """Whether the server knows this access key id, whatever it may do."""
        from botocore.exceptions import ClientError

        try:
            self.client(keys).list_objects_v2(Bucket=PUBLIC_BUCKET, MaxKeys=1)
        except ClientError as error:
            return bool(error.response["Error"]["Code"] != "InvalidAccessKeyId")
        return True

    def _write_identities(self) -> None:
        anonymous = {"name": "anonymous", "actions": [f"Read:{PUBLIC_BUCKET}", f"List:{PUBLIC_BUCKET}"]}
        identities = [each.as_config(revoked=each.keys.access_key_id in self._revoked) for each in self._identities]
        fresh = self._folder / "identities.json.new"
        fresh.write_text(json.dumps({"identities": [anonymous, *identities]}, indent=1))
        fresh.replace(self._folder / "identities.json")

    def _command(self) -> list[str]:
        binary = Path(sys.executable).with_name("weed")
        return [
            str(binary),
            "mini",
            f"-dir={self._folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            "-admin.ui=false",
            "-webdav=false",
            "-s3",
            f"-s3.config={self._folder / 'identities.json'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            # Every bucket takes a volume. By default there are as many as gigabytes on the disk are free.
            "-volume.max=4000",
            "-master.volumeSizeLimitMB=256",
            *(f"-{name}={port}" for name, port in zip(PORTS, self._ports, strict=True)),
        ]

    def _answers(self) -> bool:
        """Whether S3 is up and the filer behind it: a listing of a bucket that may be missing."""
        try:
            urllib.request.urlopen(f"{self.url}/{PUBLIC_BUCKET}?list-type=2", timeout=2).close()
        except urllib.error.HTTPError as error:
            return error.code < 500
        except OSError:
            return False
        return True
