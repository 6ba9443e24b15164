"""From a dataset file to the dataset: YAML, the templates in it, and errors that say which field."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shardmill.dataset.dataset import Dataset
from shardmill.dataset.spec import DatasetSpec
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage


def load_dataset(file: Path, storage: Storage | None = None) -> Dataset:
    """The dataset that a YAML file declares: a Dagster component's `defs.yaml`, or its `attributes` alone.

    `{{ env.NAME }}`, `{{ env('NAME', 'default') }}` and `{{ context.project_root }}` (the nearest folder above the file
    with a `pyproject.toml`, else the file's own) are filled in as Dagster does.

    Raises:
        ConfigurationError: The file cannot be read, or declares no valid dataset.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read the dataset file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not a text in UTF-8: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{file} declares no dataset: it has no fields")
    try:
        return Dataset(
            DatasetSpec.model_validate(_rendered(content.get("attributes", content), file)), storage or Storage()
        )
    except ValidationError as error:
        problems = "\n".join(f"  {_field(e['loc'])}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"{file} declares no valid dataset:\n{problems}") from error


def _field(location: tuple[int | str, ...]) -> str:
    """The field as it stands in the file: pydantic adds which of the ways to declare partitions it took."""
    named = location[:1] + location[2:] if location[:1] == ("partitions",) else location
    return ".".join(map(str, named)) or "dataset"


class TemplateEnvironment:
    """`env` in templates: `env.NAME`, or `env('NAME', 'default')`."""

    unsafe_callable = alters_data = False  # jinja's sandbox asks

    def __call__(self, name: str, default: str | None = None) -> str:
        """The variable's value, or the default.

        Raises:
            ConfigurationError: It is not set, and there is no default.
        """
        value = os.environ.get(name, default)
        if value is None:
            raise ConfigurationError(f"the dataset file needs the environment variable {name}, which is not set")
        return value

    def __getattr__(self, name: str) -> str:
        if name.startswith(("jinja", "__")):  # jinja looks for marks of its own on what it calls
            raise AttributeError(name)
        return self(name)


def _rendered(value: Any, file: Path) -> Any:
    """The value with the templates in its strings filled in."""
    if isinstance(value, dict):
        return {key: _rendered(item, file) for key, item in value.items()}
    if isinstance(value, list):
        return [_rendered(item, file) for item in value]
    if not isinstance(value, str) or "{{" not in value:
        return value
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    try:
        template = SandboxedEnvironment(undefined=StrictUndefined).from_string(value)
        return template.render(env=TemplateEnvironment(), context={"project_root": str(_project_root(file))})
    except (TemplateError, ArithmeticError, TypeError) as error:
        raise ConfigurationError(f"{file}: cannot fill in {value!r}: {error}") from error


def _project_root(file: Path) -> Path:
    folders: Iterator[Path] = iter(file.absolute().parents)
    return next((folder for folder in folders if (folder / "pyproject.toml").exists()), file.absolute().parent)
