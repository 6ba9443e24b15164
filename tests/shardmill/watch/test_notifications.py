"""Queues in which a bucket announces its changes, over their own protocols."""

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from shardmill.dataset.upkeep import NotificationsSpec
from shardmill.errors import AccessDeniedError, ConfigurationError, StorageError
from shardmill.partitions import encode_segment, read_batch, sealed_batches
from shardmill.storage import S3Credentials, Storage
from shardmill.storage.retries import Request
from shardmill.storage.s3 import S3Store
from shardmill.watch.notifications import Notifications, SQSQueue, open_notifications
from tests.servers import PubSubServer, S3Keys, SQSServer
from tests.servers.places import NewPlace, Place, secrets_of
from tests.servers.sqs import Announcing
from tests.shardmill.watch.conftest import PREFIX, Watch, Watched

ODD = ["plain.jpg", "two words.jpg", "a+b%20c&d=e.jpg", "été/写真.jpg"]


@dataclass(frozen=True)
class Queued:
    """A bucket that announces, its queue, and what a test does to the queue."""

    place: Place
    spec: NotificationsSpec
    send: Callable[[Any], None]
    """Put a message into the queue: a body of SQS, attributes of Pub/Sub."""
    announce: Callable[[str], None]
    """Say that an object changed. S3 says so itself."""
    left: Callable[[], int]
    """Messages that were not acknowledged."""
    bring_back: Callable[[list[str]], None]
    """Let the time pass for which messages that were received stay away."""

    def open(self) -> Notifications:
        return open_notifications(self.spec, self.place.storage, self.place.uri)


def moto_place(server: SQSServer, bucket: str, keys: S3Keys) -> Place:
    credentials = S3Credentials(
        endpoint=server.url,
        region=server.region,
        access_key_id=keys.access_key_id,
        secret_access_key=keys.secret_access_key,
        deadline_seconds=5.0,
    )
    return Place("s3", f"s3://{bucket}", (credentials,), keys=keys)


@pytest.fixture
def announcing(sqs_server: SQSServer) -> Announcing:
    return sqs_server.announcing()


