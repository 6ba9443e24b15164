"""moto as an STS server that enforces policies: one user may assume a role, another may not."""

import json
import sys
import urllib.request
from typing import Any

from tests.servers.processes import Child, Server
from tests.servers.seaweedfs import S3Keys

READ_WRITE = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket")


class STSServer(Server):
    """`keys` may assume `role_arn`, `stranger` may not; only the role may read and write `bucket`."""

    region = "us-east-1"
    bucket = "role-only"
    role_arn: str
    keys: S3Keys
    stranger: S3Keys

    def __init__(self) -> None:
        super().__init__("sts")

    def _start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._ports[0])]
        child = Child(command, self._folder / "moto.log")
        self._children.append(child)
        child.wait_until(self._answers)
        self._make_users()
        self._call("/moto-api/reset-auth", b"0")  # from here on every call is checked

    def client(self, service: str, keys: S3Keys, session_token: str | None = None) -> Any:
        """A boto3 client of `service` ("sts", "s3", "iam") without retries."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id=keys.access_key_id,
            aws_secret_access_key=keys.secret_access_key,
            aws_session_token=session_token,
            config=Config(retries={"max_attempts": 1, "mode": "standard"}),
        )

    def _make_users(self) -> None:
        setup = S3Keys("setup", "setup")
        iam = self.client("iam", setup)
        self.client("s3", setup).create_bucket(Bucket=self.bucket)
        trust = policy("sts:AssumeRole", Principal={"AWS": "*"})
        role = iam.create_role(RoleName="lab-role", AssumeRolePolicyDocument=trust)
        self.role_arn = role["Role"]["Arn"]
        resources = [f"arn:aws:s3:::{self.bucket}", f"arn:aws:s3:::{self.bucket}/*"]
        iam.put_role_policy(
            RoleName="lab-role", PolicyName="bucket", PolicyDocument=policy(*READ_WRITE, Resource=resources)
        )
        self.keys = self._make_user(iam, "lab-user")
        self.stranger = self._make_user(iam, "lab-stranger")
        assume = policy("sts:AssumeRole", Resource=self.role_arn)
        iam.put_user_policy(UserName="lab-user", PolicyName="assume", PolicyDocument=assume)

    def _make_user(self, iam: Any, name: str) -> S3Keys:
        iam.create_user(UserName=name)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return S3Keys(key["AccessKeyId"], key["SecretAccessKey"])

    def _answers(self) -> bool:
        try:
            self._call("/moto-api/data.json")
        except OSError:
            return False
        return True

    def _call(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.url}{path}", body, {"Content-Type": "text/plain"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            data: bytes = answer.read()
        return data


def policy(*actions: str, **rest: Any) -> str:
    """An IAM policy that allows these actions."""
    statement = {"Effect": "Allow", "Action": list(actions), **rest}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
