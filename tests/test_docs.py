"""What the documentation promises of tests: each that it names exists."""

import ast
import re
from pathlib import Path

import shardmill
from shardmill.samples import SUFFIX_ALIASES
from shardmill.sources.excludes import LITTER

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


def test_the_docs_show_the_example_of_a_stage_of_files_as_it_is() -> None:
    page = (REPOSITORY / "docs/datasets.md").read_text()
    example = (REPOSITORY / "examples/text_parts/parts.py").read_text()
    assert f"```python\n{example}```" in page
    assert len(example.splitlines()) <= 40
    [declared] = re.findall(r"^ +- \{name: parts, .*$", page, re.MULTILINE)
    assert declared in (REPOSITORY / "examples/text_parts/defs.yaml").read_text()


def test_the_docs_name_every_kind_of_litter_and_no_other() -> None:
    page = (REPOSITORY / "docs/datasets.md").read_text()
    table = page.partition("Left out by default")[2].partition("`exclude_defaults")[0]
    assert set(re.findall(r"`(\S[^`]*)`", table)) == {glob.encode("unicode_escape").decode() for glob in LITTER}


def test_the_docs_say_which_suffix_is_used_of_those_of_one_format() -> None:
    page = (REPOSITORY / "docs/datasets.md").read_text()
    suffixes = page.partition("of those that name one format one is used:")[2].partition("So `a.jpg`")[0]
    said = {
        other: used
        for others, used in re.findall(r"((?:`\w+`(?:,\s|\sand\s)?)+)\s(?:is|are) `(\w+)`", suffixes)
        for other in re.findall(r"`(\w+)`", others)
    }
    assert said == dict(SUFFIX_ALIASES)


def test_the_docs_name_every_reason_of_a_reject_and_no_other() -> None:
    """Those that code raises `Rejected` with, by their words or by a constant."""
    trees = {file: ast.parse(file.read_text()) for file in (REPOSITORY / "shardmill").rglob("*.py")}
    constants: dict[str, str] = {}
    reasons = set()
    for file, tree in trees.items():
        for node in tree.body:
            value = node.value.value if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) else None
            if isinstance(node, ast.Assign) and isinstance(value, str):
                constants |= {name.id: value for name in node.targets if isinstance(name, ast.Name)}
                reasons |= {value} if file.name == "reasons.py" else set()
    for node in (node for tree in trees.values() for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Rejected":
            for given in ast.walk(node.args[0]):
                if isinstance(given, ast.Constant) and isinstance(given.value, str):
                    reasons.add(given.value)
                elif isinstance(given, ast.Name | ast.Attribute):
                    reasons.add(constants.get(given.id if isinstance(given, ast.Name) else given.attr, ""))
    table = (REPOSITORY / "docs/datasets.md").read_text().partition("## Rejects")[2]
    named = {reason for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for reason in row.split(", ")}
    assert len(reasons) > 25
    assert named - {"reason", "---"} == reasons - {""}
