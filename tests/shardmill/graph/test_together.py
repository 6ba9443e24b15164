"""Several embedders of the same shards: one pass over these for all, and each table as it would be alone."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shardmill import graph
from shardmill.dataset import Dataset
from shardmill.engines import LocalEngine
from shardmill.errors import ConfigurationError, EngineError
from shardmill.progress import Progress
from tests import small_embedder
from tests.small_embedder import SMALL

PLAIN: dict[str, Any] = {**SMALL, "component": "jpg"}
UNIT: dict[str, Any] = {**SMALL, "normalize": True, "dtype": "float16"}
SECOND: dict[str, Any] = {**SMALL, "component": "second.jpg"}
EMBEDDERS_OF_TESTS = {"plain": PLAIN, "unit": UNIT, "second": SECOND}
TABLES = [f"embeddings_{name}" for name in EMBEDDERS_OF_TESTS]


@pytest.fixture
def raw(tmp_path: Path, images: Any) -> Path:
    """Twenty samples, of which every fifth has a second image: that is no single one, and the others lack it."""
    folder = tmp_path / "raw"
    for key in images(folder, 20)[::5]:
        (folder / f"{key}.second.jpg").write_bytes((folder / f"{key}.jpg").read_bytes())
    return folder


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An embedder that cannot be loaded."""
    given = small_embedder.load

    def load(spec: Any, *rest: Any) -> Any:
        if spec.batch_size == 13:
            raise ConfigurationError("its weights are gone")
        return given(spec, *rest)

    monkeypatch.setattr(small_embedder, "load", load)
    return {**SMALL, "batch_size": 13, "normalize": True, "component": "jpg"}


def several(make_dataset: Any, raw: Path, root: Path, **embedders: Any) -> Dataset:
    found: Dataset = make_dataset(raw, root, embedder=None, embedders=embedders, transform=None, max_reject_ratio=1)
    return found


def files(folder: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(folder.removeprefix("file://")).glob("*.parquet")}


def test_tables_that_are_made_together_are_those_that_are_made_alone(
    tmp_path: Path, raw: Path, make_dataset: Any, run_chain: Any
) -> None:
    together = several(make_dataset, raw, tmp_path / "together", **EMBEDDERS_OF_TESTS)
    made = run_chain(together, last=TABLES[-1])
    for name, embedder in EMBEDDERS_OF_TESTS.items():
        alone = several(make_dataset, raw, tmp_path / name, **{name: embedder})
        table = f"embeddings_{name}"
        expected = run_chain(alone, last=table)[table]
        assert files(made[table].folder) == files(expected.folder) != {}
        assert made[table].commit.digest == expected.commit.digest
        assert made[table].commit.rejects_by_reason == expected.commit.rejects_by_reason
        assert (made[table].made, made[table].computed) == (expected.made, expected.computed)
        assert list(made[table].rejects()) == list(expected.rejects())
        assert made[table].commit.seconds_a_sample
        assert {entry.runtime for entry in made[table].commit.shardlist} == {"torch"}
    assert made["embeddings_unit"].commit.rejects_by_reason == {"no single image": 4}
    assert made["embeddings_second"].commit.rejects_by_reason == {"missing component": 16}


def test_an_image_is_decoded_once_for_all_embedders(
    tmp_path: Path, raw: Path, make_dataset: Any, run_chain: Any, decoded: Counter[bytes]
) -> None:
    embedders = {"plain": PLAIN, "unit": {**PLAIN, "normalize": True}, "half": {**PLAIN, "dtype": "float16"}}
    made = run_chain(several(make_dataset, raw, tmp_path / "root", **embedders), last="embeddings_half")
    assert {made[f"embeddings_{name}"].commit.total_samples for name in embedders} == {20}
    assert len(decoded) == 20
    assert set(decoded.values()) == {1}


def test_an_embedder_that_is_added_is_made_alone_and_the_others_not_again(
    tmp_path: Path, raw: Path, make_dataset: Any, run_chain: Any, decoded: Counter[bytes]
) -> None:
    run_chain(several(make_dataset, raw, tmp_path / "root", plain=PLAIN), last="embeddings_plain")
    both = several(make_dataset, raw, tmp_path / "root", plain=PLAIN, unit={**PLAIN, "normalize": True})
    made = run_chain(both, last="embeddings_unit")
    assert made["embeddings_plain"].made == 0
    assert made["embeddings_unit"].made == len(made["embeddings_plain"].commit.shards)
    assert set(decoded.values()) == {2}


