"""Templates in the strings of a dataset file, `{{ env.NAME }}` and the like, filled in as Dagster does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shardmill.errors import ConfigurationError
from shardmill.spec import FilledIn

Field = tuple[int | str, ...]


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


def fill_in(value: Any, file: Path, where: Callable[[Field], str], field: Field = ()) -> Any:
    """The value with the templates in its strings filled in; `where` says where a field stands in the file.

    Raises:
        ConfigurationError: A template names what there is not, or does more than name and join.
    """
    if isinstance(value, dict):
        return {key: fill_in(item, file, where, (*field, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [fill_in(item, file, where, (*field, number)) for number, item in enumerate(value)]
    if not isinstance(value, str) or "{{" not in value:
        return value
    try:
        return FilledIn(_filled_in(value, file))
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}, {where(field)}: {error}") from error


def _filled_in(value: str, file: Path) -> str:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined)
    try:
        if not all(map(_is_plain, environment.parse(value).body)):
            raise ConfigurationError(
                f"cannot fill in {_shown(value)}: a template here is env.NAME, env('NAME', 'default') or "
                "context.project_root, joined by ~ at most"
            )
        template = environment.from_string(value)
        return template.render(env=TemplateEnvironment(), context={"project_root": str(_project_root(file))})
    except (TemplateError, TypeError, RecursionError) as error:
        raise ConfigurationError(f"cannot fill in {_shown(value)}: {error}") from error


def _is_plain(node: Any) -> bool:
    """Whether a part of a template names a value or joins some: arithmetic may make gigabytes of a few characters."""
    from jinja2 import nodes

    if isinstance(node, nodes.Output | nodes.Concat):
        return all(map(_is_plain, node.nodes))
    if isinstance(node, nodes.Getattr):
        return isinstance(node.node, nodes.Name) and node.node.name in ("env", "context")
    if isinstance(node, nodes.Call):
        given = [*node.args, *(keyword.value for keyword in node.kwargs)]
        return isinstance(node.node, nodes.Name) and node.node.name == "env" and all(map(_is_plain, given))
    return isinstance(node, nodes.TemplateData | nodes.Const)


def _shown(value: str) -> str:
    return repr(value if len(value) <= 80 else f"{value[:79]}…")


def _project_root(file: Path) -> Path:
    folders: Iterator[Path] = iter(file.absolute().parents)
    return next((folder for folder in folders if (folder / "pyproject.toml").exists()), file.absolute().parent)
