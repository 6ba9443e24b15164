"""Storage: the few verbs the product needs, over URIs. Nothing above this package knows which store it talks to."""

from shardmill.storage.storage import ObjectInfo, Storage
from shardmill.storage.uris import absolute_uri, join_uri, relative_to

__all__ = ["ObjectInfo", "Storage", "absolute_uri", "join_uri", "relative_to"]
