"""Which sample an object is part of, by its path in a request and the dataset's own rules."""

from __future__ import annotations

import re
from typing import NamedTuple

from shardmill.dataset import Dataset
from shardmill.serving.refusals import Refusal
from shardmill.sources import SampleNames
from shardmill.sources.names import encode_component, encode_key, split_name

_UNAME = re.compile(r"[a-z]+/@[^/#]*#[^/]*/(?=.)", re.DOTALL)
"""AIStore's `provider/@uuid#namespace/` before a bucket, where it names an object in full."""


class Named(NamedTuple):
    """A component of a sample, as it is called in shards."""

    key: str
    component: str


def object_path(path: str) -> str:
    """`<bucket>/<object>` of a request's path, which is decoded once and has no slash first.

    Raises:
        Refusal: No object is called so, or it leads elsewhere.
    """
    if not path or path.endswith("/") or "\0" in path:
        raise Refusal(400, "bad path", "name an object: <bucket>/<object>")
    if "://" in path:
        raise Refusal(400, "bad path", "name an object by its path, not by a URL")
    if {".", ".."} & set(path.split("/")):
        raise Refusal(400, "bad path", "`.` and `..` are no names")
    uname = _UNAME.match(path)
    return path[uname.end() :] if uname else path


def is_shard(path: str) -> bool:
    """Whether an object is a whole shard."""
    return path.lower().endswith(".tar")


class ObjectNames:
    """How the dataset names samples."""

    def __init__(self, dataset: Dataset) -> None:
        self._source = dataset.spec.source
        self._names = SampleNames(self._source)
        self._partitioning = dataset.partitioning
        self._base = f"{below_the_scheme(self._partitioning.base)}/"

    def name(self, path: str) -> Named:
        """The component that the object at `<bucket>/<object>` is.

        An object of the dataset's source is named by its name in its partition. Any other bucket is taken for a copy of
        the source's folder.

        Raises:
            Refusal: It is part of no sample.
        """
        if self._source.key_column is not None:
            raise Refusal(422, "no key", "the dataset's keys stand in a column of its table; send whole shards (.tar)")
        is_of_the_source = path.startswith(self._base)
        name = path.removeprefix(self._base) if is_of_the_source else path.partition("/")[2] or path
        if self._source.table is not None:
            key, component = split_name(name)
        else:
            match = self._partitioning.match(name)
            place = self._names.place(name[match[1] :] if match else name)
            if isinstance(place, str):
                raise Refusal(422, "left out", f"{name} is no part of a sample, by the rule {place!r} of the dataset")
            key, component = place
        if not component:
            raise Refusal(422, "no component", f"{name} has no suffix that names a component")
        return Named(encode_key(key), encode_component(component))


def below_the_scheme(uri: str) -> str:
    """`bucket/folder` of a URI; of a local one its path without the first slash."""
    return uri.partition("://")[2].strip("/")
