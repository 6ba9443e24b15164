"""Ctrl-C while processes start; SIGTERM."""

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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_termination_ends_in_order_what_an_interrupt_does(start: Start, number: int) -> None:
    code = """
import threading
from shardmill.importing import as_an_error
from shardmill.interrupts import ended_in_order_by_sigterm, interrupts_held_back

with ended_in_order_by_sigterm():
    try:
        with interrupts_held_back():
            pass
        with as_an_error("a stage"):
            print("begun", flush=True)
            threading.Event().wait()
    except BaseException as error:
        print(isinstance(error, KeyboardInterrupt), flush=True)
        raise
"""
    process = start(code)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == "True\n"
    assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT)


def test_a_termination_counts_when_the_block_is_over() -> None:
    from shardmill.interrupts import ended_in_order_by_sigterm, interrupts_held_back

    reached, before = False, signal.getsignal(signal.SIGTERM)  # other tests' libraries may have set one
    with pytest.raises(SystemExit) as error, ended_in_order_by_sigterm(), interrupts_held_back():  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        reached = True
    assert (reached, error.value.code) == (True, 143)
    assert signal.getsignal(signal.SIGTERM) == before
