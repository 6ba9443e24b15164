"""Write the tables of docs/performance.md anew, from what the benchmarks left in `benchmarks/results`.

python -m benchmarks.performance_page
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.comparison import report
from benchmarks.estimate import RESULTS, stage_milliseconds, table, unit_table
from benchmarks.scale import dataset_table, partition_table

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
COMPARISONS = ("pack", "transform", "embed", "chain", "loading-raw", "loading-decoded", "loading-crops")


def main(given: Sequence[str] | None = None) -> None:
    """Put every table in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(given)
    PAGE.write_text(with_tables(PAGE.read_text(), tables()))


def tables(results: Path = RESULTS) -> dict[str, str]:
    """By name."""
    milliseconds = stage_milliseconds(results)
    simulated = json.loads((results / "scale.json").read_text())
    return {
        **{name: comparison(results / f"{name}.json") for name in COMPARISONS},
        "standing": standings(results),
        "one partition": partition_table(simulated),
        "many partitions": dataset_table(simulated),
        "units": unit_table(milliseconds),
        "scale": table(milliseconds),
    }


def standings(results: Path) -> str:
    """Ours beside the best peers and the limits, of all stages."""
    head = [
        "| | CPU: of the best peer | of the limit | wall: of the best peer | of the limit | best: in CPU; in wall |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    found = [json.loads((results / f"{name}.json").read_text()) for name in COMPARISONS]
    return "\n".join([*head, *(line for result in found for line in report.standing(result))])


def comparison(file: Path) -> str:
    """A table, and what was measured."""
    result = json.loads(file.read_text())
    size = f"{result['images']:,} images of {result['bytes'] / result['images'] / 1e3:.0f} kB"
    rounds = f"{result['rounds']} round{'s' if result['rounds'] > 1 else ''}"
    used = [f"{name} {version}" for name, version in {**result["versions"], **result["peers"]}.items()]
    said = f"{size}, {result['workers']} workers, {rounds}, {result['machine']}; {', '.join(used)}."
    return f"{said}\n\n{report.table(result)}"


def with_tables(page: str, tables: dict[str, str]) -> str:
    """The page with each table between its marks, `<!-- table: name -->` and `<!-- end -->`."""
    for name, text in tables.items():
        start = f"<!-- table: {name} -->\n"
        before, mark, rest = page.partition(start)
        _, end, after = rest.partition("<!-- end -->")
        if not mark or not end:
            raise SystemExit(f"the page has no place for the table {name}")
        page = f"{before}{start}\n{text}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    main()
