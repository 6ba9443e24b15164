"""How a dataset's YAML file says how samples are cut into shards."""

from typing import Annotated

from pydantic import Field

from shardmill.shards.slicing import Order
from shardmill.spec import Spec


class ShardSpec(Spec):
    """Limits of a shard; it is closed at whichever comes first."""

    max_samples: Annotated[int, Field(gt=0)] = 10_000
    max_bytes: Annotated[int, Field(gt=0)] = 256_000_000
    order: Order = "hash"
    """`hash` shuffles and is the most stable under change; `key` keeps the order of the keys."""
