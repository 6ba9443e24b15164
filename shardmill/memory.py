"""How much memory there is; and the lack of it, told from all else: it says nothing of a sample, and rejects none."""

import errno
import re
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")
"""On Linux: `memory.max` (bytes, or `max`), `memory.current`, `memory.stat`."""

_SAID = re.compile(
    r"out of memory|insufficient memory|not enough memory|memory allocation|alloc\w* memory|start new thread", re.I
)
"""What torch (RuntimeError), Pillow and libjpeg (OSError, ValueError), zlib and Python's threads (RuntimeError) say."""


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


def available_bytes() -> int | None:
    """Memory that could be had now, on this machine and in its container; None where nothing says it."""
    found: list[int] = []
    try:
        lines = _MEMINFO.read_text().splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        pass
    try:
        limit = (_CONTAINER / "memory.max").read_text().strip()
        if limit != "max":
            stat = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())
            # Files that were read count as in use, and go when room is needed.
            in_use = int((_CONTAINER / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
            found.append(max(0, int(limit) - in_use))
    except (OSError, ValueError):
        pass
    return min(found, default=None)
