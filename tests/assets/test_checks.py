"""Checks fail when they should, and say why."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import checks
from shardmill.dataset import Dataset
from shardmill.errors import SupersededError
from shardmill.graph import build_graph
from shardmill.shards.commit import parse_commit
from tests.small_embedder import SMALL

TARS = ["webdataset_shards", "transformed_shards"]


@pytest.fixture(scope="module")
def made(new_tiny: Callable[[], Any]) -> Any:
    tiny = new_tiny()
    assert tiny.materialize("a").success
    return tiny


@pytest.fixture
def stored(made: Any) -> Iterator[Any]:
    """The materialized dataset; what a test tampers with is mended after it."""
    files = {file: file.read_bytes() for file in made.stored("", "").rglob("*") if file.is_file()}
    yield made
    for file, data in files.items():
        if not file.exists() or file.read_bytes() != data:
            file.unlink(missing_ok=True)
            file.write_bytes(data)


def data_file(tiny: Any, asset: str) -> Path:
    [file] = tiny.stored(asset, "a").iterdir()
    return file


def tamper(tiny: Any, asset: str, **changes: Any) -> None:
    """Change fields of the partition's commit."""
    file = tiny.commit(asset, "a")
    commit = parse_commit(file.read_bytes(), str(file))
    file.write_bytes(commit.model_copy(update=changes).to_json())


def tamper_entry(tiny: Any, asset: str, **changes: Any) -> None:
    """Change fields of the one shard in the partition's commit."""
    file = tiny.commit(asset, "a")
    commit = parse_commit(file.read_bytes(), str(file))
    [entry] = commit.shardlist
    file.write_bytes(commit.model_copy(update={"shardlist": [entry.model_copy(update=changes)]}).to_json())


def reason(evaluation: Any) -> str:
    return str(evaluation.metadata["reason"].value)


@pytest.mark.parametrize("asset", TARS)
def test_a_missing_shard_is_not_readable(stored: Any, asset: str) -> None:
    file = data_file(stored, asset)
    file.unlink()
    evaluation = stored.check(asset, "readable", "a")
    assert not evaluation.passed
    assert file.name in reason(evaluation)


