"""Stages that are functions over files: `FileStage` makes files of each file, and metadata of each that it makes."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from typing_extensions import override

from shardmill.errors import ConfigurationError, Rejected
from shardmill.importing import as_an_error
from shardmill.samples import EncodedSample, called_so
from shardmill.shards.earlier import EarlierReader
from shardmill.shards.stored import Rows
from shardmill.sources.names import child_key, encode_component, split_name
from shardmill.spec import did_you_mean
from shardmill.stages.about import about
from shardmill.stages.samples import Children, TarStage, each_given, hashed
from shardmill.stages.stored_samples import Fingerprints, InputSample, of_all

METADATA = "json"
"""The component that holds a sample's metadata."""
_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class InputFile:
    """A file that a stage is given: one component of a sample."""

    key: str
    """Of its sample."""
    component: str
    """What kind of file it is: `pdf`, `txt` …"""
    data: bytes


@dataclass(frozen=True)
class OutputFile:
    """A file that a stage makes."""

    name: str
    """Below the input file's key: `0001.txt` is the component `txt` of the sample `<key>~0001`, and `.txt` that of
    `<key>`. Files that are called the same but for what follows the first dot are one sample.
    """
    data: bytes
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What is known of it, by column: numbers, texts, times, lists of them, None."""


class FileStage(TarStage):
    """A stage that makes files of a file, with metadata: `process` and `columns` are all there is to it.

    It gives two assets: one of the files, in which each sample's metadata are its component `json`, and a table of
    the metadata.
    """

    component = ""
    """The component that is the file, in samples with several."""

    @property
    def columns(self) -> Mapping[str, str]:
        """The columns of the table by their types, which are those of a dataset's `columns`. All may be null.

        They are no part of what the files are made of: with others only the table is made anew.
        """
        return {}

    @abstractmethod
    def process(self, file: InputFile) -> Iterable[OutputFile]:
        """The files that are made of one; if there are none, it is filtered out. Called in several threads at once.

        Raises:
            Rejected: This file cannot be processed.
        """

    @override
    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "component": self.component}

    @override
    def children(self, sample: EncodedSample, uri: str | Callable[[], str]) -> Children:
        component = self._component(sample.components)
        file = InputFile(sample.key, component, sample.components[component])
        samples: dict[str, dict[str, bytes]] = {}
        known: dict[str, dict[str, Any]] = {}
        with about(sample.key, uri), as_an_error(f"the stage {self.name}"):
            for made in each_given(f"{type(self).__name__}.process", self.process(file), OutputFile):
                self._check(made)
                key, name = _names(sample.key, made.name)
                components = samples.setdefault(key, {})
                if name in components or name == METADATA:
                    what = f"the metadata are called {METADATA}" if name == METADATA else "there are two"
                    raise Rejected("duplicate component", f"{made.name}: {what}; call it otherwise")
                components[name] = made.data
                _add(known.setdefault(key, {}), made)
        return [(key, hashed({**components, METADATA: _json(known[key])})) for key, components in samples.items()]

    @override
    def fingerprints(self, computation: str, key: str, rows: Rows) -> Fingerprints:
        return of_all(computation, key, rows)

    @override
    def look_up(self, samples: Iterator[tuple[str, Rows]], reader: EarlierReader) -> Iterator[InputSample]:
        """Of each sample the file alone: the others are neither read, nor does anything depend on them."""
        return super().look_up(((key, self._file(rows)) for key, rows in samples), reader)

    def _file(self, rows: Rows) -> Rows:
        try:
            component = self._component(rows)
        except Rejected:
            return rows
        return {component: rows[component]}

    def _component(self, names: Collection[str]) -> str:
        found = called_so(self.component, names) if self.component else next(iter(names), None)
        if found is None:
            raise Rejected("missing component", f"there is no {self.component}; there are {', '.join(sorted(names))}")
        if not self.component and len(names) > 1:
            detail = f"there are {', '.join(sorted(names))}; say which one in `component` of {type(self).__name__}"
            raise Rejected("no single file", detail)
        return found

    def _check(self, made: OutputFile) -> None:
        """Find mistakes of the code, which no file is refused for.

        Raises:
            ConfigurationError: This is not what `process` should give.
        """
        where = f"{type(self).__name__}.process gives"
        kinds = (("name", str, "text"), ("data", bytes, "bytes"), ("metadata", Mapping, "values by column"))
        for name, kind, wanted in kinds:
            if not isinstance(getattr(made, name), kind):
                given = type(getattr(made, name)).__name__
                raise ConfigurationError(f"{where} OutputFile with {name} of type {given}: it has to be {wanted}")
        for name in made.metadata:
            if name not in self.columns:
                known = did_you_mean(name, self.columns) or f"; there are {', '.join(self.columns) or 'none'}"
                raise ConfigurationError(f"{where} metadata {name!r}, which `columns` has no column for{known}")


def _names(key: str, name: str) -> tuple[str, str]:
    """Key and component of a file that is made of the sample `key`, both as a shard can hold them.

    Raises:
        Rejected: There are none for this name.
    """
    is_suffix = name.startswith(".") and "/" not in name
    stem, component = ("", name[1:]) if is_suffix else split_name(name)
    if not component or name.endswith("."):
        raise Rejected("no extension", f"{name!r} is to be a component, and has no suffix")
    try:
        return child_key(key, stem), encode_component(component)
    except UnicodeEncodeError as error:
        raise Rejected("name is not UTF-8", f"{name!r}: {error}") from None


def _add(known: dict[str, Any], made: OutputFile) -> None:
    """Add what is known of a file to what is known of its sample."""
    for name, value in made.metadata.items():
        try:
            plain = _plain(value)
            _CANONICAL.encode(plain).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise Rejected("metadata are not JSON", f"{name} of {made.name}: {error}") from None
        if known.setdefault(name, plain) != plain:
            detail = f"{name} of {made.name}: another file of the sample says otherwise"
            raise Rejected("metadata of one sample differ", detail)


def _plain(value: Any) -> Any:
    """The value in JSON's words, as columns read them: also of times, and of NumPy's scalars and arrays."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, date):
        return value.isoformat()
    return _plain(value.tolist()) if hasattr(value, "tolist") else value


def _json(known: Mapping[str, Any]) -> bytes:
    return _CANONICAL.encode(known).encode()
