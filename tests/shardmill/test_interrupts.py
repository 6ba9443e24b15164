"""Ctrl-C while processes start."""

import signal

import pytest

from tests.conftest import Start

STARTS = """
import os, signal, sys
from multiprocessing import forkserver
from shardmill.interrupts import interrupts_held_back

with interrupts_held_back():
    forkserver.ensure_running()
server = forkserver._forkserver._forkserver_pid
print(*(line.split()[1] for line in open(f"/proc/{server}/status") if line.startswith("SigBlk")))
"""


def test_a_fork_server_never_sees_an_interrupt(start: Start) -> None:
    said, _ = start(STARTS).communicate(timeout=60)
    assert int(said, 16) & 1 << signal.SIGINT - 1


def test_an_interrupt_counts_when_the_block_is_over() -> None:
    from shardmill.interrupts import interrupts_held_back

    reached = False
    with pytest.raises(KeyboardInterrupt), interrupts_held_back():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        reached = True
    assert reached
