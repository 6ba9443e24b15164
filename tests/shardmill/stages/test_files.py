"""Stages of files: files and a table of metadata are made of each file, and of what has not changed only once."""

import hashlib
import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, ClassVar, Self, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill import graph
from shardmill.errors import ConfigurationError, EngineError, Rejected
from shardmill.graph import build_graph
from shardmill.samples import EncodedSample
from shardmill.shards.reader import ShardSet
from shardmill.sources.names import MAX_NAME, is_member_name
from shardmill.stages import FileStage, InputFile, OutputFile
from shardmill.stages.metadata import MetadataStage
from shardmill.storage import Storage
from tests.changes import Changing, Instruments, counting
from tests.servers.places import NewPlace

__all__ = ["counting"]


@dataclass(frozen=True)
class Words(FileStage):
    """A file a word."""

    least: int = 0

    name = "words"
    columns: ClassVar = {"number": "int32", "length": "int32"}
    calls: ClassVar[list[str]] = []

    def process(self, file: InputFile) -> Iterable[OutputFile]:
        self.calls.append(file.key)
        if file.data == b"refuse":
            raise Rejected("refused", f"{file.key} asked for it")
        for number, word in enumerate(file.data.split()):
            if len(word) >= self.least:
                yield OutputFile(f"{number}.bin", word, {"number": number, "length": len(word)})


class Narrow(Words):
    """With a column of another type."""

    columns: ClassVar = {"number": "int32", "length": "uint8"}


class Newer(Words):
    """After a change of its code."""

    version = 2


@dataclass(frozen=True)
class Resolved(Words):
    """Finds something out before it is planned."""

    found: str = ""

    def resolve(self, storage: Storage) -> Self:
        del storage
        return replace(self, found="out")


class OfText(Words):
    """Of samples with several components."""

    component = "txt"


class Told(FileStage):
    """Makes what a test tells it to."""

    name = "told"
    columns: ClassVar = {
        "count": "int32",
        "share": "float32",
        "text": "string",
        "time": "timestamp",
        "day": "date",
        "tags": "list<string>",
        "flag": "bool",
    }
    makes: ClassVar[Callable[[InputFile], Any]]

    def process(self, file: InputFile) -> Iterable[OutputFile]:
        return cast(Iterable[OutputFile], type(self).makes(file))


def changing_with(place: NewPlace, counting: Instruments, kind: str = "Words", **parameters: Any) -> Changing:
    stage = {"name": "made", "use": f"{__name__}:{kind}", "parameters": parameters}
    return Changing(place("file"), counting, {"stages": [stage], "max_reject_ratio": 1.0})


def redeclare(changing: Changing, kind: str = "Words", **parameters: Any) -> None:
    changing.fields["stages"] = [{"name": "made", "use": f"{__name__}:{kind}", "parameters": parameters}]


@pytest.fixture
def changing(place: NewPlace, counting: Instruments) -> Changing:
    made = changing_with(place, counting)
    for name, text in {"a": b"one three", "b": b"eleven", "none": b"", "no": b"refuse"}.items():
        made.put(f"{name}.txt", text)
    return made


def run(changing: Changing) -> tuple[list[str], ShardSet, ShardSet]:
    """The files that the stage saw; what it made of them, and the table."""
    Words.calls.clear()
    _, made = changing.run()
    return sorted(Words.calls), made["made", "p"], made["made_metadata", "p"]


@pytest.fixture
def told(place: NewPlace, counting: Instruments) -> Callable[..., tuple[ShardSet, ShardSet]]:
    """From what a stage makes of one file to its two assets."""

    def told(*files: OutputFile, makes: Callable[[InputFile], Any] | None = None) -> tuple[ShardSet, ShardSet]:
        Told.makes = staticmethod(makes or (lambda _: files))  # type: ignore[assignment]
        changing = changing_with(place, counting, "Told")
        changing.put("in.pdf", b"%PDF")
        _, made = changing.run()
        return made["made", "p"], made["made_metadata", "p"]

    return told


