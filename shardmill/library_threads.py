"""Threads that libraries start for their own use: none, while shards are made.

The threads of a stage are the parallelism. Those that torch, BLAS, OpenCV and whatever uses OpenMP would add wait for
each other, and take several times the processor time of the work.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import NamedTuple

from threadpoolctl import ThreadpoolController
from typing_extensions import override

_OWN_SETTINGS = {"torch": ("get_num_threads", "set_num_threads"), "cv2": ("getNumThreads", "setNumThreads")}
"""Modules that have a setting of their own, and the functions that read and change it."""


class _Setting(NamedTuple):
    """How many threads a loaded library computes with. It belongs to the process, or to the thread that asks."""

    library: str
    of_thread: bool
    """Else of the process."""
    get: Callable[[], int]
    set: Callable[[int], object]


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Libraries compute in the thread that calls them: in this one, and in those that `bounded_map` starts meanwhile.

    Libraries that are loaded within the block do so, too. What was set before is set again when the block ends; for the
    whole process, when the last of several blocks ends.
    """
    global _blocks
    with _lock:
        if not _blocks:
            sys.meta_path.insert(0, _loads)
        _blocks += 1
        here = _limit()
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            before = {**_before, **here} if _blocks else _before
            for setting in _settings():
                if setting.of_thread or not _blocks:
                    setting.set(before.get(setting.library, setting.get()))
            if not _blocks:
                with suppress(ValueError):  # code of the user's own may have left others there
                    sys.meta_path.remove(_loads)
                _before.clear()


def limit_this_thread() -> None:
    """Within a block of any thread, let libraries compute in this thread, too. For threads of ours: it stays so."""
    with _lock:
        if _blocks:
            _limit()


def compute_alone() -> None:
    """Let libraries compute in this thread as long as it lives; whatever other threads do stays as it is."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        torch.get_num_threads()  # it sets a new thread up where it is first asked, and that would undo what follows
    for library in ThreadpoolController().lib_controllers:
        if library.user_api == "openmp":
            library.set_num_threads(1)


def _limit() -> dict[str, int]:
    """Gives what was set for this thread."""
    settings = list(_settings())
    found = {setting.library: setting.get() for setting in settings}  # before any is changed: torch's is OpenMP's, too
    for setting in settings:
        _before.setdefault(setting.library, found[setting.library])
        setting.set(1)
    return found


def _settings() -> Iterator[_Setting]:
    for name, (get, change) in _OWN_SETTINGS.items():
        module = sys.modules.get(name)
        if hasattr(module, change):  # not where it is being imported
            yield _Setting(name, name == "torch", getattr(module, get), getattr(module, change))
    for library in ThreadpoolController().lib_controllers:
        of_thread = library.user_api == "openmp"
        yield _Setting(library.filepath, of_thread, library.get_num_threads, library.set_num_threads)


class _Loads(MetaPathFinder):
    """Limits libraries as soon as they are loaded: by a package, or by an extension module in one."""

    @override
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        finds = [getattr(finder, "find_spec", None) for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (find(name, path, target) for find in finds if find)), None)
        loader = spec.loader if spec else None
        if isinstance(loader, ExtensionFileLoader) or (isinstance(loader, SourceFileLoader) and "." not in name):
            execute = loader.exec_module

            def execute_and_limit(module: ModuleType) -> None:
                vars(loader).pop("exec_module", None)  # the module keeps its loader as Python made it
                execute(module)
                limit_this_thread()

            loader.exec_module = execute_and_limit  # type: ignore[method-assign]
        return spec


_loads = _Loads()
_lock = threading.RLock()  # looking for libraries may load some
_blocks = 0
_before: dict[str, int] = {}
"""What was set when the first of the blocks began."""
