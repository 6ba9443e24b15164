"""Names of files in the folder of a partition.

Data files stand at the top, so that a glob over `*.tar` or `*.parquet` finds them and nothing else. In a folder of
tars everything else stands beside them; in a folder of tables it stands in `_index/`, because pandas, Arrow and Spark
read every file of a folder whose name does not begin with `_`.
"""

import re
from dataclasses import dataclass
from typing import Literal

Suffix = Literal["tar", "parquet"]
_STEM = re.compile("[0-9a-f]{6}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Layout:
    """Names relative to the partition's folder, for one kind of data file."""

    suffix: Suffix

    @property
    def side(self) -> str:
        """Prefix of every file that is not data."""
        return "" if self.suffix == "tar" else "_index/"

    @property
    def commit(self) -> str:
        """The one file that readers trust."""
        return f"{self.side}index.json"

    @property
    def rejects(self) -> str:
        """Every reject of the partition, in one table."""
        return f"{self.side}rejects.parquet"

    def data(self, shard: str, fingerprint: str) -> str:
        """The shard itself."""
        return f"{shard}-{fingerprint[:12]}.{self.suffix}"

    def index(self, shard: str, fingerprint: str) -> str:
        """The shard's index; it is published after the data, so where it stands the shard is whole."""
        return f"{self.side}{shard}-{fingerprint[:12]}.index.parquet"

    def picture(self, shard: str, fingerprint: str) -> str:
        """A picture of the shard, where the stage draws one."""
        return f"{self.side}{shard}-{fingerprint[:12]}.png"

    def index_beside(self, name: str) -> str:
        """The index of the shard that a shard file belongs to."""
        return f"{self.side}{name.removeprefix(self.side).partition('.')[0]}.index.parquet"

    def is_shard_file(self, name: str) -> bool:
        """Whether a name in the folder is a file of some shard."""
        stem, _, rest = name.removeprefix(self.side).partition(".")
        return rest in (self.suffix, "index.parquet", "png") and bool(_STEM.fullmatch(stem))
