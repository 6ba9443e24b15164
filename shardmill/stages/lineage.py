"""From a component of an output sample to the raw object that it comes from."""

from __future__ import annotations

from collections.abc import Collection

from shardmill.samples import image_format
from shardmill.shards.index import Source
from shardmill.shards.stored import Rows


class Lineage:
    """The raw object behind each component of what is made of one sample.

    A component of the input's name comes from that; another one from the input's image that is called the same but for
    its suffix, else from that of the same format, else from its first image. Label maps are taken for an image's origin
    only where there is nothing else.
    """

    def __init__(self, rows: Rows, masks: Collection[str] = ()) -> None:
        self._rows = rows
        self.origin = next(iter(rows.values())).origin
        images = sorted(name for name in rows if image_format(name))
        self._candidates = [name for name in images if name not in masks] or images or [min(rows)]

    def __call__(self, component: str) -> Source:
        """The raw object behind the output component with this name; an empty one stands for the sample's image."""
        if component in self._rows:
            return self._rows[component].source
        stem = component.rpartition(".")[0]
        renamed = [name for name in self._candidates if component and name.rpartition(".")[0] == stem]
        alike = [name for name in self._candidates if image_format(name) == image_format(component)]
        return self._rows[(renamed or alike or self._candidates)[0]].source
