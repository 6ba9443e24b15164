"""Memory does not grow with the partition."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks/memory.py"


@pytest.mark.slow
def test_peak_memory_of_5000_images_is_within_1_5_times_that_of_500(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, BENCHMARK, "--folder", tmp_path], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [(row[0], row[1]) for row in rows] == [
        (stage, size) for size in ("500", "5000") for stage in ("pack", "transform", "embed")
    ]
    assert all(float(row[-1]) <= 1.5 for row in rows), done.stdout
