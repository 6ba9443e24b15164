"""A place of this machine for what is read once, and may be gone where it was by the time that it is wanted."""

from __future__ import annotations

import os
import shutil
import weakref
from pathlib import Path
from tempfile import mkdtemp
from typing import Any


class TemporaryFolder:
    """A folder that goes with the object that made it. It pickles as its path, which leads nowhere elsewhere."""

    def __init__(self) -> None:
        self.path = Path(mkdtemp(prefix="shardmill-loading-"))
        weakref.finalize(self, _remove, self.path, os.getpid())

    def __reduce__(self) -> tuple[Any, ...]:
        return _known, (self.path,)


def _known(path: Path) -> TemporaryFolder:
    """The folder of another process."""
    folder = TemporaryFolder.__new__(TemporaryFolder)
    folder.path = path
    return folder


def _remove(path: Path, process: int) -> None:
    if os.getpid() == process:  # not in a fork, which has this object, too
        shutil.rmtree(path, ignore_errors=True)
