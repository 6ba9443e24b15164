"""Lack of memory, told from everything else: it says nothing of a sample, and must not reject one."""

import errno
import re

_SAID = re.compile(
    r"out of memory|insufficient memory|not enough memory|memory allocation|alloc\w* memory|start new thread", re.I
)
"""By torch (RuntimeError), Pillow and libjpeg (OSError, ValueError), zlib, and Python's threads (RuntimeError)."""


def lacks_memory(error: BaseException) -> bool:
    """Whether the error, or one that it was raised from, says that memory could not be had."""
    while True:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        if _SAID.search(str(error)):
            return True
        if error.__cause__ is None:
            return False
        error = error.__cause__
