"""How modules hang together, and how long they are."""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from shardmill.embedders.registry import EMBEDDERS, load_embedder

PACKAGES = ("shardmill", "resources", "assets", "orchestration")
REPOSITORY = Path(__file__).parents[1]
MOST_LINES = 400
"""A longer module holds two ideas."""


def imports(*packages: str) -> grimp.ImportGraph:
    """Every import between modules of the packages: within functions and for type checkers too."""
    return grimp.build_graph(*packages, exclude_type_checking_imports=False, cache_dir=None)


def circle(graph: grimp.ImportGraph) -> list[str]:
    """Modules of which each is imported by the next and the last by the first; none if there is no circle."""
    try:
        TopologicalSorter(
            {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
        ).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_imports_go_in_a_circle():
    graph = imports(*PACKAGES)
    for module in EMBEDDERS.values():
        graph.add_import(importer=load_embedder.__module__, imported=module)
    assert circle(graph) == []


@pytest.mark.parametrize(
    "way_back", ["import knot.a", "def late():\n    from knot import a", "if TYPE_CHECKING:\n    from knot.a import A"]
)
def test_circles_of_all_kinds_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way_back: str):
    (tmp_path / "knot").mkdir()
    for name, text in (("__init__", ""), ("a", "import knot.b"), ("b", "import knot.c"), ("c", way_back)):
        (tmp_path / "knot" / f"{name}.py").write_text(f"from typing import TYPE_CHECKING\n{text}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert set(circle(imports("knot"))) == {"knot.a", "knot.b", "knot.c"}


def test_no_module_is_so_long_that_it_holds_two_ideas():
    modules = [file for package in PACKAGES for file in (REPOSITORY / package).rglob("*.py")]
    lines = {str(file.relative_to(REPOSITORY)): len(file.read_text().splitlines()) for file in modules}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
