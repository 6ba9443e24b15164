"""Ctrl-C while processes start; SIGTERM, which is to end a run as Ctrl-C does."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM count when the block is over, and processes that start in it never see a Ctrl-C.

    In the midst of starting, it would leave a process that nobody waits for, or end one with a traceback.
    """
    resource_tracker.ensure_running()  # where it is started within the block, it lets interrupts through again
    came: list[int] = []
    ours = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    held = [each for each in ours if signal.getsignal(each) is not None]  # None is one that Python did not set
    handlers = {each: signal.signal(each, lambda number, _: came.append(number)) for each in held}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for each, handler in handlers.items():
            signal.signal(each, handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def ended_in_order_by_sigterm() -> Iterator[None]:
    """SIGTERM in the block gives up what is under way, as Ctrl-C does, and then ends the process with status 143.

    A second one ends it at once. Without this a process is gone before it has told workers elsewhere.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) in (None, signal.SIG_IGN):
        yield
        return

    came = False

    def end(number: int, _: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except BaseException:
        if came:  # whatever clearing up came to
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
