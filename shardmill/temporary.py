"""Temporary directories that are gone afterwards, at whatever moment a Ctrl-C comes.

Python raises it between any two steps of the main thread. So a directory's name is chosen, and whoever removes it
stands ready, before it is made: `tempfile` makes first, and a Ctrl-C before it has told the name leaves it for ever.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import Finalize, register_after_fork
from pathlib import Path
from secrets import token_hex
from typing import Any


@contextmanager
def temporary_directory(parent: Path | None = None, prefix: str = "shardmill-") -> Iterator[Path]:
    """A new directory, this user's alone, that is removed after the block. `parent` is by default the system's place.

    Raises:
        OSError: It cannot be made.
    """
    directory = _new_name(parent, prefix)
    try:
        directory.mkdir(mode=0o700)
        yield directory
    finally:
        try:
            _remove(directory)
        except BaseException:  # a Ctrl-C, or what `rmtree` makes of one: nothing else comes out of it
            _remove(directory)
            raise


class TemporaryFolder:
    """A folder that goes with the object that made it, or with its process. It pickles as its path, which leads nowhere
    elsewhere.
    """

    def __init__(self) -> None:
        self.path = _new_name()
        self._process = os.getpid()
        self._stand_ready()
        # A process that `multiprocessing` starts imports the script anew, and forgets then who stands ready.
        register_after_fork(self, TemporaryFolder._stand_ready)
        self.path.mkdir(mode=0o700)

    def _stand_ready(self) -> None:
        if os.getpid() == self._process:  # not in a fork, which has the object, too
            Finalize(self, _remove, (self.path,), exitpriority=0)

    def __reduce__(self) -> tuple[Any, ...]:
        return _known, (self.path,)


def _known(path: Path) -> TemporaryFolder:
    """The folder of another process."""
    folder = TemporaryFolder.__new__(TemporaryFolder)
    folder.path = path
    return folder


def _new_name(parent: Path | None = None, prefix: str = "shardmill-") -> Path:
    return (Path(tempfile.gettempdir()) if parent is None else parent) / f"{prefix}{token_hex(8)}"


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
