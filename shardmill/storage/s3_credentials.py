"""Keys for S3, found, assumed and renewed by botocore, for every client of a store."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from shardmill.errors import AccessDeniedError, ConfigurationError
from shardmill.storage.credentials import ANONYMOUS, S3Credentials, reveal
from shardmill.storage.s3_errors import code_of, interrupted, is_temporary

_ASK_AGAIN = timedelta(minutes=10)
"""How long obstore may go on with credentials of botocore's, which do not say when they end."""
RENEW_BEFORE = timedelta(minutes=10)
"""How long before the end of a role's session the next begins. Earlier than obstore asks, which is at five minutes."""
ONCE = {"mode": "standard", "total_max_attempts": 1}
"""botocore tries nothing again: we do, and know what was tried."""


class S3Provider:
    """Credentials for every client of a store. They ask again before the credentials end."""

    def __init__(self, credentials: S3Credentials) -> None:
        self._given = credentials
        self._session: Any = None
        self._found: Any = None
        self._assumed: Any = None
        self._key_id = ""
        self.is_a_session = bool(credentials.role_arn)
        """Whether the credentials that were found last expire."""
        self._lock = threading.RLock()

    def __call__(self) -> Any:
        """An obstore `S3Credential`.

        Raises:
            ConfigurationError: There are no credentials, or they do not work.
            AccessDeniedError: They are refused.
            ConnectionError: Another try may help.
        """
        with self._lock:
            if not self._given.role_arn:
                return self._own()
            if self._assumed is None or self._assumed["expires_at"] < datetime.now(UTC) + RENEW_BEFORE:
                self._assumed = self._assume(self._given.role_arn)
            return self._assumed

    @property
    def identity(self) -> str:
        """The role, the key or the profile."""
        given = self._given
        if given.anonymous:
            return ANONYMOUS
        if given.role_arn:
            return given.role_arn
        if given.access_key_id:
            return f"access key {given.access_key_id}"
        key = f", access key {self._key_id}" if self._key_id else ""
        return f"profile {given.profile}{key}" if given.profile else f"the default AWS credentials{key}"

    @property
    def region(self) -> str:
        """What is given, or the environment's, or the profile's."""
        found = self._given.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not found and not self._given.anonymous:
            with self._lock:
                found = self._boto3_session().region_name
        return found or "us-east-1"

    def forget(self) -> None:
        """Begin anew: files and variables may say something else by now."""
        with self._lock:
            self._session = self._found = self._assumed = None

    def client(self, service: str, keys: Any, **options: Any) -> Any:
        """A boto3 client with these credentials."""
        import boto3

        with self._lock:
            session = boto3.Session() if keys is None else self._boto3_session()
            signing = keys and {
                "aws_access_key_id": keys["access_key_id"],
                "aws_secret_access_key": keys["secret_access_key"],
                "aws_session_token": keys["token"],
            }
            return session.client(service, region_name=self.region, **(signing or {}), **options)

    def _boto3_session(self) -> Any:
        import boto3

        given = self._given
        if self._session is None:
            with self._explained():
                self._session = boto3.Session(
                    profile_name=given.profile,
                    region_name=given.region,
                    aws_access_key_id=given.access_key_id,
                    aws_secret_access_key=reveal(given.secret_access_key) if given.secret_access_key else None,
                    aws_session_token=reveal(given.session_token) if given.session_token else None,
                )
        return self._session

    def _own(self) -> dict[str, Any]:
        """The keys that are given, or that botocore finds. It renews them itself, long before they end."""
        given = self._given
        with self._explained():
            self._found = self._found or self._boto3_session().get_credentials()
            if self._found is None:
                raise ConfigurationError(
                    f"no AWS credentials for {given.prefix}: give keys, a profile or a role, or `anonymous: true`"
                )
            frozen = self._found.get_frozen_credentials()
        kinds = {"access key ID": frozen.access_key, "secret access key": frozen.secret_key, "token": frozen.token}
        for kind, value in kinds.items():
            if value and re.search(r"[^!-~]", value):  # no header may hold it; obstore would panic
                raise ConfigurationError(
                    f"the AWS {kind} for {given.prefix} holds a space, a line break or another character that none "
                    "has: was it copied whole, and nothing else?"
                )
        self._key_id, self.is_a_session = frozen.access_key, bool(frozen.token) or bool(given.role_arn)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": None if given.access_key_id else datetime.now(UTC) + _ASK_AGAIN,
        }

    def _assume(self, role_arn: str) -> dict[str, Any]:
        from botocore.config import Config

        given = self._given
        external = {"ExternalId": reveal(given.external_id)} if given.external_id else {}
        config = Config(
            connect_timeout=min(10.0, given.request_seconds), read_timeout=given.request_seconds, retries=ONCE
        )
        own = self._own()
        with self._explained():
            sts = self.client("sts", own, endpoint_url=given.sts_endpoint, config=config)
            answer = sts.assume_role(RoleArn=role_arn, RoleSessionName=given.role_session_name, **external)
        keys = answer["Credentials"]
        return {
            "access_key_id": keys["AccessKeyId"],
            "secret_access_key": keys["SecretAccessKey"],
            "token": keys["SessionToken"],
            "expires_at": keys["Expiration"].astimezone(UTC),  # obstore takes no other kind of zone
        }

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of botocore, while it gets credentials, as ours."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except Exception as error:
            if is_temporary(error):
                raise interrupted(error) from None
            if isinstance(error, BotoCoreError):
                raise ConfigurationError(f"no AWS credentials for {self._given.prefix}: {error}") from None
            if not isinstance(error, ClientError):
                raise
            given = self._given
            role = given.role_arn or "the role of the profile"
            who = given.access_key_id or given.profile or "the default AWS credentials"
            raise AccessDeniedError(
                f"cannot assume {role} as {who} ({code_of(error)}): the permission sts:AssumeRole is missing, or the "
                "role does not trust this identity"
            ) from None
