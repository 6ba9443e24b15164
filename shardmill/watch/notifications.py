"""Queues in which a bucket announces its changes. An announcement is a hint: what is there is found out by listing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from urllib.parse import unquote_plus

from typing_extensions import override

from shardmill.concurrency import bounded_map
from shardmill.dataset.upkeep import NotificationsSpec
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage
from shardmill.storage.retries import Request

_SECONDS = 8.0
"""The longest that one look takes announcements in."""
_HIDDEN_SECONDS = 600
"""How long an announcement that was received stays away, unless it is acknowledged: several looks."""
_MOST = 5000
"""Messages that one look takes in: their receipts are part of the watcher's state."""
_PULL = 1000
_AT_ONCE = 8
"""Requests to SQS, which gives ten messages each."""


@dataclass
class Announced:
    """What a queue had to say."""

    uris: list[str] = field(default_factory=list)
    """Of objects that were created, overwritten or deleted."""
    receipts: list[str] = field(default_factory=list)
    """For `acknowledge`."""
    unread: int = 0
    """Messages that are no announcements of objects, a test message apart."""

    def take(self, read: Callable[[], list[str]], receipt: str) -> None:
        """Take one message in, whatever it holds."""
        self.receipts.append(receipt)
        try:
            self.uris += read()
        except (ValueError, KeyError, TypeError, AttributeError):
            self.unread += 1


class Notifications(Protocol):
    """A queue of announcements."""

    def receive(self) -> Announced:
        """What was announced. It comes again later unless it is acknowledged.

        Raises:
            StorageError: The queue cannot be read.
        """

    def acknowledge(self, receipts: Sequence[str]) -> None:
        """The announcements with these receipts need not come again.

        Raises:
            StorageError: The queue cannot be told.
        """


def open_notifications(spec: NotificationsSpec, storage: Storage, source: str) -> Notifications:
    """The queue, with the credentials that `storage` has for the URI `source`.

    Raises:
        ConfigurationError: The queue is of another cloud than the source.
    """
    if spec.sqs_queue:
        from shardmill.storage.s3 import S3Store

        store = storage.store(source)
        if not isinstance(store, S3Store) or not source.startswith("s3://"):
            raise ConfigurationError(f"an SQS queue announces objects of s3://, and the source is {source}")
        return SQSQueue(spec.sqs_queue, store.ask, spec.endpoint, lambda: store.identity)
    from shardmill.storage.gcs import GCSStore

    google = storage.store(source)
    if not isinstance(google, GCSStore):
        raise ConfigurationError(
            f"a Pub/Sub subscription announces objects of gs://, read with Google's own credentials; not {source}"
        )
    assert spec.pubsub_subscription is not None  # the spec's own validation
    return PubSubSubscription(spec.pubsub_subscription, google.ask, spec.endpoint, lambda: google.identity)


@dataclass(frozen=True)
class SQSQueue(Notifications):
    """S3 event notifications in an SQS queue, directly or through an SNS topic.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    """

    url: str
    ask: Callable[[str, str | None, Request, Callable[[Any], Any]], Any]
    endpoint: str | None
    identity: Callable[[], str]

    @override
    def receive(self) -> Announced:
        announced, end = Announced(), time.monotonic() + _SECONDS
        requests = 1  # an empty queue is asked once
        while len(announced.receipts) < _MOST and time.monotonic() < end:
            calls = [_receive(self.url)] * requests
            answers = bounded_map(partial(self._call, "sqs:ReceiveMessage"), calls, requests)
            messages = [message for answer in answers for message in answer.get("Messages", [])]
            for message in messages:
                announced.take(partial(_s3_uris, message["Body"]), message["ReceiptHandle"])
            if not messages:
                break
            requests = _AT_ONCE
        return announced

    @override
    def acknowledge(self, receipts: Sequence[str]) -> None:
        calls = [partial(self._delete, receipts[start : start + 10]) for start in range(0, len(receipts), 10)]
        for _ in bounded_map(partial(self._call, "sqs:DeleteMessage"), calls, _AT_ONCE):
            pass

    def _delete(self, receipts: Sequence[str], client: Any) -> Any:
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
        return client.delete_message_batch(QueueUrl=self.url, Entries=entries)

    def _call(self, permission: str, call: Callable[[Any], Any]) -> Any:
        request = Request("read notifications from", self.url, self.identity, permission, _SECONDS)
        return self.ask("sqs", self.endpoint or self.url.rpartition("/")[0].rpartition("/")[0], request, call)


@dataclass(frozen=True)
class PubSubSubscription(Notifications):
    """Notifications of a GCS bucket in a Pub/Sub subscription, by its REST API.

    https://cloud.google.com/storage/docs/pubsub-notifications
    """

    name: str
    """`projects/<project>/subscriptions/<name>`."""
    ask: Callable[[str, dict[str, Any], Request], Any]
    endpoint: str | None
    identity: Callable[[], str]

    @override
    def receive(self) -> Announced:
        announced, end = Announced(), time.monotonic() + _SECONDS
        while len(announced.receipts) < _MOST and time.monotonic() < end:
            # Without `returnImmediately` the answer waits for a message, and the look with it.
            answer = self._call("pull", {"maxMessages": _PULL, "returnImmediately": True})
            messages = answer.get("receivedMessages", [])
            if not messages:
                break
            receipts = [message["ackId"] for message in messages]
            self._call("modifyAckDeadline", {"ackIds": receipts, "ackDeadlineSeconds": _HIDDEN_SECONDS})
            for message in messages:
                announced.take(partial(_gcs_uris, message), message["ackId"])
        return announced

    @override
    def acknowledge(self, receipts: Sequence[str]) -> None:
        for start in range(0, len(receipts), _PULL):
            self._call("acknowledge", {"ackIds": list(receipts[start : start + _PULL])})

    def _call(self, verb: str, content: dict[str, Any]) -> Any:
        request = Request("read notifications from", self.name, self.identity, "pubsub.subscriptions.consume", _SECONDS)
        return self.ask(f"{self.endpoint or 'https://pubsub.googleapis.com'}/v1/{self.name}:{verb}", content, request)


def _receive(url: str) -> Callable[[Any], Any]:
    return lambda client: client.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=_HIDDEN_SECONDS, WaitTimeSeconds=0
    )


def _s3_uris(body: str) -> list[str]:
    content = json.loads(body)
    if content.get("Type") == "Notification":  # an SNS topic's envelope
        content = json.loads(content["Message"])
    if content.get("Event") == "s3:TestEvent":  # sent once, when the notification is configured
        return []
    places = [record["s3"] for record in content["Records"]]
    return [f"s3://{place['bucket']['name']}/{unquote_plus(place['object']['key'])}" for place in places]


def _gcs_uris(message: dict[str, Any]) -> list[str]:
    attributes = message["message"]["attributes"]
    return [f"gs://{attributes['bucketId']}/{attributes['objectId']}"]