# What comes out.


def test_files_and_a_typed_row_of_each_sample_come_out(changing: Changing) -> None:
    seen, files, table = run(changing)
    assert seen == ["a", "b", "no", "none"]
    assert {sample.key: dict(sample.components) for sample in files.samples()} == {
        "a~0": {"bin": b"one", "json": b'{"length": 3, "number": 0}'},
        "a~1": {"bin": b"three", "json": b'{"length": 5, "number": 1}'},
        "b~0": {"bin": b"eleven", "json": b'{"length": 6, "number": 0}'},
    }
    rows = {row["key"]: row for row in table.table().to_pylist()}
    assert {key: (row["number"], row["length"]) for key, row in rows.items()} == {
        "a~0": (0, 3),
        "a~1": (1, 5),
        "b~0": (0, 6),
    }
    types = {name: str(table.table().schema.field(name).type) for name in ("number", "length")}
    assert types == {"number": "int32", "length": "int32"}


def test_every_file_is_accounted_for_and_every_row(changing: Changing) -> None:
    _, files, table = run(changing)
    commit = files.commit
    [entry] = commit.shards
    assert (entry.samples_in, entry.kept, entry.filtered, entry.rejects) == (4, 2, 1, {"refused": 1})
    assert table.commit.total_samples_in == table.commit.total_samples == commit.total_samples == 3
    read = sum(len(sample.components["json"]) for sample in files.samples())
    assert table.commit.shards[0].bytes_in == read, "the files are not read for the table"


def test_a_row_leads_to_the_file_and_to_the_raw_object(changing: Changing) -> None:
    _, files, table = run(changing)
    row = next(row for row in table.table().to_pylist() if row["key"] == "a~1")
    sample = next(sample for sample in files.samples() if sample.key == "a~1")
    [entry] = files.commit.shards
    assert entry.url is not None
    assert row["shard"] == entry.url.rpartition("/")[2]
    assert (row["component"], row["shard_sha256"]) == ("bin", entry.sha256)
    digests = {name: value for name, value in row.items() if name.endswith("sha256")}
    assert digests["component_sha256"] == hashlib.sha256(sample.components["bin"]).hexdigest()
    assert digests["source_sha256"] == hashlib.sha256(b"one three").hexdigest()
    assert row["source_uri"].endswith("raw/p/a.txt")
    assert row["source_version"]


# What is made again.


def test_only_a_file_that_is_new_or_changed_is_processed(changing: Changing) -> None:
    run(changing)
    assert run(changing)[0] == []
    changing.put("a.txt", b"one four")
    changing.put("c.txt", b"two")
    seen, files, table = run(changing)
    assert seen == ["a", "c"]
    assert files.copied == 3
    assert table.copied == 3, "equal metadata are the same row, whatever its key"
    assert sorted(table.table()["key"].to_pylist()) == ["a~0", "a~1", "b~0", "c~0"]
    assert changing.files() == changing.files_from_nothing()


def test_a_row_that_is_copied_names_the_shard_of_now(changing: Changing) -> None:
    run(changing)
    changing.put("c.txt", b"five")
    _, files, table = run(changing)
    [entry] = files.commit.shards
    assert set(table.table()["shard_sha256"].to_pylist()) == {entry.sha256}


def test_a_parameter_of_the_dataset_file_makes_all_anew_without_a_word_of_the_class(changing: Changing) -> None:
    run(changing)
    redeclare(changing, least=4)
    why = dict(graph.why_stale(changing.dataset(), "p"))
    assert why["made"] == "least was null, and is 4"
    seen, files, table = run(changing)
    assert len(seen) == 4
    assert {sample.components["bin"] for sample in files.samples()} == {b"three", b"eleven"}
    assert sorted(table.table()["length"].to_pylist()) == [5, 6]


def test_a_stage_that_is_resolved_to_another_keeps_how_it_was_declared(changing: Changing) -> None:
    redeclare(changing, "Resolved", least=4)
    planner = graph.Planner(changing.dataset())
    stage = planner.stage(planner.graph["made"])
    assert isinstance(stage, Resolved)
    assert stage.found == "out"
    assert stage.parameters() == {"least": 4, "component": ""}
    assert stage.imported_from == f"{__name__}:Resolved"


