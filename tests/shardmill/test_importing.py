"""Code of the user's own: whatever is wrong with it is one plain error that names the import path."""

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from shardmill.errors import ConfigurationError
from shardmill.importing import EndedError, as_an_error, import_path


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module of a name of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(code: str) -> str:
        name = f"own_code_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(code)
        return name

    return write


def test_a_path_may_lead_into_a_class(module: Callable[[str], str]) -> None:
    name = module("class A:\n    def f(self): return 3")
    assert import_path(f"{name}:A.f").__name__ == "f"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit(9)", r"EndedError: importing it calls sys.exit\(9\)"),
        ("raise SystemExit", "importing it calls sys.exit"),
        ("def f(:\n    pass", "line 1 is no Python: invalid syntax"),
        ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("x = 3", "has no attribute 'f'"),
    ],
)
def test_what_cannot_be_imported_is_an_error_that_says_why(module: Callable[[str], str], code: str, words: str) -> None:
    path = f"{module(code)}:f"
    with pytest.raises(ConfigurationError, match=f"cannot import {path}: .*{words}"):
        import_path(path)


@pytest.mark.parametrize("path", ["no.such.package:f", ":f", "os", "os:"])
def test_what_is_no_path_is_an_error(path: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot import"):
        import_path(path)


def test_an_exit_is_an_error_and_a_person_s_interrupt_is_none() -> None:
    with pytest.raises(EndedError, match=r"the work calls sys.exit\(0\)"), as_an_error("the work"):
        sys.exit(0)
    with pytest.raises(KeyboardInterrupt), as_an_error("the work"):
        raise KeyboardInterrupt


def test_an_exit_without_a_word_is_an_error_and_a_child_may_still_end() -> None:
    with pytest.raises(EndedError, match=r"the work calls os._exit\(0\)"), as_an_error("the work"):
        os._exit(0)
    code = """if True:
        import os, shardmill.importing
        with shardmill.importing.as_an_error("the work"):
            child = os.fork() or os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_exit_in_a_thread_that_code_starts_ends_nothing() -> None:
    code = """if True:
        import os, threading, shardmill.importing
        with shardmill.importing.as_an_error("the work"):
            thread = threading.Thread(target=os._exit, args=(0,))
            thread.start()
            thread.join()
        print("still here")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "still here\n"
    assert "the work calls os._exit(0)" in done.stderr


def test_what_is_no_exception_is_an_error_too() -> None:
    with pytest.raises(EndedError, match="the work raises GeneratorExit"), as_an_error("the work"):
        raise GeneratorExit


def test_outside_of_it_the_process_ends_as_ever() -> None:
    code = "import shardmill.importing, os\nwith shardmill.importing.as_an_error('x'): pass\nos._exit(5)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 5


def test_an_interrupt_that_code_raises_in_a_thread_is_an_error() -> None:
    raised: list[BaseException] = []

    def work() -> None:
        try:
            with as_an_error("the work"):
                raise KeyboardInterrupt
        except EndedError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert str(raised[0]) == "the work raises KeyboardInterrupt"
