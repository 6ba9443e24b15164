"""From YAML to plain values, and back to the line that a field stands on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from shardmill.errors import ConfigurationError

_MOST_VALUES = 100_000
"""Of a dataset file, aliases counted as what they stand for."""


class YamlText:
    """A YAML file that was read: its values, and where they stand."""

    def __init__(self, text: str, name: str) -> None:
        """Read the text of the file called `name`.

        Raises:
            ConfigurationError: It is no YAML, gives a field twice, or means more than a dataset file needs.
        """
        import yaml

        self._name = name
        loader = yaml.SafeLoader(text)
        try:
            self._root = loader.get_single_node()
            if self._root is not None:
                self._check_size(self._root)
            self.content: Any = loader.construct_document(self._root) if self._root is not None else None
        except yaml.YAMLError as error:
            raise ConfigurationError(_no_yaml(error, text, name)) from error
        except (RecursionError, ValueError) as error:  # too many brackets; a day such as 2026-02-31
            raise ConfigurationError(f"{name} is no dataset file: {_plain(error)}") from error
        finally:
            loader.dispose()

    def line(self, field: Sequence[int | str]) -> int | None:
        """The line of a field, from 1, or of the nearest thing around it that stands in the file."""
        import yaml

        node, line = self._root, None
        for part in field:
            if isinstance(node, yaml.MappingNode):
                found = next((pair for pair in node.value if pair[0].value == str(part)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                found = (node.value[part], node.value[part])
            else:
                found = None
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        return line

    def _check_size(self, root: Any) -> None:
        """Check the values, those that aliases repeat each time, without going through all of them."""
        import yaml

        sizes: dict[int, int] = {}
        within: set[int] = set()

        def size(node: Any) -> int:
            if id(node) in within:
                raise ConfigurationError(f"{self._at(node)}: an alias stands for what it is part of")
            if id(node) not in sizes:
                within.add(id(node))
                children = node.value if isinstance(node, yaml.CollectionNode) else []
                if isinstance(node, yaml.MappingNode):
                    self._check_that_fields_differ(node)
                    children = [each for pair in children for each in pair]
                sizes[id(node)] = 1 + sum(map(size, children))
                within.discard(id(node))
            return sizes[id(node)]

        if size(root) > _MOST_VALUES:
            raise ConfigurationError(
                f"{self._name} stands for {sizes[id(root)]:,} values, aliases counted; {_MOST_VALUES:,} are the most"
            )

    def _check_that_fields_differ(self, node: Any) -> None:
        seen: dict[str, Any] = {}
        for key, _ in node.value:
            if isinstance(key.value, str) and seen.setdefault(key.value, key) is not key:
                first = seen[key.value].start_mark.line + 1
                raise ConfigurationError(f"{self._at(key)}: the field {key.value} is given twice, see line {first}")

    def _at(self, node: Any) -> str:
        return f"{self._name}, line {node.start_mark.line + 1}"


def _no_yaml(error: Any, text: str, name: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"{name} is no YAML: {_plain(error)}"
    line = mark.line if mark.line < len(text.splitlines()) else mark.line - 1
    shown = text.splitlines()[line].strip() if text.strip() else ""
    found = f"{name}, line {line + 1}, is no YAML: {error.problem}, in `{shown[:80]}`"
    if "\t" in text.splitlines()[line][: mark.column + 1]:
        return f"{found}. Indent with spaces, not with tabs"
    if re.search("alias|anchor|cannot start any token", f"{error.context} {error.problem}"):
        return f'{found}. Put a value that begins with *, &, @, %, ! or ` in quotes: "*.txt"'
    if "{" in shown and "}" in shown and "'<stream end>'" not in error.problem:
        return f'{found}. Put a value with braces in quotes: "{{partition}}", "{{{{ env.NAME }}}}"'
    if "mapping values" in error.problem:
        return f'{found}. Put a value with a colon and a space in quotes: "a: b"'
    return found


def _plain(error: Exception) -> str:
    return "its brackets are too deep" if isinstance(error, RecursionError) else str(error)
