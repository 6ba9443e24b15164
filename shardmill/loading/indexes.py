"""Where samples stand, as it was when reading began: a later commit may remove the index that says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shardmill.shards.places import Places
from shardmill.temporary import TemporaryFolder

if TYPE_CHECKING:
    import pyarrow as pa

_REMEMBERED = 256


@dataclass(frozen=True)
class Indexes:
    """Indexes in memory that the processes of a machine share. Picklable."""

    folder: TemporaryFolder
    _recent: dict[str, Places] = field(default_factory=dict, repr=False, compare=False)

    def keep(self, name: str, places: Places) -> None:
        """Keep an index under a name that stands for its content."""
        write_table(self.folder, name, places.index)

    def places(self, name: str, anew: Callable[[], Places]) -> Places:
        """What is kept under a name; on another machine it is had anew."""
        places = self._recent.pop(name, None)
        if places is None:
            table = read_table(self.folder, name)
            places = anew() if table is None else Places(table)
        self._recent[name] = places
        for earlier in list(self._recent)[:-_REMEMBERED]:
            self._recent.pop(earlier, None)
        return places

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_recent": {}}


def write_table(folder: TemporaryFolder, name: str, table: pa.Table) -> None:
    """Write a table where `read_table` finds it."""
    import pyarrow as pa

    with pa.OSFile(str(folder.path / name), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_table(folder: TemporaryFolder, name: str) -> pa.Table | None:
    """A table in memory that processes share; None if there is none here."""
    import pyarrow as pa

    try:
        return pa.ipc.open_file(pa.memory_map(str(folder.path / name))).read_all()
    except FileNotFoundError:
        return None
