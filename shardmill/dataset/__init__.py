"""A dataset: one YAML file, its partitions, and where everything of it is."""

from shardmill.dataset.dataset import RAW, WHOLE, Dataset
from shardmill.dataset.file import load_dataset
from shardmill.dataset.spec import DatasetSpec, StageSpec
from shardmill.dataset.templates import TemplateEnvironment

__all__ = ["RAW", "WHOLE", "Dataset", "DatasetSpec", "StageSpec", "TemplateEnvironment", "load_dataset"]
