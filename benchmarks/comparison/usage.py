"""A process with all its descendants: their CPU time and memory, from /proc, and their end."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def cpu_seconds(process: int) -> float:
    """Of the process and its descendants, those included that have ended.

    An ended child's time is its parent's from the moment that the parent looks for it, and its own until then.
    """
    return sum(sum(map(int, fields[11:15])) for _, fields in _tree(process)) / _TICK


def resident_bytes(process: int) -> int:
    """Of the process and its descendants; a page that several share is counted once (proportional set size)."""
    total = 0
    for number, _ in _tree(process):
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def end(process: int) -> None:
    """Kill the process and its descendants, by their numbers."""
    for number, _ in list(_tree(process)):
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue


def adopt_orphans() -> None:
    """Stay the ancestor of descendants whose parents end."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """End when the process that started this one does, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _tree(process: int) -> Iterator[tuple[int, list[str]]]:
    """The process and its descendants, each with the fields of `stat` after its name: the state, the parent, …"""
    fields: dict[int, list[str]] = {}
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields[int(folder.name)] = found = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            children.setdefault(int(found[1]), []).append(int(folder.name))
    waiting = [process]
    while waiting:
        number = waiting.pop()
        if number in fields:
            yield number, fields[number]
            waiting += children.get(number, [])