def test_a_raised_version_makes_files_anew_and_copies_the_rows_that_are_the_same(changing: Changing) -> None:
    run(changing)
    redeclare(changing, "Newer")
    states = {state.asset: state for state in graph.states(changing.dataset(), "p")}
    assert "words is at version 2, and it was made by version 1" in states["made"].why
    seen, files, table = run(changing)
    assert (len(seen), files.copied) == (4, 0)
    assert table.copied == 3


def test_a_column_of_another_type_makes_the_table_anew_and_no_file(
    changing: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(changing)
    monkeypatch.setattr(Words, "columns", Narrow.columns)
    [(asset, why)] = list(graph.why_stale(changing.dataset(), "p"))
    assert asset == "made_metadata"
    assert why.startswith('columns was ["number: int32", "length: int32"]')
    seen, _, table = run(changing)
    assert seen == []
    assert str(table.table().schema.field("length").type) == "uint8"


def test_what_lies_beside_the_file_is_not_read_and_makes_nothing_anew(place: NewPlace, counting: Instruments) -> None:
    changing = changing_with(place, counting, "OfText")
    changing.put("a.txt", b"one three")
    changing.put("a.cls", b"1")
    seen, files, _ = run(changing)
    assert (seen, files.commit.total_samples) == (["a"], 2)
    assert files.commit.shards[0].bytes_in == len(b"one three")
    changing.put("a.cls", b"2")
    assert run(changing)[0] == []


def test_which_file_has_to_be_said_where_there_are_several(place: NewPlace, counting: Instruments) -> None:
    changing = changing_with(place, counting)
    changing.put("a.txt", b"one")
    changing.put("a.cls", b"1")
    changing.put("b.txt", b"one")
    _, files, _ = run(changing)
    [reject] = files.rejects()
    assert (reject.key, reject.reason) == ("a", "no single file")
    assert reject.detail == "there are cls, txt; say which one in `component` of Words"
    redeclare(changing, "OfText")
    changing.put("c.cls", b"1")
    _, files, _ = run(changing)
    assert [(each.key, each.reason) for each in files.rejects()] == [("c", "missing component")]


# Names.


def test_files_called_alike_but_for_the_suffix_are_one_sample(told: Callable[..., tuple[ShardSet, ShardSet]]) -> None:
    files, table = told(
        OutputFile("page/1.PNG", b"png", {"count": 1}),
        OutputFile("page/2.png", b"png"),
        OutputFile("page/1.txt", b"text", {"text": "t", "count": 1}),
        OutputFile(".html", b"whole"),
    )
    assert {sample.key: sorted(sample.components) for sample in files.samples()} == {
        "in~page/1": ["json", "png", "txt"],
        "in~page/2": ["json", "png"],
        "in": ["html", "json"],
    }
    rows = {row["key"]: (row["count"], row["text"], row["component"]) for row in table.table().to_pylist()}
    assert rows == {"in~page/1": (1, "t", "png"), "in~page/2": (None, None, "png"), "in": (None, None, "html")}


@pytest.mark.parametrize(
    ("names", "reason", "detail"),
    [
        (["1.txt", "1.txt"], "duplicate component", "1.txt: there are two"),
        (["1.jpg", "1.JPEG"], "duplicate component", "1.JPEG: there are two"),
        (["1.json"], "duplicate component", "1.json: the metadata are called json"),
        (["readme"], "no extension", "'readme' is to be a component"),
        (["a.txt", ""], "no extension", "'' is to be"),
        (["a."], "no extension", "'a.' is to be"),
        (["."], "no extension", "'.' is to be"),
        (["\ud800.txt"], "name is not UTF-8", "surrogates not allowed"),
    ],
)
def test_a_name_that_cannot_be_refuses_its_file(
    told: Callable[..., tuple[ShardSet, ShardSet]], names: list[str], reason: str, detail: str
) -> None:
    files, table = told(*(OutputFile(name, b"x") for name in names))
    [reject] = files.rejects()
    assert reject.reason == reason
    assert detail in reject.detail
    assert reject.source_uri.endswith("in.pdf")
    assert table.commit.total_samples == 0


@given(st.lists(st.text(min_size=1).map(lambda stem: f"{stem.replace('.', '')}x.txt"), unique=True, max_size=5))
def test_any_name_stands_in_a_shard_and_two_stay_two(names: list[str]) -> None:
    Told.makes = staticmethod(lambda _: [OutputFile(name, b"") for name in names])  # type: ignore[assignment]
    made = Told().children(EncodedSample("k" * 72, {"pdf": b""}), "mem://k")
    assert len({key for key, _ in made}) == len(names)
    for key, components in made:
        assert all(is_member_name(key, each.name) for each in components)
        assert all(len(f"{key}.{each.name}") <= MAX_NAME for each in components)


# Metadata.


def test_what_python_and_numpy_give_fits_the_columns(told: Callable[..., tuple[ShardSet, ShardSet]]) -> None:
    files, table = told(
        OutputFile(
            "1.bin",
            bytes(range(256)),
            {
                "count": np.int64(3),
                "share": np.float32("nan"),
                "text": "é\n",
                "time": datetime(2026, 1, 5, 12, tzinfo=UTC),
                "day": date(2026, 1, 5),
                "tags": np.array(["a", "b"]),
                "flag": np.bool_(True),
            },
        ),
        OutputFile("2.bin", b"", {"share": float("inf"), "tags": ()}),
    )
    first, second = sorted(table.table().to_pylist(), key=lambda row: str(row["key"]))
    assert np.isnan(first.pop("share"))
    assert {name: first[name] for name in Told.columns if name != "share"} == {
        "count": 3,
        "text": "é\n",
        "time": datetime(2026, 1, 5, 12, tzinfo=UTC),
        "day": date(2026, 1, 5),
        "tags": ["a", "b"],
        "flag": True,
    }
    assert (second["share"], second["tags"], second["count"]) == (float("inf"), [], None)
    samples = {sample.key: sample.components for sample in files.samples()}
    assert samples["in~1"]["bin"] == bytes(range(256))
    stored = json.loads(samples["in~1"]["json"], parse_constant=pytest.fail)  # which `NaN` would be
    assert (stored["share"], stored["day"]) == ("NaN", "2026-01-05")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"count": "many"}, "column count is int32, and 'many' is not"),
        ({"count": 10**30}, "column count is int32, and 1000000000000000000000000000000 is not"),
        ({"count": 1.5}, "column count is int32, and 1.5 is not"),
        ({"share": 10**40}, "column share is float32, and"),
        ({"time": 5}, "column time is timestamp, and 5 is not"),
        ({"flag": "perhaps"}, "column flag is bool, and 'perhaps' is not"),
        ({"day": "today"}, "column day is date, and 'today' is no ISO 8601 date"),
    ],
)
def test_a_value_that_does_not_fit_is_a_reject_of_the_table_that_names_the_column(
    told: Callable[..., tuple[ShardSet, ShardSet]], metadata: Mapping[str, Any], words: str
) -> None:
    files, table = told(OutputFile("1.txt", b"x", metadata), OutputFile("2.txt", b"y", {"count": 2}))
    assert (files.commit.total_samples, files.commit.total_rejects) == (2, 0)
    [reject] = table.rejects()
    assert (reject.key, reject.reason) == ("in~1", "value does not fit its column")
    assert words in reject.detail
    assert table.table()["key"].to_pylist() == ["in~2"]


