"""A kind of asset of one's own, in one file outside the library: this one. Nothing else knows of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

from orchestration.component import dataset_definitions
from orchestration.definitions import build_defs
from shardmill import DatasetSpec, FileStage, InputFile, OutputFile, open_shards
from shardmill.cli import app
from shardmill.errors import Rejected
from shardmill.samples import EncodedSample
from shardmill.stages import RowStage, SampleStage
from shardmill.transforms import DecodedSample


class WordCount(RowStage):
    """How many words each text has."""

    name = "words"

    def __init__(self, least: int = 0) -> None:
        self.least = least

    def parameters(self) -> dict[str, Any]:
        return {"least": self.least}

    def schema(self) -> pa.Schema:
        return pa.schema([pa.field("words", pa.int64(), nullable=False)])

    def row(self, sample: EncodedSample) -> dict[str, Any]:
        words = len(sample.components["txt"].split())
        if words < self.least:
            raise Rejected("too few words", f"there are {words}")
        return {"words": words}


class Lines(SampleStage):
    """A sample a line."""

    name = "lines"

    def process(self, sample: EncodedSample) -> list[EncodedSample]:
        lines = sample.components["txt"].splitlines()
        return [EncodedSample(f"{sample.key}~{number}", {"txt": line}) for number, line in enumerate(lines)]


class Words(FileStage):
    """A file a word."""

    name = "split"
    columns: ClassVar = {"number": "int32"}

    def process(self, file: InputFile) -> Iterator[OutputFile]:
        for number, word in enumerate(file.data.split()):
            yield OutputFile(f"{number}.txt", word, {"number": number})


def halves(sample: DecodedSample) -> Iterator[DecodedSample]:
    """A custom transform: two samples of one."""
    words = sample.components["txt"].decode().split()
    for name, half in (("first", words[: len(words) // 2]), ("second", words[len(words) // 2 :])):
        yield sample.child(name, {"txt": " ".join(half)})


TEXTS = {"one": "a few words\nand others", "two": "single", "three": "", "four": "more\nand more\nstill"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A dataset of texts: no image, no embedder."""
    (tmp_path / "raw").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "raw" / f"{name}.txt").write_text(text)
    declared = {
        "name": "texts",
        "root": str(tmp_path / "root"),
        "source": {"uri": str(tmp_path / "raw")},
        "partitions": ["p"],
        "max_reject_ratio": 0.6,
        "transform": {"operations": [{"operation": f"{__name__}:halves"}]},
        "stages": [
            {"name": "word_counts", "use": f"{__name__}:WordCount", "parameters": {"least": 1}},
            {"name": "single_lines", "use": f"{__name__}:Lines"},
            {"name": "parts", "use": f"{__name__}:Words"},
            {"name": "words_a_line", "use": f"{__name__}:WordCount", "of": "single_lines"},
        ],
    }
    path = tmp_path / "texts.yaml"
    path.write_text(yaml.safe_dump({"attributes": declared}))
    return path


def shardmill(*arguments: object) -> list[dict[str, Any]]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_command_line_makes_lists_and_verifies_it(file: Path) -> None:
    made = {row["asset"]: row for row in shardmill("run", file)}
    assert made["word_counts"]["rejects"] == 1
    assert made["single_lines"]["samples"] == 6
    assert made["transformed_shards"]["samples"] == 8
    halves = {sample.key: sample for sample in open_shards(f"{file.parent}/root/texts/transformed_shards/p").samples()}
    assert halves["one~second"].components["txt"] == b"words and others"
    table = open_shards(f"{file.parent}/root/texts/words_a_line/p").table()
    assert sum(table["words"].to_pylist()) == sum(len(text.split()) for text in TEXTS.values())
    assert table["key"].to_pylist().count("four~2") == 1
    assert made["parts"]["samples"] == made["parts_metadata"]["samples"] == 10
    states = {row["asset"]: row["state"] for row in shardmill("partitions", file)}
    assert states == dict.fromkeys(made, "up to date")
    assert all(row["problems"] == [] for row in shardmill("verify", file))
    [shown] = shardmill("show", file, "--key", "one", "--asset", "webdataset_shards")
    assert shown["tables"]["word_counts"] == {"key": "one", "words": 5}


def test_it_is_stale_when_its_arguments_or_its_shards_change(file: Path) -> None:
    shardmill("run", file)
    file.write_text(file.read_text().replace("least: 1", "least: 3"))
    plan = {row["asset"]: row for row in shardmill("plan", file)}
    assert [asset for asset, row in plan.items() if row["to_make"]] == ["word_counts"]
    assert plan["word_counts"]["why"][0] == "least was 1, and is 3"
    (file.parent / "raw/five.txt").write_text("one more")
    assert {row["state"] for row in shardmill("plan", file)} == {"stale"}
    shardmill("run", file)
    assert {row["state"] for row in shardmill("partitions", file)} == {"up to date"}


def test_dagster_shows_it_as_an_asset_with_its_check(file: Path) -> None:
    declared = yaml.safe_load(file.read_text())["attributes"]
    defs = build_defs(dataset_definitions(DatasetSpec.model_validate(declared)))
    specs = {spec.key.path[-1]: spec for spec in defs.resolve_all_asset_specs()}
    assert specs["word_counts"].description == "How many words each text has."
    assert [dep.asset_key.path[-1] for dep in specs["words_a_line"].deps] == ["single_lines"]
    assert [dep.asset_key.path[-1] for dep in specs["parts_metadata"].deps] == ["parts"]
    with dg.instance_for_test() as instance:
        done = defs.resolve_job_def("texts_job").execute_in_process(partition_key="p", instance=instance)
        assert done.success
        passed = {
            (each.asset_key.path[-1], each.check_name) for each in done.get_asset_check_evaluations() if each.passed
        }
        assert passed >= {("word_counts", "nothing_lost"), ("single_lines", "readable")}
        assert passed >= {("parts", "nothing_lost"), ("parts", "readable"), ("parts_metadata", "nothing_lost")}
        [event] = [
            event for event in done.get_asset_materialization_events() if event.asset_key.path[-1] == "word_counts"
        ]
        assert event.materialization.metadata["rejects"].value == 1