@pytest.fixture
def sqs(sqs_server: SQSServer, announcing: Announcing) -> Queued:
    client = sqs_server.client("sqs", sqs_server.keys)

    def send(body: str) -> None:
        client.send_message(QueueUrl=announcing.queue, MessageBody=body)

    def left() -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = client.get_queue_attributes(QueueUrl=announcing.queue, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def bring_back(receipts: list[str]) -> None:
        for receipt in receipts:
            client.change_message_visibility(QueueUrl=announcing.queue, ReceiptHandle=receipt, VisibilityTimeout=0)

    spec = NotificationsSpec(sqs_queue=announcing.queue)
    place = moto_place(sqs_server, announcing.bucket, sqs_server.keys)
    return Queued(place, spec, send, lambda _: None, left, bring_back)


@pytest.fixture
def pubsub(pubsub_server: PubSubServer, place: NewPlace) -> Queued:
    at = place("gs")
    name = f"projects/lab/subscriptions/{uuid.uuid4().hex}"
    subscription = pubsub_server.subscribe(name)

    def announce(changed: str) -> None:
        attributes = {"eventType": "OBJECT_FINALIZE", "bucketId": at.uri.removeprefix("gs://"), "objectId": changed}
        pubsub_server.publish(name, attributes, b"{}")

    return Queued(
        at,
        NotificationsSpec(pubsub_subscription=name, endpoint=pubsub_server.url),
        lambda attributes: pubsub_server.publish(name, attributes, b"poison"),
        announce,
        lambda: len(subscription.messages),
        lambda _: pubsub_server.let_pass(601),
    )


@pytest.fixture(params=["sqs", "pubsub"])
def queued(request: pytest.FixtureRequest) -> Queued:
    found: Queued = request.getfixturevalue(request.param)
    return found


def watching(queued: Queued, watch: Watch, **fields: Any) -> Watched:
    """Everything was listed once; from here on announcements say what to list."""
    watched = watch(queued.place.kind, at=queued.place, **{**PREFIX, "reconcile_hours": 24, **fields})
    watched.queue = queued.open()
    watched.look_and_run(time.time())
    watched.look(time.time())
    return watched


def put(queued: Queued, name: str, data: bytes = b"data") -> None:
    queued.place.put(name, data)
    queued.announce(name)


def delete(queued: Queued, name: str) -> None:
    queued.place.storage.delete(f"{queued.place.uri}/{name}")
    queued.announce(name)


def test_every_name_is_announced_as_it_is(queued: Queued) -> None:
    for name in ODD:
        put(queued, name)
    found = queued.open().receive()
    assert sorted(set(found.uris)) == sorted(f"{queued.place.uri}/{name}" for name in ODD)
    assert found.unread == 0


def test_what_was_announced_comes_again_unless_it_is_acknowledged(queued: Queued) -> None:
    put(queued, "a.jpg")
    queue = queued.open()
    first = queue.receive()
    assert set(first.uris) == {f"{queued.place.uri}/a.jpg"}
    assert queue.receive().receipts == []
    queued.bring_back(first.receipts)
    again = queue.receive()
    assert again.uris == first.uris
    queue.acknowledge(again.receipts)
    queued.bring_back([])
    assert queue.receive().receipts == []
    assert queued.left() == 0
    queue.acknowledge(first.receipts)  # long gone, and no error


def test_a_look_lists_the_partitions_that_were_announced_alone(queued: Queued, watch: Watch) -> None:
    for partition in ("a", "b"):
        for number in range(3):
            put(queued, f"{partition}/{number}.jpg")
    watched = watching(queued, watch)
    put(queued, "b/x y.jpg")
    put(queued, "é/1.jpg")
    found = watched.look(time.time())
    assert sorted(item.partition for item in found.due) == ["b", "~C3~A9"]
    assert (found.scanned, found.reconciled) == (5, None)
    assert found.announced >= 2
    watched.run(*(item.partition for item in found.due))
    for number in range(3):
        delete(queued, f"a/{number}.jpg")
    emptied = watched.look(time.time())
    assert ([item.partition for item in emptied.due], emptied.deleted) == (["a"], 1)
    watched.run("a")
    assert watched.look(time.time()).due == []
    assert watched.committed() == watched.there()


def test_a_partition_whose_key_was_shortened_is_found_gone(pubsub: Queued, watch: Watch) -> None:
    name = "long" * 40
    put(pubsub, f"{name}/1.jpg")
    watched = watching(pubsub, watch)
    delete(pubsub, f"{name}/1.jpg")
    assert watched.look_and_run(time.time()) == [encode_segment(name)]
    assert watched.committed() == {}
    assert watched.look(time.time()).due == []


def test_what_nobody_announced_is_found_by_reconciliation(queued: Queued, watch: Watch) -> None:
    watched = watching(queued, watch)
    put(queued, "a/1.jpg")
    queue = queued.open()
    queue.acknowledge(queue.receive().receipts)  # somebody else has read it
    assert watched.look(time.time()).due == []
    assert [item.partition for item in watched.look(time.time() + 25 * 3600).due] == ["a"]


def test_messages_are_forgotten_by_the_look_after(queued: Queued, watch: Watch) -> None:
    watched = watching(queued, watch)
    before = queued.left()
    put(queued, "a/1.jpg")
    announced = queued.left() - before
    died = watched.look(time.time(), keep=False)
    assert len(died.due) == 1
    assert queued.left() == announced
    queued.bring_back([])
    if queued.spec.sqs_queue:
        put(queued, "a/2.jpg")
    assert len(watched.look(time.time()).due) == 1
    assert queued.left() > 0
    watched.look(time.time())
    assert queued.left() <= (announced if queued.spec.sqs_queue else 0)


def test_a_subscription_that_takes_no_old_receipts_stops_no_look(
    pubsub: Queued, pubsub_server: PubSubServer, watch: Watch
) -> None:
    """The dataset file names another subscription now: its server does not know what the first one gave."""
    watched = watching(pubsub, watch)
    put(pubsub, "a/1.jpg")
    assert watched.look_and_run(time.time()) == ["a"]
    name = f"projects/lab/subscriptions/{uuid.uuid4().hex}"
    pubsub_server.subscribe(name)
    spec = NotificationsSpec(pubsub_subscription=name, endpoint=pubsub_server.url)
    watched.queue = open_notifications(spec, pubsub.place.storage, pubsub.place.uri)
    found = watched.look(time.time())
    assert "notifications could not be acknowledged and will come again: " in str(found)
    assert "does not belong to the given ack ID" in str(found)
    assert watched.look(time.time()).refused is None


def test_what_is_announced_while_its_partition_is_listed_is_found(pubsub: Queued, watch: Watch) -> None:
    for number in range(6):
        put(pubsub, f"a/{number}5.jpg")
    watched = watching(pubsub, watch)
    pubsub.announce("a/05.jpg")  # announcements may come twice
    assert watched.look(time.time(), objects=4).due == []
    put(pubsub, "a/00.jpg")  # behind the listing
    for _ in range(4):
        watched.look_and_run(time.time(), objects=4)
    assert watched.committed() == watched.there()


POISON: dict[str, list[Any]] = {
    "sqs": ["", "{", "7", "null", "[]", "{}", '{"Records": 1}', '{"Records": [{}]}', '{"Type": "Notification"}'],
    "pubsub": [None, {}, {"bucketId": "b"}],
}


def test_a_message_that_is_none_is_counted_and_blocks_nothing(
    queued: Queued, watch: Watch, request: pytest.FixtureRequest
) -> None:
    watched = watching(queued, watch)
    poison = [body for body in POISON["sqs" if queued.spec.sqs_queue else "pubsub"] if body != ""]
    for body in poison:
        queued.send(body)
    put(queued, "a/1.jpg")
    found = watched.look(time.time())
    assert [item.partition for item in found.due] == ["a"]
    assert found.unread == len(poison)
    assert "messages that are none, ignored" in str(found)
    for _ in range(2):
        assert watched.look(time.time()).unread == 0
    assert queued.left() == 0


def test_announced_objects_are_sealed_in_batches_and_changed_ones_make_theirs_due(queued: Queued, watch: Watch) -> None:
    batch = {"by": "batch", "max_objects": 2, "max_age_minutes": 0}
    watched = watching(queued, watch, partitions=batch, template="raw", source={"components": {"jpg": "{key}.jpg"}})
    for name in ("raw/a.jpg", "raw/b.jpg", "raw/c.jpg", "raw/d.jpg", "raw/e.jpg", "raw/notes.txt", "beside.jpg"):
        put(queued, name)
    put(queued, "raw/gone.jpg")
    delete(queued, "raw/gone.jpg")
    assert watched.look_and_run(time.time() + 9) == ["batch-000001", "batch-000002", "batch-000003"]
    storage, home = watched.dataset.storage, watched.dataset.home
    sealed = [uri for key in sealed_batches(storage, home) for uri in read_batch(storage, home, key).uris]
    assert sealed == [f"{queued.place.uri}/raw/{name}.jpg" for name in "abcde"]
    put(queued, "raw/c.jpg", b"other")
    delete(queued, "raw/a.jpg")
    assert sorted(watched.look_and_run(time.time() + 9)) == ["batch-000001", "batch-000002"]
    assert watched.look(time.time() + 9).due == []
    assert len(sealed_batches(storage, home)) == 3
    assert watched.there().keys() == {"all"}


def test_more_announced_objects_than_make_two_batches_are_all_kept(queued: Queued, watch: Watch) -> None:
    batch = {"by": "batch", "max_objects": 2, "max_age_minutes": 0}
    watched = watching(queued, watch, partitions=batch, template="raw", quiet_seconds=60)
    for number in range(9):
        put(queued, f"raw/{number}.jpg")
    found = watched.look(time.time() + 9)
    assert (found.due, found.waiting) == ([], 9)
    assert len(watched.look(time.time() + 99).due) == 5


# SQS alone.


def test_the_test_message_and_both_envelopes_are_understood(sqs: Queued) -> None:
    queue = sqs.open()
    first = queue.receive()  # s3:TestEvent, which a bucket sends when it is told to announce
    assert (first.uris, first.unread, len(first.receipts)) == ([], 0, 1)
    record = {"s3": {"bucket": {"name": "other"}, "object": {"key": "a+b/%C3%A9.jpg"}}}
    sqs.send(json.dumps({"Type": "Notification", "Message": json.dumps({"Records": [record, record]})}))
    sqs.send(json.dumps({"Type": "Notification", "Message": json.dumps({"Event": "s3:TestEvent"})}))
    found = queue.receive()
    assert (set(found.uris), found.unread) == ({"s3://other/a b/é.jpg"}, 0)
    assert len(found.uris) >= 2


def test_an_upload_in_parts_is_announced_when_it_is_complete(sqs: Queued, sqs_server: SQSServer) -> None:
    client, bucket = sqs_server.client("s3", sqs_server.keys), sqs.place.uri.removeprefix("s3://")
    queue = sqs.open()
    queue.acknowledge(queue.receive().receipts)
    upload = client.create_multipart_upload(Bucket=bucket, Key="big.jpg")["UploadId"]
    name = {"Bucket": bucket, "Key": "big.jpg", "UploadId": upload}
    part = client.upload_part(**name, PartNumber=1, Body=b"data")
    assert queue.receive().uris == []
    client.complete_multipart_upload(**name, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    assert set(queue.receive().uris) == {f"{sqs.place.uri}/big.jpg"}


def test_more_messages_than_an_answer_holds_are_taken_in_by_one_look(sqs: Queued) -> None:
    for number in range(25):  # an answer holds ten
        sqs.send(json.dumps({"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": str(number)}}}]}))
    queue = sqs.open()
    found = queue.receive()
    assert set(found.uris) == {f"s3://b/{number}" for number in range(25)}  # some may come twice, as SQS says
    queue.acknowledge(found.receipts)
    assert sqs.left() == 0