@pytest.mark.parametrize(
    "value",
    [b"bytes", {1, 2}, object(), 10**5000, "\ud800", [[b"deep"]]],
    ids=["bytes", "set", "object", "digits", "surrogate", "deep"],
)
def test_metadata_that_are_not_json_refuse_their_file_and_name_the_column(
    told: Callable[..., tuple[ShardSet, ShardSet]], value: Any
) -> None:
    files, _ = told(OutputFile("1.txt", b"x", {"text": value}))
    [reject] = files.rejects()
    assert reject.reason == "metadata are not JSON"
    assert reject.detail.startswith("text of 1.txt: ")


def test_files_of_one_sample_say_the_same_of_it(told: Callable[..., tuple[ShardSet, ShardSet]]) -> None:
    files, _ = told(OutputFile("1.txt", b"x", {"count": 1}), OutputFile("1.png", b"y", {"count": 2}))
    [reject] = files.rejects()
    assert reject.reason == "metadata of one sample differ"
    assert reject.detail == "count of 1.png: another file of the sample says otherwise"


# Mistakes.


@pytest.mark.parametrize(
    ("makes", "words"),
    [
        (lambda _: [b"x"], "Told.process gives bytes, and not OutputFile"),
        (lambda _: [OutputFile("1.txt", cast(bytes, "x"))], "with data of type str: it has to be bytes"),
        (lambda _: [OutputFile(cast(str, 1), b"x")], "with name of type int: it has to be text"),
        (lambda _: [OutputFile("1.txt", b"x", {"cuont": 1})], "'cuont', which `columns` has no column for; did you"),
        (lambda _: None, r"sample in \(.*in.pdf\): Told.process gives NoneType, and not OutputFiles"),
        (lambda _: 1 / 0, r"sample in \(.*in.pdf\): ZeroDivisionError"),
    ],
)
def test_a_mistake_of_the_code_stops_the_run_and_is_named(
    told: Callable[..., tuple[ShardSet, ShardSet]], makes: Callable[[InputFile], Any], words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        told(makes=makes)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"n": "int"}, "stages.made: .*:Words.columns: n: 'int' is no type of a column; did you mean int64?"),
        ({"source_uri": "string"}, "columns: source_uri: the table has a column of its own that is called so"),
        ({"": "string"}, "columns: '' is no name of a column"),
        (property(lambda self: self.nowhere), "columns: 'Words' object has no attribute 'nowhere'"),
        (["n"], "columns: give a type for each column by its name, and no list"),
    ],
)
def test_columns_that_cannot_be_are_refused_before_anything_is_made(
    changing: Changing, monkeypatch: pytest.MonkeyPatch, columns: Any, words: str
) -> None:
    monkeypatch.setattr(Words, "columns", columns)
    with pytest.raises(ConfigurationError, match=words):
        build_graph(changing.dataset().spec)


