"""Which models the vectors of a dataset's partitions come from."""

import os
from pathlib import Path
from typing import Any

import pytest

from shardmill import graph
from shardmill.dataset import Dataset
from shardmill.graph import models
from shardmill.shards.commit import Commit
from tests.small_embedder import SMALL

KEYS = [f"p{number}" for number in range(4)]


def commit(samples: int = 1, **parameters: Any) -> Commit:
    given = {"model": "m", "weights": "sha256:1", "precision": "float32", "component": None, **parameters}
    return Commit(
        name="d/embeddings/p",
        shardlist=[],
        stage="embed",
        stage_version=1,
        suffix="parquet",
        parameters=given,
        cut={},
        made_of={},
        versions={},
        total_samples_in=samples,
        total_samples=samples,
        total_bytes=0,
        total_filtered=0,
        total_rejects=0,
        rejects_by_reason={},
    )


@pytest.mark.parametrize(
    "changed", [{"weights": "sha256:2"}, {"model": "n"}, {"precision": "bfloat16"}, {"decode": "cuda"}]
)
def test_what_a_vector_depends_on_tells_models_apart(changed: dict[str, Any]) -> None:
    found = graph.models_of({"a": commit(), "b": commit(**changed), "c": commit()})
    assert [each.partitions for each in found] == [["a", "c"], ["b"]]
    assert found[0].model != found[1].model
    assert next(iter(changed.values())) in found[1].model


def test_which_component_is_embedded_and_empty_partitions_tell_nothing() -> None:
    found = graph.models_of({"a": commit(), "b": commit(component="jpg"), "c": commit(0, model="n")})
    assert found == [("m", ["a", "b"])]


@pytest.fixture
def dataset(tmp_path: Path, images: Any, make_dataset: Any, run_chain: Any) -> Dataset:
    """Four partitions, the second of another model than the others, and the oldest."""
    for number, key in enumerate(KEYS):
        images(tmp_path / "raw" / key, 1, first=number)

    def declare(**embedder: Any) -> Dataset:
        fields = {"partitions": KEYS, "transform": None, "embedder": {**SMALL, **embedder}}
        found: Dataset = make_dataset(tmp_path / "raw/{partition}", tmp_path / "root", **fields)
        return found

    run_chain(declare(normalize=True), "p1", last="embeddings")
    for key in ("p0", "p2", "p3"):
        run_chain(declare(), key, last="embeddings")
    side = tmp_path / "root/d/_shardmill/embeddings"
    for age, key in enumerate(["p3", "p2", "p0", "p1"]):
        os.utime(side / key / "index.json", (1e9 - age, 1e9 - age))
    return declare()


@pytest.mark.parametrize("looked", [100, 2])
def test_a_partition_of_an_older_model_is_found_among_few_that_are_read(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, looked: int
) -> None:
    monkeypatch.setattr(models, "_LOOKED", looked)
    found, count = graph.look_at_models(dataset, "embeddings", ["p2"])
    assert count == min(4, looked + 1)
    assert {each.model: each.partitions[-1] for each in found}["small, normalize True"] == "p1"
    assert len(found) == 2


def test_the_command_line_says_so(dataset: Dataset, tmp_path: Path, call_command: Any) -> None:
    import yaml

    file = tmp_path / "dataset.yaml"
    file.write_text(yaml.safe_dump({"attributes": dataset.spec.model_dump(mode="json", exclude_unset=True)}))
    for command in ("partitions", "plan"):
        done = call_command(command, file)
        assert done.returncode == 0, done.stderr
        said = (
            "embeddings has partitions of 2 models, not to be compared: 3 of small, normalize False; 1 of small, norm"
        )
        assert said in done.stdout + done.stderr