def test_a_queue_that_may_not_be_read_is_named_with_the_permission(
    sqs: Queued, sqs_server: SQSServer, announcing: Announcing
) -> None:
    place = moto_place(sqs_server, announcing.bucket, sqs_server.stranger)
    with pytest.raises(AccessDeniedError) as caught:
        open_notifications(sqs.spec, place.storage, place.uri).receive()
    assert announcing.queue in str(caught.value)
    assert "sqs:ReceiveMessage" in str(caught.value)
    assert_no_secret(caught.value, place)


def test_wrong_keys_for_a_queue_are_no_secret(sqs: Queued, sqs_server: SQSServer, announcing: Announcing) -> None:
    place = moto_place(sqs_server, announcing.bucket, S3Keys(sqs_server.keys.access_key_id, "wrong-secret-key"))
    with pytest.raises(AccessDeniedError) as caught:
        open_notifications(sqs.spec, place.storage, place.uri).receive()
    assert announcing.queue in str(caught.value)
    assert_no_secret(caught.value, place)


@pytest.mark.parametrize("code", ["InvalidClientTokenId", "UnrecognizedClientException", "ExpiredTokenException"])
def test_keys_that_sqs_does_not_accept_are_called_so(code: str) -> None:
    """With AWS's codes: moto gives none in its answers about SQS."""
    from botocore.exceptions import ClientError

    keys = S3Credentials(region="us-east-1", access_key_id="AKIA", secret_access_key="secret")
    store = Storage((keys,)).store("s3://bucket")
    assert isinstance(store, S3Store)

    def ask(service: str, endpoint: str | None, request: Request, call: Callable[[Any], Any]) -> Any:
        def refused(client: Any) -> Any:
            answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 403}}
            raise ClientError(answer, "ReceiveMessage")  # type: ignore[arg-type]

        return store.ask(service, endpoint, request, refused)

    queue = SQSQueue("https://sqs.us-east-1.amazonaws.com/1/queue", ask, None, lambda: store.identity)
    with pytest.raises(AccessDeniedError, match=r"/1/queue: the store does not accept the credentials of .*AKIA"):
        queue.receive()


