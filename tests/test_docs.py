"""What the documentation promises of tests: each that it names exists."""

import re
from pathlib import Path

import shardmill

REPOSITORY = Path(__file__).parents[1]


def test_every_test_that_the_documentation_names_is_there() -> None:
    named = {
        name for page in (REPOSITORY / "docs").glob("*.md") for name in re.findall(r"`(test_\w+)`", page.read_text())
    }
    assert len(named) >= 6
    there = {
        name
        for file in (REPOSITORY / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }
    assert named - there == set()


def test_the_docs_use_the_public_surface_alone(repository: Path) -> None:
    pages = [repository / "README.md", *(repository / "docs").glob("*.md")]
    blocks = [code for page in pages for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    imported = [line for code in blocks for line in re.findall(r"^(?:from|import) shardmill.*$", code, re.MULTILINE)]
    assert imported
    for line in imported:
        found = re.fullmatch(r"from shardmill import ([\w, ]+)", line)
        assert found, line
        assert set(found[1].split(", ")) <= set(shardmill.__all__), line
