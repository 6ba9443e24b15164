"""The dataset as a graph: assets as data, and what walks them. Plan, run, state and staleness know no asset by name."""

from shardmill.graph.accounting import Accounts, accounts_of, beside_partitions, unaccounted
from shardmill.graph.asset import Asset, Cut, Inputs, Scope
from shardmill.graph.build import PACKED, Graph, build_graph
from shardmill.graph.lazy_shard_set import LazyShardSet
from shardmill.graph.models import ModelPartitions, look_at_models, models_of
from shardmill.graph.planner import Planner
from shardmill.graph.run import make, run, write
from shardmill.graph.state import AssetState, State, is_stale, states, why_stale
from shardmill.graph.together import make_together

__all__ = [
    "PACKED",
    "Accounts",
    "Asset",
    "AssetState",
    "Cut",
    "Graph",
    "Inputs",
    "LazyShardSet",
    "ModelPartitions",
    "Planner",
    "Scope",
    "State",
    "accounts_of",
    "beside_partitions",
    "build_graph",
    "is_stale",
    "look_at_models",
    "make",
    "make_together",
    "models_of",
    "run",
    "states",
    "unaccounted",
    "why_stale",
    "write",
]
