"""The map: the table's keys, on a basis that the dataset's partitions share."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from shardmill import graph
from shardmill.dataset import Dataset
from shardmill.engines import LocalEngine
from shardmill.errors import ConfigurationError
from shardmill.progress import Progress
from shardmill.shards.layout import Layout
from shardmill.stages import embedding_basis
from shardmill.stages.embed import EmbedStage
from shardmill.stages.embedding_map import MapStage
from tests.small import plan


@pytest.fixture
def two(tmp_path: Path, images, make_dataset, run_chain) -> Dataset:
    """Two partitions, the second one of other images, run."""
    images(tmp_path / "raw/a", 30)
    images(tmp_path / "raw/b", 20, first=100)
    return make_dataset(tmp_path / "raw/{partition}", tmp_path / "root", partitions=["a", "b"])


def bases(root: Path) -> list[Path]:
    return sorted((root / "d/embedding_basis/all").iterdir())


def test_the_map_has_the_keys_of_the_table_and_a_picture(two: Dataset, run_chain) -> None:
    made = run_chain(two, "a")
    table = pd.read_parquet(two.folder("embeddings", "a"))
    points = pd.read_parquet(two.folder("embedding_map", "a"))
    assert list(points["key"]) == list(table["key"])
    assert list(points["cls"]) == list(table["cls"])
    assert np.isfinite(points[["x", "y"]].to_numpy()).all()
    [entry] = made["embedding_map"].commit.shards
    assert entry.picture
    picture = Path(Layout.at(two.folder("embedding_map", "a")).beside(entry.picture).removeprefix("file://"))
    with Image.open(picture) as image:
        image.verify()


def test_partitions_share_a_basis(two: Dataset, tmp_path: Path, run_chain) -> None:
    first = run_chain(two, "a")["embedding_map"].commit.made_of["embedding_basis"]
    [basis] = bases(tmp_path / "root")
    before = basis.stat().st_mtime_ns
    second = run_chain(two, "b")["embedding_map"].commit.made_of["embedding_basis"]
    assert bases(tmp_path / "root") == [basis]
    assert basis.stat().st_mtime_ns == before
    assert first == second


def test_new_images_in_a_partition_move_no_other_point(two: Dataset, tmp_path: Path, images, run_chain) -> None:
    run_chain(two, "a")
    before = pd.read_parquet(two.folder("embedding_map", "a")).set_index("key")
    images(tmp_path / "raw/a", 1, first=900)
    run_chain(two, "a")
    after = pd.read_parquet(two.folder("embedding_map", "a")).set_index("key")
    assert len(after) == 31
    pd.testing.assert_frame_equal(after.loc[before.index], before)


def test_another_embedder_gets_a_basis_of_its_own(two: Dataset, tmp_path: Path, make_dataset, run_chain) -> None:
    first = run_chain(two, "a")["embedding_map"].commit.made_of["embedding_basis"]
    [basis] = bases(tmp_path / "root")
    changed = make_dataset(
        tmp_path / "raw/{partition}", tmp_path / "root", partitions=["a", "b"], embedder={"normalize": True}
    )
    second = run_chain(changed, "a")["embedding_map"].commit.made_of["embedding_basis"]
    assert first != second
    assert bases(tmp_path / "root") != [basis]


def test_no_table_is_drawn_on_the_basis_of_another_embedder(
    two: Dataset, tmp_path: Path, make_dataset, run_chain
) -> None:
    made = run_chain(two, "a")
    changed = make_dataset(
        tmp_path / "raw/{partition}", tmp_path / "root", partitions=["a", "b"], embedder={"normalize": True}
    )
    run_chain(changed, "b")
    mixed = {**made, "embedding_basis": made["embedding_basis"].newest()}
    with pytest.raises(ConfigurationError, match="d/embeddings/a was made by another embedder than d/embedding_basis"):
        plan(changed, "embedding_map", "a", mixed)


def test_a_basis_of_tables_that_are_not_final_is_fitted_again(two: Dataset, tmp_path: Path, run_chain) -> None:
    file = tmp_path / "raw/a/image_00003.jpg"
    generous = Dataset(two.spec.model_copy(update={"max_reject_ratio": 0.5}))
    elsewhere = tmp_path / file.name
    listed = graph.run(generous, "a", LocalEngine(1))
    next(listed)
    file.rename(elsewhere)  # between listing and packing
    made = dict(listed)
    assert made["embedding_basis"].commit.cut != {"tables": "settled"}
    elsewhere.rename(file)
    tried_again = "1 rejects are tried again"
    assert ("webdataset_shards", tried_again) in list(graph.why_stale(generous, "a"))
    [packed] = [state for state in graph.states(generous, "a") if state.asset == "webdataset_shards"]
    assert tried_again in packed.why
    again = run_chain(generous, "a")
    assert again["embedding_basis"].commit.cut == {"tables": "settled"}
    assert again["embedding_basis"].made == 1
    run_chain(generous, "b")
    assert run_chain(generous, "a")["embedding_basis"].made == 0


def test_a_basis_is_fitted_on_final_tables_where_there_are_some(two: Dataset, tmp_path: Path, run_chain) -> None:
    file = tmp_path / "raw/a/image_00003.jpg"
    generous = Dataset(two.spec.model_copy(update={"max_reject_ratio": 0.5}))
    listed = graph.run(generous, "a", LocalEngine(1))
    next(listed)
    file.unlink()  # between listing and packing
    list(listed)
    [entry] = run_chain(generous, "b")["embedding_basis"].commit.shards
    assert entry.summary["fitted on"] == "b"


def test_a_basis_is_fitted_on_no_more_rows_than_it_says(
    two: Dataset, run_chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_basis, "FIT_ROWS", 7)
    seen: list[Progress] = []
    made = dict(graph.run(two, "a", LocalEngine(1), seen.append))["embedding_basis"]
    assert made.commit.total_samples_in == 7
    [last] = [progress.done for progress in seen if progress.task == "basis d/embedding_basis/all"][-1:]
    assert last == 7


def test_no_basis_is_fitted_on_tables_of_another_version_of_the_embedder(
    two: Dataset, run_chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = run_chain(two, "a")["embeddings"]
    planner = graph.Planner(two)
    stage = planner.stage(planner.graph["embeddings"])
    assert list(embedding_basis.tables_of(stage, [table])) == [table]
    monkeypatch.setattr(EmbedStage, "version", 99)
    assert list(embedding_basis.tables_of(stage, [table])) == []


def test_a_class_has_its_declared_name_and_any_other_its_own() -> None:
    labels = ["0", "1", "2", "²", "-1", "cat", "9" * 5000, None]
    stage = MapStage(("red", "green"))
    assert [stage._named(label) for label in labels] == ["red", "green", *labels[2:]]
    assert [stage._named(label) for label in (0, 1, 2, -1)] == ["red", "green", "2", "-1"]


def test_names_of_classes_that_no_sample_has_are_named(
    two: Dataset, tmp_path: Path, run_chain, caplog: pytest.LogCaptureFixture
) -> None:
    named = Dataset(two.spec.model_copy(update={"class_names": ["red", "green"]}))
    assert "class_names" not in run_chain(named, "a")["embedding_map"].commit.shards[0].summary
    for file in tmp_path.rglob("*.cls"):
        file.unlink()
    made = run_chain(named, "a")
    assert made["embedding_map"].commit.shards[0].summary["class_names"] == "apply to nothing: no sample has a class"
    assert "d/embeddings/a: class_names apply to nothing" in caplog.text


def test_declared_columns_of_which_no_sample_has_a_value_are_named(
    two: Dataset, tmp_path: Path, run_chain, caplog: pytest.LogCaptureFixture
) -> None:
    for file in list(tmp_path.rglob("*.jpg")):
        file.with_suffix(".json").write_text('{"caption": "a picture", "note": null}')
    columns = {"captoin": "string", "caption": "string", "note": "list<string>", "cls": "int64"}
    declared = Dataset(two.spec.model_copy(update={"columns": columns}))
    summary = run_chain(declared, "a")["embedding_map"].commit.shards[0].summary
    assert summary["columns"] == "no sample has a value: captoin, note"
    assert "d/embeddings/a: no sample has a value of the declared column captoin, note." in caplog.text


def test_what_is_for_embeddings_and_has_none_is_named_once(two: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    fields = {"class_names": ["red"], "min_same_class_rate": 0.5, "embedder": None}
    planner = graph.Planner(Dataset(two.spec.model_copy(update=fields)))
    planner.check()
    planner.check()
    for name in ("class_names", "min_same_class_rate"):
        assert caplog.text.count(f"d: {name} applies to nothing: it is for embeddings, and there is no embedder") == 1
