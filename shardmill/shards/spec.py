"""How a dataset's YAML file says how samples are cut into shards."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from shardmill.shards.slicing import Order


class ShardSpec(BaseModel):
    """Limits of a shard; it is closed at whichever comes first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_samples: Annotated[int, Field(gt=0)] = 10_000
    max_bytes: Annotated[int, Field(gt=0)] = 256_000_000
    order: Order = "hash"
    """`hash` shuffles and is the most stable under change; `key` keeps the order of the keys."""
