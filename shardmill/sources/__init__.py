"""Sources: from a bucket's names, or a table of URIs, to a manifest of samples."""

from shardmill.sources.listing import list_source
from shardmill.sources.manifest import Manifest, RawObject
from shardmill.sources.spec import SourceSpec

__all__ = ["Manifest", "RawObject", "SourceSpec", "list_source"]
