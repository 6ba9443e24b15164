"""Code of the user's own, by its import path."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shardmill.errors import ConfigurationError


def import_path(path: str) -> Any:
    """What `package.module:name` stands for.

    Raises:
        ConfigurationError: There is no such module or name, or the module cannot be imported, for whatever reason.
    """
    module, _, names = path.partition(":")
    try:
        with as_an_error("importing it"):
            found: Any = importlib.import_module(module)
    except (ModuleNotFoundError, ValueError) as error:
        raise ConfigurationError(f"cannot import {path}: {error}. {_HOW}") from error
    except SyntaxError as error:
        where = f"{error.filename}, line {error.lineno}"
        raise ConfigurationError(f"cannot import {path}: {where} is no Python: {error.msg}") from error
    except Exception as error:
        raise ConfigurationError(f"cannot import {path}: {type(error).__name__}: {error}") from error
    for name in names.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise ConfigurationError(f"cannot import {path}: {error}. {_HOW}") from error
    return found


_HOW = "Write it as package.module:callable, importable where shards are made"


def line_of(error: Exception) -> str:
    """` (file, line n, in function)`: where the first file outside of Shardmill ran last; nothing if none has.

    So it is a line of the user's stage or function, not of what that calls.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
    if not frames:
        return ""
    last = [frame for frame in frames if frame.filename == frames[0].filename][-1]
    return f" ({last.filename}, line {last.lineno}, in {last.name})"


def _is_ours(file: str) -> bool:
    return file == contextlib.__file__ or Path(file).is_relative_to(_PACKAGE)


_PACKAGE = Path(__file__).parent


class EndedError(Exception):
    """Code that was called asked for the end of the process."""


@contextmanager
def as_an_error(doing: str) -> Iterator[None]:
    """Code of the user's own runs in it: what would end the process there is an error like any other.

    A person's Ctrl-C comes to the main thread, and passes.

    Raises:
        EndedError: The code called `sys.exit` or `os._exit`, or raised what is no `Exception`.
    """
    with _lock:
        _running.append(doing)
    try:
        yield
    except Exception:
        raise
    except SystemExit as error:
        raise EndedError(f"{doing} calls sys.exit({error.code!r})") from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        raise EndedError(f"{doing} raises {type(error).__name__}") from error
    finally:
        with _lock:
            _running.remove(doing)


_running: list[str] = []
"""What runs in this process that must not end it, in whatever threads it has started."""
_lock = threading.Lock()
_process = os.getpid()
end_process = os._exit
"""Ends this process at once, whatever runs in it."""


def _refuse_to_exit(status: int) -> None:
    """In the place of `os._exit`, which would end a run with any status and without a word."""
    running = list(_running)
    if running and os.getpid() == _process:  # a child that was forked may end
        raise EndedError(f"{running[-1]} calls os._exit({status!r})")
    end_process(status)


os._exit = _refuse_to_exit  # type: ignore[assignment]
