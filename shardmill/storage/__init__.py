"""Storage: the few verbs the product needs, over URIs. Nothing above this package knows which store it talks to."""

from shardmill.storage.credentials import Credentials, GCSCredentials, S3Credentials, load_credentials
from shardmill.storage.objects import ObjectInfo, PassedOver
from shardmill.storage.storage import Storage
from shardmill.storage.uris import SCHEMES, absolute_uri, checked_place, checked_uri, join_uri, relative_to, unsupported

__all__ = [
    "SCHEMES",
    "Credentials",
    "GCSCredentials",
    "ObjectInfo",
    "PassedOver",
    "S3Credentials",
    "Storage",
    "absolute_uri",
    "checked_place",
    "checked_uri",
    "join_uri",
    "load_credentials",
    "relative_to",
    "unsupported",
]
