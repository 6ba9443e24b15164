"""The demo dataset: views of the photographs in two wheels, with labels, masks and a few planted faults."""

from shardmill.demo.dataset import (
    DEMO_PARTITIONS,
    DEMO_VIEWS,
    DemoPartition,
    DemoSummary,
    make_demo_dataset,
    planted_rejects,
)
from shardmill.demo.photographs import PHOTOGRAPHS
from shardmill.demo.planted import PLANTED, Planted

__all__ = [
    "DEMO_PARTITIONS",
    "DEMO_VIEWS",
    "PHOTOGRAPHS",
    "PLANTED",
    "DemoPartition",
    "DemoSummary",
    "Planted",
    "make_demo_dataset",
    "planted_rejects",
]
