"""Nothing is left of a temporary directory, at whatever step a Ctrl-C comes."""

import contextlib
import dis
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from shardmill.storage import Storage
from shardmill.storage.local import SCRATCH
from shardmill.temporary import TemporaryFolder, temporary_directory

_SIGNALS_ARE_SEEN_AFTER = {"RESUME", "CALL", "CALL_FUNCTION_EX", "JUMP_BACKWARD"}
"""Where CPython 3.11 looks for signals. https://github.com/python/cpython/blob/3.11/Python/ceval.c"""


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """It may come at any step, and calls what others have hung on it."""
    gc.disable()
    yield
    gc.enable()


def interrupt_wherever_a_signal_is_seen(call: Callable[[], None], check: Callable[[], None]) -> int:
    """Run `call` again and again, with a Ctrl-C one step later each time, and `check` after each. How many steps."""
    steps, came = 0, True
    before: dict[FrameType, str] = {}
    while came:
        steps += 1
        came, left = False, steps
        before.clear()

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal came, left
            frame.f_trace_opcodes = True
            if event == "opcode":
                seen = before.get(frame) in _SIGNALS_ARE_SEEN_AFTER
                before[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
                left -= seen
                if seen and not left:
                    came = True
                    raise KeyboardInterrupt
            return trace

        tracer = sys.gettrace()
        sys.settrace(trace)
        # `rmtree` closes a descriptor twice where it is interrupted just behind the first time, and says OSError.
        with contextlib.suppress(KeyboardInterrupt, OSError):
            call()
        sys.settrace(tracer)
        before.clear()
        check()
    return steps


def temporary(parent: Path) -> None:
    with temporary_directory(parent) as directory:
        (directory / "data").write_bytes(b"some")


def scratch(parent: Path) -> None:
    with Storage().scratch(f"file://{parent}") as directory:
        (directory / "data").write_bytes(b"some")


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the steps at which signals are seen are Python 3.11's")
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("use", [temporary, scratch])
def test_a_ctrl_c_at_any_step_leaves_nothing(tmp_path: Path, use: Callable[[Path], None]) -> None:
    def left() -> list[Path]:
        return [each for each in tmp_path.rglob("*") if each.name != SCRATCH]

    def check() -> None:
        if left():  # with an exception that is still remembered; as it would be until the process ends
            gc.collect()
        assert left() == []

    assert interrupt_wherever_a_signal_is_seen(lambda: use(tmp_path), check) > 50


def test_a_temporary_directory_is_its_users_alone_and_goes_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="whatever"), temporary_directory(tmp_path, "some-") as directory:  # noqa: PT012
        assert directory.parent == tmp_path
        assert directory.name.startswith("some-")
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "below").mkdir()
        raise ValueError("whatever")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_goes_with_its_object_in_the_process_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = TemporaryFolder()
    (folder.path / "data").write_bytes(b"some")
    other = pickle.loads(pickle.dumps(folder))
    assert other.path == folder.path
    del other
    gc.collect()
    assert folder.path.exists()
    process = multiprocessing.get_context("spawn").Process(target=os.stat, args=(folder.path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert folder.path.exists()
    path = folder.path
    del folder
    gc.collect()
    assert not path.exists()


SCRIPT = """
import multiprocessing, os, sys
from shardmill.temporary import TemporaryFolder

AT_MODULE_LEVEL = TemporaryFolder()

def work():
    global within
    within = TemporaryFolder()
    assert within.path.exists() and AT_MODULE_LEVEL.path.exists()

if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[1]).Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert AT_MODULE_LEVEL.path.exists()
    assert len(os.listdir(os.environ["TMPDIR"])) == 1 + (sys.argv[1] == "forkserver")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_folders_go_with_their_processes_those_too_that_import_the_script_anew(tmp_path: Path, method: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), method]
    with temporary_directory() as temporary:  # the fork server's socket takes no path of more than 108 bytes
        subprocess.run(command, check=True, env={**os.environ, "TMPDIR": str(temporary)})
        assert list(temporary.iterdir()) == []
