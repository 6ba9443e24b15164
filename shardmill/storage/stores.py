"""Which store a URI leads to. A store is imported, and its client library with it, when it is first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from shardmill.errors import ConfigurationError
from shardmill.storage.credentials import Credentials, GCSCredentials, S3Credentials
from shardmill.storage.store import Store
from shardmill.storage.uris import SCHEMES

_DEFAULTS: dict[str, Credentials] = {"gs": GCSCredentials(), "s3": S3Credentials()}


def store_of(uri: str, credentials: Sequence[Credentials]) -> Store:
    """The store that a URI leads to, with those of the credentials whose prefix fits it best, or the default ones.

    Raises:
        ConfigurationError: There is no store for the URI's scheme, or its client library is not installed.
    """
    scheme = uri.partition("://")[0]
    if scheme == "file":
        return _local_store()
    if scheme not in _DEFAULTS:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigurationError(f"{uri} is on no store that is supported: {known}")
    matching = [item for item in credentials if item.matches(uri)]
    return _object_store(max(matching, key=lambda item: len(item.prefix), default=_DEFAULTS[scheme]))


@lru_cache(maxsize=1)
def _local_store() -> Store:
    from shardmill.storage.local import LocalStore

    return LocalStore()


@lru_cache(maxsize=64)
def _object_store(credentials: Credentials) -> Store:
    """One a process for each credentials, so that connections and tokens are shared."""
    try:
        if isinstance(credentials, S3Credentials):
            from shardmill.storage.s3 import S3Store

            return S3Store(credentials)
        assert isinstance(credentials, GCSCredentials)
        if credentials.hmac_secret:
            from shardmill.storage.s3 import through_s3_api

            return through_s3_api(credentials)
        from shardmill.storage.gcs import GCSStore

        return GCSStore(credentials)
    except ImportError as error:
        extra = credentials.prefix.partition("://")[0].replace("gs", "gcs")
        raise ConfigurationError(f"{error.name} is not installed: pip install 'shardmill[{extra}]'") from error
