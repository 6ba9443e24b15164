"""moto as S3 and SQS with policies enforced: buckets that announce what changes in a queue."""

import uuid
from dataclasses import dataclass
from typing import Any

from tests.servers.seaweedfs import S3Keys
from tests.servers.sts import STSServer, policy


@dataclass(frozen=True)
class Announcing:
    """A bucket and the queue in which it announces every object that is created or removed."""

    bucket: str
    queue: str
    """URL."""


class SQSServer(STSServer):
    """`keys` may do anything with buckets and queues, `stranger` with buckets alone."""

    def announcing(self) -> Announcing:
        """A new bucket and its queue."""
        name = f"announcing-{uuid.uuid4().hex[:12]}"
        sqs, s3 = self.client("sqs", self.keys), self.client("s3", self.keys)
        queue = sqs.create_queue(QueueName=name)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        s3.create_bucket(Bucket=name)
        configuration = {"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
        s3.put_bucket_notification_configuration(
            Bucket=name, NotificationConfiguration={"QueueConfigurations": [configuration]}
        )
        return Announcing(name, queue)

    def _make_users(self) -> None:
        iam = self.client("iam", S3Keys("setup", "setup"))
        self.keys = self._make_user(iam, "watcher")
        self.stranger = self._make_user(iam, "watcher-of-buckets")
        for user, actions in (("watcher", ["s3:*", "sqs:*"]), ("watcher-of-buckets", ["s3:*"])):
            self._allow(iam, user, actions)

    def _allow(self, iam: Any, user: str, actions: list[str]) -> None:
        iam.put_user_policy(UserName=user, PolicyName="all", PolicyDocument=policy(*actions, Resource="*"))