def test_a_new_object_is_embedded_by_all_and_what_they_have_is_copied(
    tmp_path: Path, raw: Path, images: Any, make_dataset: Any, run_chain: Any, decoded: Counter[bytes]
) -> None:
    both = several(make_dataset, raw, tmp_path / "root", plain=PLAIN, unit={**PLAIN, "normalize": True})
    run_chain(both, last="embeddings_unit")
    decoded.clear()
    images(raw, 1, first=100)
    made = run_chain(both, last="embeddings_unit")
    assert {(made[table].computed, made[table].commit.total_samples) for table in made if "embeddings" in table} == {
        (1, 21)
    }
    assert list(decoded.values()) == [1]


@pytest.mark.parametrize("order", [["plain", "broken"], ["broken", "plain"]])
def test_a_model_that_fails_keeps_no_other_back(
    tmp_path: Path,
    raw: Path,
    make_dataset: Any,
    run_chain: Any,
    broken: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    order: list[str],
) -> None:
    embedders = {"plain": PLAIN, "broken": broken}
    dataset = several(make_dataset, raw, tmp_path / "root", **{name: embedders[name] for name in order})
    with caplog.at_level(logging.WARNING), pytest.raises(EngineError, match=r"embeddings_broken.*weights are gone"):
        run_chain(dataset)
    assert "are made one after the other: " in caplog.text
    assert dataset.stored("embeddings_plain", "p") is not None
    made = run_chain(several(make_dataset, raw, tmp_path / "root", plain=PLAIN), last="embeddings_plain")
    assert made["embeddings_plain"].made == 0, "its shards had been made"
    assert made["embeddings_plain"].commit.total_samples == 20


def test_a_second_model_that_fails_is_told_too(
    tmp_path: Path,
    raw: Path,
    make_dataset: Any,
    run_chain: Any,
    broken: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset = several(make_dataset, raw, tmp_path / "root", one=broken, two=broken)
    with caplog.at_level(logging.WARNING), pytest.raises(EngineError, match=r"embeddings_one.*weights are gone"):
        run_chain(dataset)
    assert "embeddings_two of p is not made either: " in caplog.text


def test_what_the_sink_of_progress_raises_ends_the_run(tmp_path: Path, raw: Path, make_dataset: Any) -> None:
    dataset = several(make_dataset, raw, tmp_path / "root", plain=PLAIN, unit=UNIT)

    class Enough(Exception):
        pass

    told = []

    def sink(state: Progress) -> None:
        told.append(state)
        if "embed" in state.task:
            raise Enough

    with pytest.raises(Enough):
        list(graph.run(dataset, "p", LocalEngine(2), sink))
    assert told[-1].task == "embed d/embeddings_plain/p, d/embeddings_unit/p"
    assert told[-1].total == 2 * 20


def test_embedders_are_made_together_up_to_as_many_as_a_process_keeps_models(tmp_path: Path, make_dataset: Any) -> None:
    names = [f"e{number}" for number in range(6)]
    spec = several(make_dataset, tmp_path / "raw", tmp_path / "root", **dict.fromkeys(names, PLAIN)).spec
    found = graph.build_graph(spec)
    groups = [[each.name for each in found.siblings(found[f"embeddings_{name}"])] for name in names]
    together = [f"embeddings_{name}" for name in names]
    assert groups == [together[:4]] * 4 + [together[4:]] * 2
    assert found.siblings(found["raw_images"]) == [found["raw_images"]]


def test_embedders_of_other_shards_are_not_made_together(tmp_path: Path, make_dataset: Any) -> None:
    embedders = {"raw": {**PLAIN, "of": "webdataset_shards"}, "seen": {**PLAIN, "of": "transformed_shards"}}
    spec = make_dataset(tmp_path / "raw", tmp_path / "root", embedder=None, embedders=embedders).spec
    found = graph.build_graph(spec)
    assert [each.name for each in found.siblings(found["embeddings_raw"])] == ["embeddings_raw"]
