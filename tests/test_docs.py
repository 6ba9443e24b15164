"""What the documentation promises of tests: each that it names exists."""

import re
from pathlib import Path

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