def test_a_shard_cut_short_is_not_readable(stored: Any) -> None:
    file = data_file(stored, "webdataset_shards")
    data = file.read_bytes()
    file.unlink()  # it is read-only, and perhaps linked
    file.write_bytes(data[: len(data) // 2])
    evaluation = stored.check("webdataset_shards", "readable", "a")
    assert not evaluation.passed
    assert evaluation.metadata


def test_a_shard_with_fewer_samples_than_committed_is_not_readable(stored: Any) -> None:
    tamper(stored, "webdataset_shards", total_samples=5)
    evaluation = stored.check("webdataset_shards", "readable", "a")
    assert not evaluation.passed
    assert evaluation.metadata["samples read"].value == 4


def test_only_what_was_found_sound_is_remembered_as_read(stored: Any) -> None:
    remembered = stored.commit("webdataset_shards", "a").with_name("scrubbed.json")
    remembered.unlink()
    tamper(stored, "webdataset_shards", total_samples=5)
    assert not stored.check("webdataset_shards", "readable", "a").passed
    assert not remembered.exists()


def test_a_shard_that_lost_a_sample_is_named(stored: Any) -> None:
    tamper_entry(stored, "transformed_shards", filtered=1)
    evaluation = stored.check("transformed_shards", "nothing_lost", "a")
    assert not evaluation.passed
    assert evaluation.metadata["shards that lost samples"].value == "000000"


@pytest.mark.parametrize("objects", [7, 9])
def test_objects_that_do_not_add_up_are_not_accounted_for(stored: Any, objects: int) -> None:
    evaluation = stored.check("webdataset_shards", "accounted_for", "a")
    assert evaluation.passed
    figures = {name: value.value for name, value in evaluation.metadata.items()}
    assert figures == {"objects listed": 8, "in samples": 8, "in rejects": 0, "left out": 0}
    tamper_entry(stored, "webdataset_shards", objects=objects)
    evaluation = stored.check("webdataset_shards", "accounted_for", "a")
    assert not evaluation.passed
    assert evaluation.metadata["in samples"].value == objects


def test_what_is_left_out_is_accounted_for_by_rule(stored: Any) -> None:
    tamper(stored, "raw_images", listed=11, left_out={"default: ._*": 2, "exclude: *.txt": 1})
    evaluation = stored.check("webdataset_shards", "accounted_for", "a")
    assert evaluation.passed
    assert evaluation.metadata["left out"].value == 3
    rules = {record.data["rule"]: record.data["objects"] for record in evaluation.metadata["left out by rule"].records}
    assert rules == {"default: ._*": 2, "exclude: *.txt": 1}


def test_vectors_of_another_size_than_was_committed_are_not_sound(stored: Any) -> None:
    tamper_entry(stored, "embeddings", summary={"dimensions": "7"})
    assert not stored.check("embeddings", "sound", "a").passed


def test_where_another_run_commits_meanwhile_the_verdict_is_on_what_stands_then(stored: Any) -> None:
    overtaken = [SupersededError("gone"), SupersededError("gone")]

    def verdict(*_: object) -> tuple[bool, dict[str, Any]]:
        if overtaken:
            raise overtaken.pop()
        return True, {}

    spec = stored.spec()
    found = checks._verdict(verdict, Dataset(spec), build_graph(spec)["webdataset_shards"], "a")
    assert found == (True, {})


def test_a_missing_part_of_the_table_is_not_sound(stored: Any) -> None:
    file = data_file(stored, "embeddings")
    file.unlink()
    evaluation = stored.check("embeddings", "sound", "a")
    assert not evaluation.passed
    assert file.name in reason(evaluation)


def test_a_table_with_fewer_rows_than_committed_is_not_sound(stored: Any) -> None:
    tamper(stored, "embeddings", total_samples=5)
    evaluation = stored.check("embeddings", "sound", "a")
    assert not evaluation.passed
    assert evaluation.metadata["rows"].value == 4


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_vector_that_is_zero_or_not_a_number_is_not_sound(stored: Any, value: float) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = data_file(stored, "embeddings")
    table = pq.read_table(file)
    column = table["embedding"].combine_chunks()
    vectors = np.array(column.flatten()).reshape(len(column), -1)
    vectors[1] = value
    bad = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=column.type)
    file.unlink()
    pq.write_table(table.set_column(table.schema.get_field_index("embedding"), "embedding", bad), file)
    tamper_entry(
        stored, "embeddings", sha256=hashlib.sha256(file.read_bytes()).hexdigest(), filesize=file.stat().st_size
    )
    evaluation = stored.check("embeddings", "sound", "a")
    assert not evaluation.passed
    assert evaluation.metadata["rows"].value == 4  # it could be read
    assert evaluation.metadata["all finite"].value == (value == 0)


def test_vectors_that_were_to_be_normalized_and_are_not_are_not_sound(stored: Any) -> None:
    evaluation = stored.check("embeddings", "sound", "a", embedder={"normalize": True})
    assert not evaluation.passed
    assert abs(evaluation.metadata["largest norm"].value - 1) > 0.1


@pytest.mark.parametrize("asset", [*TARS, "embeddings", "embedding_map"])
def test_a_count_that_does_not_add_up_is_a_loss(stored: Any, asset: str) -> None:
    tamper(stored, asset, total_samples_in=9)
    evaluation = stored.check(asset, "nothing_lost", "a")
    assert not evaluation.passed
    assert evaluation.metadata["samples in"].value == 9
    assert evaluation.metadata["samples of the asset before"].value == 4


def test_a_commit_that_cannot_be_read_fails_the_check(stored: Any) -> None:
    stored.commit("transformed_shards", "a").write_text("{}")
    evaluation = stored.check("transformed_shards", "nothing_lost", "a")
    assert not evaluation.passed
    assert "index.json" in reason(evaluation)


def test_a_partition_that_was_never_made_fails_the_check(stored: Any) -> None:
    evaluation = stored.check("transformed_shards", "nothing_lost", "c")
    assert not evaluation.passed
    assert reason(evaluation) == "nothing is committed for c: materialize it first"


def test_too_few_neighbours_of_the_same_class_fail_the_check(stored: Any) -> None:
    for number in range(4):
        (stored.folder / f"raw/a/a{number}.cls").write_text(str(number))  # each a class of its own
    assert stored.materialize("a", checks=False, min_same_class_rate=1.0).success
    evaluation = stored.check("embeddings", "same_class_neighbours", "a", min_same_class_rate=1.0)
    assert not evaluation.passed
    assert evaluation.metadata["share with a neighbour of the same class"].value < 1
    assert evaluation.metadata["at least"].value == 1.0


def test_without_a_threshold_neighbours_are_not_checked(tiny: Any) -> None:
    names = {key.name for checks in tiny.defs(min_same_class_rate=None).asset_checks or [] for key in checks.check_keys}
    assert names == {"accounted_for", "nothing_lost", "readable", "sound", "one_model", "failed_partitions"}


def test_partitions_of_two_models_are_a_warning_until_all_are_of_one(stored: Any) -> None:
    assert stored.check("embeddings", "one_model", "a").passed
    changed = {"embedder": {**SMALL, "normalize": True}}
    assert stored.materialize("b", checks=False, **changed).success
    evaluation = stored.check("embeddings", "one_model", "b", **changed)
    assert not evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    records = [record.data for record in evaluation.metadata["partitions by model"].records]
    assert {(record["model"], record["such as"]) for record in records} == {
        ("small, normalize False", "a"),
        ("small, normalize True", "b"),
    }
    assert stored.materialize("a", checks=False, **changed).success
    assert stored.check("embeddings", "one_model", "b", **changed).passed


def test_without_a_partition_a_check_says_what_to_do(tiny: Any) -> None:
    """*Execute all* in the UI asks for no partition."""
    key = dg.AssetCheckKey(dg.AssetKey(["tiny", "webdataset_shards"]), "nothing_lost")
    job = dg.define_asset_job("check", dg.AssetSelection.checks(key))
    defs = dg.Definitions.merge(tiny.defs(), dg.Definitions(jobs=[job]))
    result = defs.resolve_job_def("check").execute_in_process(instance=tiny.instance, raise_on_error=False)
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    assert "made with a partition" in failed.step_failure_data.user_failure_data.description
