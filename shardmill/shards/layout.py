"""Names and places of a partition's files.

    <home>/<asset>/<partition>/                    data files, and nothing else
        000000-<fingerprint12>-<content8>.tar | .parquet
    <home>/_shardmill/<asset>/<partition>/         everything else
        index.json                                 the commit
        000000-<fingerprint12>.index.parquet       what is in a shard, and whose it is
        000000-<fingerprint12>-<content8>.png      a picture of a shard
        rejects.parquet                            every reject, in one table
        left_out.parquet                           every object that was listed and belongs to no sample
        staged/                                    data files that no commit names yet
        superseded/                                data files that no commit names any more, and their commits
        runs/                                      answers of workers to runs under way

`<home>` is `<root>/<dataset>`. Tools that are handed a folder, or a glob, find data alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from shardmill.errors import ConfigurationError
from shardmill.storage import absolute_uri, join_uri

Suffix = Literal["tar", "parquet"]

SIDE = "_shardmill"
"""The folder below a dataset's that holds everything but data."""
RUNS = "runs/"
"""The folder in a partition's side folder that holds answers of workers to runs under way."""

_STEM = r"[0-9a-f]{6}-[0-9a-f]{12}"
_DATA = re.compile(rf"({_STEM})-[0-9a-f]{{8}}\.(?:tar|parquet)")
_SIDE = re.compile(rf"({_STEM})(?:\.index\.parquet|-[0-9a-f]{{8}}\.png)")


def data_name(shard: str, fingerprint: str, sha256: str, suffix: Suffix) -> str:
    """Name of a shard's data file; `sha256` is that of its bytes, so that a name never means other bytes."""
    return f"{shard}-{fingerprint[:12]}-{sha256[:8]}.{suffix}"


def picture_name(shard: str, fingerprint: str, sha256: str) -> str:
    """Name of a shard's picture."""
    return f"{shard}-{fingerprint[:12]}-{sha256[:8]}.png"


def index_name(shard: str, fingerprint: str) -> str:
    """Name of a shard's index."""
    return f"{shard}-{fingerprint[:12]}.index.parquet"


def is_data_name(name: str) -> bool:
    """Whether a data file of some shard is called so."""
    return _DATA.fullmatch(name) is not None


def is_shard_file(name: str) -> bool:
    """Whether some file of some shard is called so: its data, its index or its picture."""
    return is_data_name(name) or _SIDE.fullmatch(name) is not None


def index_beside(name: str) -> str:
    """The name of the index of the shard that a shard file belongs to."""
    match = _DATA.fullmatch(name) or _SIDE.fullmatch(name)
    assert match is not None
    return f"{match[1]}.index.parquet"


@dataclass(frozen=True)
class Layout:
    """The places of one partition's files, as URIs."""

    folder: str
    """Of the data."""

    @classmethod
    def at(cls, folder: str) -> Layout:
        """The layout of the partition whose data are in `folder`, a URI or a path.

        Raises:
            ConfigurationError: No partition's data can be there.
        """
        layout = cls(absolute_uri(folder))
        if not all(layout._parts) or layout.home.endswith("/"):
            raise ConfigurationError(
                f"{folder} is no folder of a partition: those are <root>/<dataset>/<asset>/<partition>"
            )
        if f"/{SIDE}/" in layout.folder:
            data = layout.folder.replace(f"/{SIDE}/", "/")
            raise ConfigurationError(f"{folder} holds what is beside the data: give the folder of the data, {data}")
        return layout

    @property
    def home(self) -> str:
        """Folder of the dataset."""
        return self._parts[0]

    @property
    def name(self) -> str:
        """`<asset>/<partition>`."""
        return "/".join(self._parts[1:])

    @property
    def side(self) -> str:
        """Folder of everything but data."""
        return join_uri(self.side_of_all, self.name)

    @property
    def side_of_all(self) -> str:
        """The side folder of the dataset."""
        return join_uri(self.home, SIDE)

    @property
    def commit(self) -> str:
        """The one file that readers trust."""
        return join_uri(self.side, "index.json")

    @property
    def rejects(self) -> str:
        """Every reject of the partition, in one table."""
        return join_uri(self.side, "rejects.parquet")

    @property
    def left_out(self) -> str:
        """Every object that was listed for the partition and belongs to no sample, in one table."""
        return join_uri(self.side, "left_out.parquet")

    def data(self, name: str) -> str:
        """A data file that a commit names."""
        return join_uri(self.folder, name)

    def staged(self, name: str) -> str:
        """A data file that no commit names yet."""
        return join_uri(self.side, f"staged/{name}")

    def superseded(self, name: str) -> str:
        """A data file, or a commit, that is kept for those who read it."""
        return join_uri(self.side, f"superseded/{name}")

    def beside(self, name: str) -> str:
        """An index or a picture."""
        return join_uri(self.side, name)

    def url(self, name: str) -> str:
        """A data file, relative to the commit."""
        return f"../../../{self.name}/{name}"

    @property
    def _parts(self) -> tuple[str, str, str]:
        above, _, partition = self.folder.rpartition("/")
        home, _, asset = above.rpartition("/")
        return home, asset, partition