def test_the_table_s_name_is_taken_too(changing: Changing) -> None:
    changing.fields["stages"] = [
        {"name": "made_metadata", "use": f"{__name__}:Words"},
        {"name": "made", "use": f"{__name__}:Words"},
    ]
    with pytest.raises(ConfigurationError, match="two assets called made_metadata"):
        build_graph(changing.dataset().spec)


def test_the_graph_shows_both(changing: Changing) -> None:
    built = build_graph(changing.dataset().spec)
    assert built["made"].inputs == ("webdataset_shards",)
    assert built["made_metadata"].inputs == ("made",)
    assert isinstance(built["made_metadata"].stage, MetadataStage)
    for asset in built:
        assert pickle.loads(pickle.dumps(asset.stage)).identity() == asset.stage.identity()
    assert "a row a sample" in built["made_metadata"].description


@pytest.mark.parametrize(
    ("reason", "detail", "kept"),
    [("unknown word", "name \udcff", r"name \udcff"), ("unknown word", KeyError("a"), "'a'")],
)
def test_whatever_a_refusal_says_it_is_counted_and_told(
    told: Callable[..., tuple[ShardSet, ShardSet]], reason: str, detail: Any, kept: str
) -> None:
    def refuse(file: InputFile) -> Iterable[OutputFile]:
        raise Rejected(reason, detail)

    files, _ = told(makes=refuse)
    assert [(reject.reason, reject.detail) for reject in files.rejects()] == [(reason, kept)]
