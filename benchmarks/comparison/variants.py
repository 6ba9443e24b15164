"""What is compared: variants of the same work, each a function that a process of its own calls.

Imports nothing but the standard library, because peers' environments load it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["ours", "peer", "limit"]


@dataclass(frozen=True)
class Variant:
    """One way to do a stage's work."""

    name: str
    kind: Kind
    run: str
    """`module:function`, called with an `Input`, a folder that does not exist, the number of workers, and `options`."""
    read: str | None = None
    """`module:function`, called with the folder: what is in it. None for a limit, which writes nothing to look at."""
    options: Mapping[str, object] = field(default_factory=dict)
    needs: str | None = None
    """The package that has to be installed among the peers; None for what runs in Shardmill's own environment."""
    same_work: bool = True
    """Whether it does all that ours does; others are shown, and are no best peer."""
    note: str = ""
    prepare: str | None = None
    """`module:function`, called with an `Input` and the number of workers before anything is measured, in every round:
    makes the form of the samples that the variant reads, if it is not there."""


@dataclass(frozen=True)
class Input:
    """Where a variant's samples are, in each form that some variant reads."""

    files: Path
    """A folder of images, `<key>.jpg`."""
    shards: Path | None = None
    """A folder of tars with the same images."""
    root: Path | None = None
    """Where Shardmill has stored them: the root of the dataset `benchmark`."""

    def tars(self) -> list[str]:
        """The shards, in order."""
        assert self.shards is not None, "this benchmark made no shards"
        return sorted(str(file) for file in self.shards.glob("*.tar"))

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Input:
        """What `to_json` wrote."""
        return cls._of(json.loads(text))

    @classmethod
    def _of(cls, given: Mapping[str, str | None]) -> Input:
        shards, root = (given[key] and Path(given[key] or "") for key in ("shards", "root"))
        return cls(Path(given["files"] or ""), shards or None, root or None)


@dataclass(frozen=True)
class Errand:
    """What a process is told to do."""

    run: str
    read: str | None
    options: Mapping[str, object]
    few: Input
    """So few samples that what it takes is what any call takes."""
    source: Input
    folder: Path
    """Where to write."""
    workers: int
    prepare: str | None = None

    def to_json(self) -> str:
        """For the process's arguments."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Errand:
        """What `to_json` wrote."""
        fields = json.loads(text)
        for name in ("few", "source"):
            fields[name] = Input._of(fields[name])
        return cls(**{**fields, "folder": Path(fields["folder"])})