def test_a_queue_that_is_not_there_is_named(sqs: Queued, announcing: Announcing) -> None:
    spec = NotificationsSpec(sqs_queue=f"{announcing.queue}-of-nobody")
    with pytest.raises(StorageError, match="of-nobody"):
        open_notifications(spec, sqs.place.storage, sqs.place.uri).receive()


def assert_no_secret(error: BaseException, place: Place) -> None:
    for secret in secrets_of(*place.credentials):
        assert secret not in str(error)


# Pub/Sub alone.


def test_a_subscription_that_may_not_be_read_is_named_with_the_permission(
    pubsub: Queued, pubsub_server: PubSubServer
) -> None:
    name = str(pubsub.spec.pubsub_subscription)
    pubsub_server.subscriptions[name].denied = True
    with pytest.raises(AccessDeniedError) as caught:
        pubsub.open().receive()
    for part in (name, "pubsub.subscriptions.consume", pubsub.place.email):
        assert part in str(caught.value)


def test_a_revoked_account_is_told_apart_from_a_missing_permission(pubsub: Queued, gcs_server: Any) -> None:
    queue = pubsub.open()
    queue.receive()
    gcs_server.revoke(pubsub.place.email)
    with pytest.raises(AccessDeniedError, match="does not accept the credentials") as caught:
        queue.receive()
    assert str(pubsub.spec.pubsub_subscription) in str(caught.value)


def test_a_subscription_outlives_its_tokens(pubsub: Queued, gcs_server: Any) -> None:
    queue = pubsub.open()
    queue.receive()
    gcs_server.expire_tokens()
    put(pubsub, "a.jpg")
    assert len(queue.receive().uris) == 1


def test_a_subscription_that_is_not_there_is_named(pubsub: Queued) -> None:
    spec = pubsub.spec.model_copy(update={"pubsub_subscription": "projects/lab/subscriptions/of-nobody"})
    with pytest.raises(StorageError, match="projects/lab/subscriptions/of-nobody"):
        open_notifications(spec, pubsub.place.storage, pubsub.place.uri).receive()


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ({"sqs_queue": "http://127.0.0.1:9/1/q"}, "gs://b/x"),
        ({"sqs_queue": "http://127.0.0.1:9/1/q"}, "file:///x"),
        ({"pubsub_subscription": "projects/p/subscriptions/s"}, "s3://b/x"),
        ({"pubsub_subscription": "projects/p/subscriptions/s"}, "file:///x"),
    ],
)
def test_a_queue_of_another_cloud_is_refused(spec: dict[str, str], source: str) -> None:
    with pytest.raises(ConfigurationError, match="announces objects of"):
        open_notifications(NotificationsSpec(**spec), Storage(), source)  # type: ignore[arg-type]
