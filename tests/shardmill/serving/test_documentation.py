"""docs/serving.md says what the command and the answers are."""

import ast
import re
from pathlib import Path

import typer.main

from shardmill.cli import app
from shardmill.serving.arguments import _KNOWN
from shardmill.serving.gate import Gate
from shardmill.serving.limits import Limits

PAGE = (Path(__file__).parents[3] / "docs/serving.md").read_text()
SERVING = Path(Gate.__call__.__code__.co_filename).parent


def rows(heading: str) -> list[list[str]]:
    """Cells of the table in a section."""
    section = PAGE.partition(heading)[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in re.findall(r"^\|.*$", section, re.MULTILINE)]


def test_it_has_every_option_with_its_default() -> None:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {option.opts[0]: option.default for option in command.params if option.opts[0].startswith("--")}
    said = {cells[0].strip("`"): cells[1] for cells in rows("## Limits") if cells[0].startswith("`")}
    assert set(said) == set(options) - {"--help"}
    plain = {name: value for name, value in options.items() if name not in ("--body-bytes", "--held-bytes")}
    assert {name: value for name, value in said.items() if name in plain and value} == {
        name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in plain.items() if value
    }
    for name in ("body-bytes", "held-bytes"):
        assert said[f"--{name}"] == f"{options[f'--{name}'] >> 30} GiB"
    limits = Limits()
    assert (limits.requests, limits.body_bytes, limits.held_bytes, limits.timeout) == tuple(
        options[f"--{name}"] for name in ("requests", "body-bytes", "held-bytes", "timeout")
    )


def test_it_has_every_status_of_a_refusal() -> None:
    trees = [ast.parse(file.read_text()) for file in SERVING.glob("*.py")]
    statuses = {
        str(node.args[0].value)
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Refusal"
        and isinstance(node.args[0], ast.Constant)
    }
    unseen = {"499"}  # nobody waits for it
    assert {cells[0] for cells in rows("## What is answered") if cells[0].isdecimal()} == statuses - unseen


def test_it_has_every_argument() -> None:
    assert {cells[0].strip("`") for cells in rows("`etl_args` is") if cells[0].startswith("`")} == set(_KNOWN)
