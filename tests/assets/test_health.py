"""The check on a dataset as a whole: what failed, what is stale, and why."""

from typing import Any

import dagster as dg
import pytest

from tests.small_embedder import SMALL


def health(tiny: Any, **changes: Any) -> dict[str, Any]:
    """The metadata of the check, executed by hand."""
    key = dg.AssetCheckKey(dg.AssetKey(["health", "tiny"]), "failed_partitions")
    job = dg.define_asset_job("health", dg.AssetSelection.checks(key))
    defs = dg.Definitions.merge(tiny.defs(**changes), dg.Definitions(jobs=[job]))
    result = defs.resolve_job_def("health").execute_in_process(instance=tiny.instance)
    [evaluation] = result.get_asset_check_evaluations()
    return {"passed": evaluation.passed, **evaluation.metadata}


def records(value: Any) -> list[dict[str, Any]]:
    return [dict(record.data) for record in value.records]


def test_why_something_is_stale_stands_in_the_ui(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny.materialize(("a", "b"), checks=False).success
    found = health(tiny)
    assert found["passed"]
    assert "stale partitions" not in found

    found = health(tiny, embedder={**SMALL, "normalize": True})
    stale = records(found["stale partitions"])
    assert {row["partition"] for row in stale} == {"a", "b"}
    reasons = {row["asset"]: row["why"] for row in stale}
    assert reasons["embeddings"] == "normalize was false, and is true"
    assert reasons["embedding_map"] == "embedding_basis is not up to date"
    assert "transformed_shards" not in reasons
    assert "not looked at for want of time" not in found

    monkeypatch.setattr("assets.health._LISTED", 1)
    found = health(tiny, embedder={**SMALL, "normalize": True})
    assert {row["partition"] for row in records(found["stale partitions"])} == {"b"}
    assert found["not looked at for want of time"].value == 1


def test_what_failed_is_listed_with_its_reason(tiny: Any) -> None:
    (tiny.folder / "raw/a/a0.jpg").write_bytes(b"")
    assert not tiny.materialize("a", checks=False).success
    assert tiny.materialize("b", checks=False).success
    found = health(tiny)
    assert not found["passed"]
    [row] = records(found["failed partitions"])
    assert (row["partition"], row["asset"]) == ("a", "webdataset_shards")
    assert "1 of 4 samples (25.0%) were rejected" in row["reason"]


def test_what_lies_beside_the_partitions_is_named(tiny: Any) -> None:
    assert "objects in no partition" not in health(tiny)
    (tiny.folder / "raw/lost.jpg").write_bytes(b"x")
    (tiny.folder / "raw/.DS_Store").write_bytes(b"x")
    found = health(tiny)["objects in no partition"].value
    assert found == f"1 objects below file://{tiny.folder}/raw are in no partition: lost.jpg"
