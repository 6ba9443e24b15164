"""The README's dataset and its Dagster command, as they stand there."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shardmill import open_shards


def test_the_readme_s_command_materializes_the_readme_s_dataset(
    repository: Path, new_project: Callable[[], Path], run_in: Callable[..., Any]
) -> None:
    readme = (repository / "README.md").read_text()
    [declared] = re.findall(r"```yaml\n(type: .*?)```", readme, re.DOTALL)
    [line] = re.findall(r"^\.venv/bin/(dagster asset materialize .*)$", readme, re.MULTILINE)
    project = new_project()
    (project / "orchestration/defs/pets").mkdir()
    file = project / "orchestration/defs/pets/defs.yaml"
    file.write_text(declared.replace("/data/", f"{project}/data/"))
    raw = project / "data/pets/2026-01"
    raw.mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (300, 260, 3), np.uint8)
        Image.fromarray(pixels).save(raw / f"{number}.jpg")
        Image.fromarray(pixels[..., 0] % 3).save(raw / f"{number}.trimap.png")

    done = run_in(project, *shlex.split(line))
    assert done.returncode == 0, done.stdout
    assert open_shards(f"{project}/data/shardmill/pets/embeddings/2026-01").table().num_rows == 4
