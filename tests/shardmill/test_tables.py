"""Reading tables starts no threads: those of arrow, once started, may abort the process when it ends.

A digest of a table is over what its rows say.
"""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill.tables import table_digest, true_rows

THREADS = """
import json, os, sys, time
import pyarrow.parquet, torch
from typer.testing import CliRunner
from shardmill.cli import app

def threads():
    return set(os.listdir("/proc/self/task"))

left = {}
for command, *arguments in json.loads(sys.argv[1]):
    before = threads()
    result = CliRunner().invoke(app, [command, *arguments])
    assert result.exit_code == 0, result.output
    deadline = time.monotonic() + 30
    while threads() - before and time.monotonic() < deadline:
        time.sleep(0.05)  # a thread that was joined takes a moment to be gone; arrow's stay
    left[command] = len(threads() - before)
print(json.dumps(left))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, images, make_dataset, write_dataset, run_chain) -> Path:
    """A dataset file over a partition that is up to date."""
    base = tmp_path_factory.mktemp("tables")
    images(base / "raw", 20)
    run_chain(make_dataset(base / "raw", base / "root", embedder={}))
    return write_dataset(base / "d.yaml", base / "raw", base / "root")


def test_no_command_leaves_a_thread_behind(file: Path, start: Callable[..., Popen[str]]) -> None:
    commands = [["verify", file], ["show", file, "p", "--key", "image_00005"], ["partitions", file], ["run", file]]
    output, _ = start(THREADS, json.dumps(commands, default=str)).communicate()
    assert json.loads(output) == {"verify": 0, "show": 0, "partitions": 0, "run": 0}


ROWS = st.lists(
    st.tuples(st.none() | st.text("aé\0", max_size=3), st.text("aé\0", max_size=3), st.integers(-1, 2)), max_size=5
)


def table(rows: list[tuple[str | None, str, int]]) -> pa.Table:
    one, two, three = ([row[place] for row in rows] for place in range(3))
    return pa.table(
        {"one": pa.array(one, pa.string()), "two": pa.array(two, pa.string()), "three": pa.array(three, "int64")}
    )


@given(ROWS, ROWS)
def test_tables_have_one_digest_if_their_rows_are_the_same(one: list[Any], two: list[Any]) -> None:
    assert (table_digest(table(one)) == table_digest(table(two))) == (one == two)


@given(ROWS, st.integers(0, 5), st.integers(0, 5))
def test_the_digest_of_a_table_does_not_depend_on_how_it_lies_in_memory(rows: list[Any], cut: int, skip: int) -> None:
    whole, wider = table(rows), table([("x", "y", 7)] * skip + rows)
    pieces = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    assert table_digest(whole) == table_digest(pieces) == table_digest(wider.slice(skip))


def test_the_digest_of_a_table_is_the_same_for_ever() -> None:
    """Another one makes every shard anew."""
    digest = table_digest(table([(None, "a", 1), ("", "é", -1)]))
    assert digest == "98baab96525974e4e392961930971e230de55b321e746c6f90522b78fbf3fc01"


@pytest.mark.parametrize("chunks", [[], [[]], [[True]], [[False, True], [], [True, False, None]]])
def test_the_numbers_of_true_rows_whatever_the_chunks(chunks: list[list[bool | None]]) -> None:
    flat = [value for chunk in chunks for value in chunk]
    expected = [number for number, value in enumerate(flat) if value]
    assert true_rows(pa.chunked_array(chunks, pa.bool_())).to_pylist() == expected
