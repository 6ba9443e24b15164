"""Transforms of samples: the spec as data, and what runs it. Importing this imports no torch."""

from shardmill.transforms.apply import SampleTransform, build_transform
from shardmill.transforms.sample import DecodedSample
from shardmill.transforms.spec import Operation, TransformSpec

__all__ = ["DecodedSample", "Operation", "SampleTransform", "TransformSpec", "build_transform"]
