"""Memory does not grow with the partition."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.slow
def test_peak_memory_of_5000_images_is_within_1_5_times_that_of_500(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.memory", "--folder", tmp_path]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    names = [f"{stage}{suffix}" for suffix in ("", "-copied") for stage in ("pack", "transform", "embed")]
    assert [row[0] for row in rows] == 2 * names
    assert [int(row[1]) for row in rows] == [size + number // 3 for size in (500, 5000) for number in range(6)]
    assert all(float(row[-1]) <= 1.5 for row in rows), done.stdout
