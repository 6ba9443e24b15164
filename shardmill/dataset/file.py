"""From a dataset file to the dataset, and errors that say which field of it is wrong."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from shardmill.dataset.dataset import Dataset
from shardmill.dataset.spec import DatasetSpec
from shardmill.dataset.templates import Field, fill_in
from shardmill.errors import ConfigurationError
from shardmill.spec import problems
from shardmill.storage import Storage
from shardmill.yaml_text import YamlText


def load_dataset(file: str | Path, storage: Storage | None = None) -> Dataset:
    """The dataset that a YAML file declares: a Dagster component's `defs.yaml`, or its `attributes` alone.

    `{{ env.NAME }}`, `{{ env('NAME', 'default') }}` and `{{ context.project_root }}` (the nearest folder above the file
    with a `pyproject.toml`, else the file's own) are filled in as Dagster does.

    Raises:
        ConfigurationError: The file cannot be read, or declares no valid dataset.
    """
    file = Path(file)
    try:
        text = YamlText(file.read_text("utf-8"), str(file))
    except OSError as error:
        raise ConfigurationError(f"cannot read the dataset file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not a text in UTF-8: {error}") from error
    if not isinstance(text.content, dict):
        raise ConfigurationError(f"{file} declares no dataset: it has no fields")
    around = ("attributes",) if "attributes" in text.content else ()

    def where(field: Field) -> str:
        line = text.line((*around, *field))
        named = ".".join(map(str, field)) or "dataset"
        return f"line {line}: {named}" if line and field else named

    try:
        attributes = fill_in(text.content["attributes"] if around else text.content, file, where)
        return Dataset(DatasetSpec.model_validate(attributes), storage or Storage())
    except ValidationError as error:
        lines = "\n".join(f"  {where(field)}: {words}" for field, words in problems(error))
        raise ConfigurationError(f"{file} declares no valid dataset:\n{lines}") from error
