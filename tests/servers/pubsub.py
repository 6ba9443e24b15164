"""Pub/Sub's REST API, as far as a subscriber needs it: pull, acknowledge, modifyAckDeadline.

https://cloud.google.com/pubsub/docs/reference/rest/v1/projects.subscriptions
"""

import base64
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

FIRST_DEADLINE_SECONDS = 10.0


@dataclass
class Subscription:
    """Messages that nobody acknowledged yet."""

    denied: bool = False
    """Whether nobody holds `pubsub.subscriptions.consume`."""
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    hidden_until: dict[str, float] = field(default_factory=dict)
    """Seconds of the server's clock, a message each."""
    ack_ids: dict[str, str] = field(default_factory=dict)
    """Acknowledgement id → message; each delivery has one of its own, and keeps it when the message is gone."""


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": status, "status": name, "message": message}}


class PubSubServer:
    """Subscriptions on a port of 127.0.0.1, for callers whose token the GCS at `identity_url` knows."""

    def __init__(self, identity_url: str) -> None:
        self._identity_url = identity_url
        self._lock = threading.Lock()
        self._ahead = 0.0
        self._deliveries = 0
        self.subscriptions: dict[str, Subscription] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def subscribe(self, name: str) -> Subscription:
        """Create the subscription `projects/…/subscriptions/…`."""
        made = self.subscriptions[name] = Subscription()
        return made

    def publish(self, name: str, attributes: Mapping[str, str] | None, data: bytes = b"") -> None:
        """Give the subscription a message."""
        message: dict[str, Any] = {"data": base64.b64encode(data).decode()}
        if attributes is not None:
            message["attributes"] = dict(attributes)
        with self._lock:
            self._deliveries += 1
            number = str(self._deliveries)
            self.subscriptions[name].messages[number] = {**message, "messageId": number}

    def let_pass(self, seconds: float) -> None:
        """Put the server's clock forward."""
        self._ahead += seconds

    def answer(self, path: str, token: str | None, content: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request. Raises Refused."""
        name, _, verb = unquote(path).removeprefix("/v1/").partition(":")
        self._check(token)
        subscription = self.subscriptions.get(name)
        if subscription is None:
            raise Refused(404, "NOT_FOUND", f"Resource not found (resource={name}).")
        if subscription.denied:
            raise Refused(403, "PERMISSION_DENIED", "User not authorized to perform this action.")
        with self._lock:
            match verb:
                case "pull":
                    return self._pull(subscription, int(content["maxMessages"]))
                case "acknowledge":
                    if any(ack_id not in subscription.ack_ids for ack_id in content["ackIds"]):
                        text = "You have passed a subscription that does not belong to the given ack ID"
                        raise Refused(400, "INVALID_ARGUMENT", f"{text} (resource={name}).")
                    for ack_id in content["ackIds"]:
                        subscription.messages.pop(subscription.ack_ids[ack_id], None)
                    return {}
                case "modifyAckDeadline":
                    for ack_id in content["ackIds"]:
                        number = subscription.ack_ids[ack_id]
                        subscription.hidden_until[number] = self._now + content["ackDeadlineSeconds"]
                    return {}
        raise Refused(404, "NOT_FOUND", f"no verb {verb!r}")

    def _pull(self, subscription: Subscription, most: int) -> dict[str, Any]:
        ready = [each for each in subscription.messages if subscription.hidden_until.get(each, 0) <= self._now]
        received = []
        for number in ready[:most]:
            self._deliveries += 1
            ack_id = f"{number}-{self._deliveries}"
            subscription.ack_ids[ack_id] = number
            subscription.hidden_until[number] = self._now + FIRST_DEADLINE_SECONDS
            received.append({"ackId": ack_id, "message": subscription.messages[number]})
        return {"receivedMessages": received} if received else {}

    @property
    def _now(self) -> float:
        return time.monotonic() + self._ahead

    def _check(self, token: str | None) -> None:
        """Whoever has no token that the GCS issued is nobody here either."""
        unknown = Refused(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        if token is None:
            raise unknown
        url = f"{self._identity_url}/storage/v1/b/public/iam/testPermissions"
        try:
            urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": token}), timeout=10).close()
        except urllib.error.HTTPError as error:
            error.close()
            raise unknown from None


def _handler(server: PubSubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                status, body = 200, server.answer(self.path, self.headers["Authorization"], content)
            except Refused as refused:
                status, body = refused.status, refused.body
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler
