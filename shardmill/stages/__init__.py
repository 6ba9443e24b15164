"""Stages: what makes a shard of a shard, a file a stage. Those of your own are subclasses of the ones named here."""

from shardmill.stages.files import FileStage, InputFile, OutputFile
from shardmill.stages.samples import RowStage, SampleStage
from shardmill.stages.stage import OutputFiles, Resources, Stage, Work

__all__ = [
    "FileStage",
    "InputFile",
    "OutputFile",
    "OutputFiles",
    "Resources",
    "RowStage",
    "SampleStage",
    "Stage",
    "Work",
]
