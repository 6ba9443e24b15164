"""Sources: from a bucket's names, or a table of URIs, to a manifest of samples."""

from shardmill.sources.content import content_digest, content_of
from shardmill.sources.excludes import Excludes
from shardmill.sources.listing import SampleNames, list_source, manifest_of
from shardmill.sources.manifest import Manifest, RawObject
from shardmill.sources.side_table import joined
from shardmill.sources.spec import SourceSpec

__all__ = [
    "Excludes",
    "Manifest",
    "RawObject",
    "SampleNames",
    "SourceSpec",
    "content_digest",
    "content_of",
    "joined",
    "list_source",
    "manifest_of",
]
