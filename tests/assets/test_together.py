"""Embedders of the same shards are one step: it makes both tables in one pass, and a run may ask for one of them."""

from collections import Counter
from typing import Any

import dagster as dg
import pytest

from shardmill.errors import ConfigurationError
from tests import small_embedder
from tests.small_embedder import SMALL

EMBEDDERS = {"plain": SMALL, "unit": {**SMALL, "normalize": True}}
CHANGES: dict[str, Any] = {"embedder": None, "embedders": EMBEDDERS, "min_same_class_rate": None}
BEFORE = ["raw_images", "webdataset_shards", "transformed_shards"]
TABLES = ["embeddings_plain", "embeddings_unit"]


def made(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str | None], dict[str, Any]]:
    """(asset, partition) → metadata of each materialization."""
    events = result.get_asset_materialization_events()
    materializations = [event.step_materialization_data.materialization for event in events]
    return {
        (each.asset_key.path[-1], each.partition): {name: value.value for name, value in each.metadata.items()}
        for each in materializations
    }


def steps(result: dg.ExecuteInProcessResult) -> list[str]:
    return [event.step_key or "" for event in result.all_events if event.is_step_start]


def test_two_tables_are_made_by_one_step_that_decodes_each_image_once(tiny: Any, decoded: Counter[bytes]) -> None:
    result = tiny.materialize(("a", "b"), [*BEFORE, *TABLES], **CHANGES)
    assert result.success
    assert [step for step in steps(result) if "embeddings" in step and "sound" not in step][:1] == [
        "tiny__embeddings_plain_and_embeddings_unit"
    ]
    assert set(decoded.values()) == {1}
    assert len(decoded) == 4 + 5
    found = made(result)
    for table in TABLES:
        for partition, samples in (("a", 4), ("b", 5)):
            metadata = found[table, partition]
            assert metadata["dagster/row_count"] == metadata["samples computed"] == samples
            assert metadata["shards made"] == 1
            assert 0 < metadata["samples per second"] < 100_000
    assert all(check.passed for check in result.get_asset_check_evaluations())
    again = tiny.materialize("a", [*BEFORE, *TABLES], checks=False, **CHANGES)
    assert {made(again)[table, "a"]["shards made"] for table in TABLES} == {0}
    assert set(decoded.values()) == {1}


def test_a_run_may_make_one_of_them(tiny: Any) -> None:
    result = tiny.materialize("a", [*BEFORE, "embeddings_unit"], checks=False, **CHANGES)
    assert {asset for asset, _ in made(result)} == {*BEFORE, "embeddings_unit"}
    assert not tiny.commit("embeddings_plain", "a").exists()


def test_a_table_is_made_though_the_model_of_the_other_fails(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = small_embedder.load

    def load(spec: Any, *rest: Any) -> Any:
        if spec.batch_size == 13:
            raise ConfigurationError("its weights are gone")
        return given(spec, *rest)

    monkeypatch.setattr(small_embedder, "load", load)
    embedders = {**EMBEDDERS, "plain": {**SMALL, "dtype": "float16", "batch_size": 13}}
    changes = {**CHANGES, "embedders": embedders}
    result = tiny.materialize(("a", "b"), [*BEFORE, *TABLES], checks=False, **changes)
    assert {partition for asset, partition in made(result) if asset == "embeddings_unit"} == {"a", "b"}
    assert not tiny.commit("embeddings_plain", "a").exists()
    [failed] = [event for event in result.all_events if event.is_step_failure]
    assert "embeddings_plain" in failed.step_failure_data.user_failure_data.description
    assert "its weights are gone" in failed.step_failure_data.user_failure_data.description
