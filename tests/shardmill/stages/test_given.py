"""What stages of the user's own give is looked at: a mistake names the sample, its raw object and what is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from shardmill import graph
from shardmill.dataset import Dataset
from shardmill.engines import LocalEngine
from shardmill.errors import EngineError, Rejected, TooManyRejectsError
from shardmill.samples import EncodedSample
from shardmill.stages import FileStage, RowStage, SampleStage

SECOND = "image_00001"


class Misgiving(SampleStage):
    name = "misgiving"
    made: Any = None

    def process(self, sample: EncodedSample) -> Any:
        return type(self).made(sample) if sample.key == SECOND else [sample]


class Files(FileStage):
    name = "files"
    component = "cls"

    def process(self, file: Any) -> Any:
        return None if file.key == SECOND else []


class Row(RowStage):
    name = "row"
    made: Any = None

    def schema(self) -> pa.Schema:
        return pa.schema([pa.field("n", pa.int32(), nullable=False)])

    def row(self, sample: EncodedSample) -> Any:
        return type(self).made if sample.key == SECOND else {"n": 1}


@pytest.fixture
def refused(tmp_path: Path, images: Callable[..., Any], make_dataset: Callable[..., Dataset]) -> Callable[[type], str]:
    """`refused(Stage)` runs it over three samples: what the error says of it."""
    images(tmp_path / "raw", 3)

    def run(kind: type) -> str:
        stages = [{"name": "own", "use": f"{__name__}:{kind.__name__}"}]
        dataset = make_dataset(tmp_path / "raw", tmp_path / "out", transform=None, embedder=None, stages=stages)
        with pytest.raises(EngineError) as error:
            list(graph.run(graph.Planner(dataset), "p", LocalEngine(1)))
        assert error.value.final
        said = str(error.value)
        assert f"sample {SECOND} (file://{tmp_path}/raw/{SECOND}." in said
        return said.rpartition("): ")[2]

    return run


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda _: None, "process gives NoneType, and not EncodedSamples: return a list of them, or yield them"),
        (lambda sample: sample, "process gives EncodedSample, and not EncodedSamples: return a list"),
        (lambda _: "ab", "process gives str, and not EncodedSamples"),
        (lambda sample: [EncodedSample(sample.key, {})], "a sample without components"),
        (lambda sample: [EncodedSample(sample.key, {"txt": "text"})], "component 'txt' is of type str"),  # type: ignore[dict-item]
        (lambda sample: [EncodedSample(None, sample.components)], "whose key is of type NoneType"),
    ],
)
def test_what_is_no_sample_is_named_with_the_one_it_was_made_of(
    refused: Callable[[type], str], monkeypatch: pytest.MonkeyPatch, made: Any, said: str
) -> None:
    monkeypatch.setattr(Misgiving, "made", made)
    assert said in refused(Misgiving)


def test_what_is_no_file_is_named_too(refused: Callable[[type], str]) -> None:
    assert "Files.process gives NoneType, and not OutputFiles" in refused(Files)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (None, "Row.row gives NoneType, and not cells by column"),
        ({"n": "abc"}, "Row.row gives no int32 for 'n': "),
        ({"n": 1 << 40}, "Row.row gives no int32 for 'n': "),
        ({"n": None}, "Row.row gives no 'n', a column that takes no null"),
        ({}, "Row.row gives no 'n', a column that takes no null"),
    ],
)
def test_cells_that_are_no_row_name_the_sample(
    refused: Callable[[type], str], monkeypatch: pytest.MonkeyPatch, made: Any, said: str
) -> None:
    monkeypatch.setattr(Row, "made", made)
    assert said in refused(Row)


class Refusing(RowStage):
    name = "refusing"

    def schema(self) -> pa.Schema:
        return pa.schema([])

    def row(self, sample: EncodedSample) -> dict[str, Any]:
        raise Rejected("not nice")


def test_too_many_rejects_of_an_own_stage_lead_to_its_code(
    tmp_path: Path, images: Callable[..., Any], make_dataset: Callable[..., Dataset]
) -> None:
    images(tmp_path / "raw", 3)
    stages = [{"name": "own", "use": f"{__name__}:Refusing"}]
    dataset = make_dataset(tmp_path / "raw", tmp_path / "out", transform=None, embedder=None, stages=stages)
    with pytest.raises(TooManyRejectsError, match="Check the code of the stage and what it is given, or raise max_rej"):
        list(graph.run(graph.Planner(dataset), "p", LocalEngine(1)))
