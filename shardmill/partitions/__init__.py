"""Partitions of a dataset: how the YAML declares them, their keys, and where each one's objects are."""

from shardmill.partitions.batches import Batch, batch_number, is_batch_key, read_batch, seal_batch, sealed_batches
from shardmill.partitions.keys import decode_segment, encode_segment
from shardmill.partitions.partitioning import (
    PLACEHOLDER,
    NothingThereError,
    Partitioning,
    PrefixPartitioning,
    StaticPartitioning,
    TimePartitioning,
    partitioning_of,
)
from shardmill.partitions.spec import BatchPartitions, PartitionsSpec, PrefixPartitions, TimePartitions

__all__ = [
    "PLACEHOLDER",
    "Batch",
    "BatchPartitions",
    "NothingThereError",
    "Partitioning",
    "PartitionsSpec",
    "PrefixPartitioning",
    "PrefixPartitions",
    "StaticPartitioning",
    "TimePartitioning",
    "TimePartitions",
    "batch_number",
    "decode_segment",
    "encode_segment",
    "is_batch_key",
    "partitioning_of",
    "read_batch",
    "seal_batch",
    "sealed_batches",
]
