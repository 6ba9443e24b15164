"""A source that is a table: which objects its rows are, and what becomes of its other columns."""

import datetime
import decimal
import io
import json
import os
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from shardmill import graph
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.engines import LocalEngine
from shardmill.errors import ConfigurationError
from shardmill.progress import Progress
from shardmill.sources import Manifest, SourceSpec
from shardmill.sources.allowed import AllowedPlaces
from shardmill.sources.manifest import MISSING, NOT_A_FILE, NOT_ALLOWED, UNREADABLE, UNSUPPORTED
from shardmill.storage import ObjectInfo, Storage
from tests.small import plan

Write = Callable[..., str]


def dataset_of(source: SourceSpec, storage: Storage, partition: str = "all", **fields: Any) -> Dataset:
    spec = {"name": "listed", "root": "/nowhere", "source": source.model_dump(), "partitions": [partition], **fields}
    return Dataset(DatasetSpec.model_validate(spec), storage)


def listed(source: SourceSpec, storage: Storage, partition: str = "all", **fields: Any) -> Manifest:
    return dataset_of(source, storage, partition, **fields).manifest(partition)


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return file.getvalue()


def samples(manifest: Manifest) -> dict[str, list[str]]:
    return {key: [item.component for item in group] for key, group in manifest.by_key()}


def metadata(manifest: Manifest) -> dict[str, Any]:
    return {item.key: json.loads(item.metadata) for item in manifest if item.metadata is not None}


def columns(manifest: Manifest) -> dict[str, Any]:
    return {item.key: json.loads(item.columns) for item in manifest if item.columns is not None}


@pytest.fixture(params=["csv", "parquet"])
def table(request: pytest.FixtureRequest, folder: str, tmp_path: Path) -> Callable[[dict[str, list[Any]]], str]:
    """Writes a table as CSV or as Parquet and returns its URI."""

    def make(columns: dict[str, list[Any]]) -> str:
        uri = f"{folder}/tables/all.{request.param}"
        file = tmp_path / "tables" / f"all.{request.param}"
        file.parent.mkdir(exist_ok=True)
        if request.param == "parquet":
            pq.write_table(pa.table(columns), file)
        else:
            rows = [columns, *zip(*columns.values(), strict=True)]
            file.write_text("\n".join(",".join("" if cell is None else str(cell) for cell in row) for row in rows))
        return uri

    return make


Table = Callable[[dict[str, list[Any]]], str]


def test_a_table_s_rows_are_objects_and_its_other_columns_metadata(
    storage: Storage, folder: str, write: Write, table: Table
) -> None:
    uris = [write(f"tables/raw/{name}.jpg", name.encode()) for name in ("a", "bb")]
    uri = table({"uri": uris, "label": ["cat", "dog"], "age": [3, None], "score": [0.5, 2.25]})
    manifest = listed(SourceSpec(table=uri), storage)
    assert [(item.key, item.component, item.uri, item.size) for item in manifest] == [
        ("raw/a", "jpg", uris[0], 1),
        ("raw/bb", "jpg", uris[1], 2),
    ]
    is_text = uri.endswith(".csv")  # nobody can tell what else
    assert metadata(manifest) == {
        "raw/a": {"label": "cat", "age": "3" if is_text else 3, "score": "0.5" if is_text else 0.5},
        "raw/bb": {"label": "dog", "age": None, "score": "2.25" if is_text else 2.25},
    }
    assert [item.version for item in manifest] == [info.version for info in map(storage.stat, uris) if info]


def test_a_table_of_uris_alone_has_no_metadata(storage: Storage, write: Write, table: Table) -> None:
    [item] = listed(SourceSpec(table=table({"uri": [write("a.jpg")]})), storage)
    assert item.metadata is None


def test_relative_uris_are_relative_to_the_table(
    storage: Storage, folder: str, tmp_path: Path, write: Write, table: Table
) -> None:
    uris = {write("tables/images/a.jpg"), write("b.jpg"), write("c.jpg")}
    uri = table({"uri": ["images/a.jpg", f"{tmp_path}/b.jpg", f"{folder}/c.jpg"]})
    assert {item.uri for item in listed(SourceSpec(table=uri), storage)} == uris


def test_objects_that_are_missing_are_listed_as_missing(storage: Storage, write: Write, table: Table) -> None:
    write("tables/a.jpg")
    write("tables/folder/in.jpg")
    uri = table({"uri": ["a.jpg", "gone.jpg", "folder", "x" * 300 + ".jpg"]})
    manifest = listed(SourceSpec(table=uri), storage)
    assert manifest.objects == 4
    missing = [item for item in manifest if item.version == MISSING]
    assert {item.uri.rpartition("/")[2] for item in missing} == {"gone.jpg", "x" * 300 + ".jpg"}
    assert {(item.size, item.modified) for item in missing} == {(0, 0.0)}


def test_what_is_no_file_or_cannot_be_looked_at_is_a_reject_and_stops_no_other_row(
    storage: Storage, folder: str, tmp_path: Path, write: Write, nobody: Callable[[], AbstractContextManager[None]]
) -> None:
    rows = ("folder.jpg", "pipe.jpg", "loop.jpg", "locked/in.jpg")
    uri = write("tables/t.csv", "\n".join(["uri", "a.jpg", *rows, "gone.jpg", "s3a://b/c.jpg", ""]).encode())
    write("tables/a.jpg", picture())
    write("tables/folder.jpg/in.jpg")
    write("tables/locked/in.jpg")
    os.mkfifo(tmp_path / "tables" / "pipe.jpg")
    (tmp_path / "tables" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "tables" / "locked").chmod(0)
    dataset = dataset_of(SourceSpec(table=uri), storage, root=f"{folder}/root", max_reject_ratio=1)
    with nobody():
        versions = {item.key: item.version for item in dataset.manifest("all")}
        made = dict(graph.run(dataset, "all", LocalEngine(1)))
    assert versions.keys() == {"a", "folder", "pipe", "loop", "locked/in", "gone", "b/c"}
    assert [versions[key] for key in ("folder", "pipe", "loop", "locked/in")] == [NOT_A_FILE] * 2 + [UNREADABLE] * 2
    rejects = {reject.key: reject for reject in made["webdataset_shards"].rejects()}
    assert {key: (reject.reason, reject.may_pass) for key, reject in rejects.items()} == {
        "folder": ("not a file", False),
        "pipe": ("not a file", False),
        "loop": ("unreadable object", True),
        "locked/in": ("unreadable object", True),
        "gone": ("missing object", False),
        "b/c": ("unsupported store", False),
    }
    assert "did you mean s3://?" in rejects["b/c"].detail


@pytest.mark.parametrize(("stored", "said"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_an_object_is_found_by_its_letters_composed_or_decomposed(
    storage: Storage, write: Write, stored: str, said: str
) -> None:
    there = write(f"tables/{normalize(stored, 'Zoë')}.jpg")
    uri = write("tables/t.csv", normalize(said, "uri\nZoë.jpg\n").encode())
    [item] = listed(SourceSpec(table=uri), storage)
    assert (item.uri, item.size) == (there, 4)


def test_names_with_dots_of_which_keys_come_are_refused_with_the_column_that_is_lacking(
    storage: Storage, tmp_path: Path, write: Write
) -> None:
    names = [f"Shot 10.{minute:02}.png" for minute in range(12)]
    for name in names:
        write(f"tables/{name}", picture())
    uri = write("tables/t.csv", "\n".join(["uri,id", *(f"{name},{name}" for name in names)]).encode())
    root = f"{tmp_path}/root"
    refused = dataset_of(SourceSpec(table=uri), storage, root=root)
    with pytest.raises(ConfigurationError, match=r"12 objects would be one sample.*name it as `key_column`"):
        plan(refused, "raw_images", "all").inputs  # noqa: B018
    keyed = dataset_of(SourceSpec(table=uri, key_column="id"), storage, root=root)
    assert plan(keyed, "raw_images", "all").inputs[0].samples == 12


def test_a_run_says_of_how_many_images_a_sample_is_where_each_may_be_one(
    storage: Storage, folder: str, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cat", "dog"):
        for number in range(6):
            write(f"raw/{name}.{number}.jpg", picture())
    dataset = dataset_of(SourceSpec(uri=f"{folder}/raw"), storage, root=f"{folder}/root")
    made = dict(graph.run(dataset, "all", LocalEngine(1)))
    said = "12 images are in 2 samples of up to 6 images each"
    assert said in caplog.text
    assert str(made["raw_images"].commit.shards[0].summary["names_with_dots"]).startswith(said)


def test_blanks_around_uris_and_keys_and_rows_of_blanks_count_for_nothing(storage: Storage, write: Write) -> None:
    write("tables/a.jpg")
    uri = write("tables/t.csv", b"uri , id,note\n a.jpg\t, k ,  kept \n  , ,\n")
    manifest = listed(SourceSpec(table=uri, key_column="id"), storage)
    assert [(item.key, item.size, json.loads(item.metadata or "")) for item in manifest] == [
        ("k", 4, {"note": "  kept "})
    ]


def test_bytes_in_a_column_of_uris_or_keys_are_utf8_or_refused_with_the_column(
    storage: Storage, folder: str, tmp_path: Path, write: Write
) -> None:
    write("tables/é.jpg")
    uri, file = f"{folder}/tables/t.parquet", tmp_path / "tables" / "t.parquet"
    pq.write_table(pa.table({"uri": ["é.jpg".encode()], "id": [b"k"]}), file)
    [item] = listed(SourceSpec(table=uri, key_column="id"), storage)
    assert (item.key, item.size) == ("k", 4)
    pq.write_table(pa.table({"uri": [b"\xff.jpg"]}), file)
    with pytest.raises(ConfigurationError, match="row 1: the column uri holds bytes that are not UTF-8"):
        listed(SourceSpec(table=uri), storage)


def test_columns_may_have_other_names(storage: Storage, write: Write, table: Table) -> None:
    write("tables/1.jpg")
    write("tables/2.png")
    uri = table({"image": ["1.jpg", "2.png"], "id": ["x y", "x y"]})
    manifest = listed(SourceSpec(table=uri, uri_column="image", key_column="id"), storage)
    assert samples(manifest) == {"x%20y": ["jpg", "png"]}
    assert [item.metadata for item in manifest] == [None, None]


def test_keys_are_text_to_the_letter(storage: Storage, write: Write, table: Table) -> None:
    keys = ["007", "7", "NA", "null", "1.0", "1e3", "True"]
    uri = table({"uri": [f"{key}.jpg" for key in keys], "id": keys})
    manifest = listed(SourceSpec(table=uri, key_column="id"), storage)
    assert {item.key for item in manifest} == {key.replace(".", "%2E") for key in keys}


@pytest.mark.parametrize("column", ["uri", "id"])
def test_a_row_without_uri_or_key_is_a_configuration_error_that_counts_to_it(
    storage: Storage, table: Table, column: str
) -> None:
    columns = {"uri": ["a.jpg", "b.jpg"], "id": ["a", "b"]} | {column: ["a", None]}
    with pytest.raises(ConfigurationError, match=rf"row 2( \(line 3\))? has no {column}"):
        listed(SourceSpec(table=table(columns), key_column="id"), storage)


def test_another_row_never_changes_what_a_row_is(storage: Storage, table: Table) -> None:
    columns = {"uri": ["a.jpg", "b.jpg"], "age": [3, 4], "score": [0.5, 1.5]}
    before = listed(SourceSpec(table=table(columns)), storage)
    longer = {name: [*cells, None] for name, cells in columns.items()} | {"uri": ["a.jpg", "b.jpg", "c.jpg"]}
    after = listed(SourceSpec(table=table(longer)), storage)
    assert [item for item in after if item.key != "c"] == list(before)


@pytest.mark.parametrize("column", ["uri", "id"])
def test_a_missing_column_is_a_configuration_error_that_names_those_there_are(
    storage: Storage, table: Table, column: str
) -> None:
    uri = table({"image": ["a.jpg"], "name": ["a"]})
    source = {"uri": SourceSpec(table=uri), "id": SourceSpec(table=uri, uri_column="image", key_column="id")}[column]
    with pytest.raises(ConfigurationError, match=f"{uri}.*{column!r}.*image, name"):
        listed(source, storage)


def test_an_empty_table_is_a_configuration_error(storage: Storage, table: Table) -> None:
    uri = table({"uri": []})
    with pytest.raises(ConfigurationError, match=f"{uri}.*no rows"):
        plan(dataset_of(SourceSpec(table=uri), storage), "raw_images", "all")


def test_a_table_that_does_not_exist_is_a_configuration_error(storage: Storage, folder: str) -> None:
    with pytest.raises(ConfigurationError, match=r"2026-01\.csv does not exist"):
        listed(SourceSpec(table=folder + "/{partition}.csv"), storage, "2026-01")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.parquet", b"not parquet"),
        ("t.parquet", b""),
        ("t.parquet", b"PAR1" + bytes(100) + b"PAR1"),
        ("t.csv", b""),
        ("t.csv", b"\xff\xfe\x00uri"),
        ("t.csv", b'uri\n"unclosed'),
        ("t.csv", b"uri,label\na.jpg"),
        ("t.csv", b"uri\na.jpg,one,too,many"),
        ("t.csv", b"uri,uri\na.jpg,b.jpg"),
    ],
)
def test_what_is_no_table_is_a_configuration_error_that_names_it(
    storage: Storage, write: Write, name: str, data: bytes
) -> None:
    uri = write(name, data)
    with pytest.raises(ConfigurationError, match=uri):
        listed(SourceSpec(table=uri), storage)


def test_csv_is_read_as_spreadsheets_write_it(storage: Storage, write: Write) -> None:
    uri = write("t.csv", '\ufeffuri,text\r\n"a, b.jpg","two\nlines ""quoted"""\r\n\r\nc.jpg,007\r\n'.encode())
    manifest = listed(SourceSpec(table=uri), storage)
    assert metadata(manifest) == {"a,%20b": {"text": 'two\nlines "quoted"'}, "c": {"text": "007"}}


@pytest.mark.parametrize("cell", ["3", "-0.5", "1e3", "02139", "4417e120", "NaN", "1_000", "True", " 1", "é", "null"])
def test_a_csv_cell_is_text_as_it_stands(storage: Storage, write: Write, cell: str) -> None:
    [item] = listed(SourceSpec(table=write("t.csv", f"uri,x\na.jpg,{cell}".encode())), storage)
    assert item.metadata == json.dumps({"x": cell}, ensure_ascii=False)


def test_an_empty_csv_cell_is_null(storage: Storage, write: Write) -> None:
    [item] = listed(SourceSpec(table=write("t.csv", b'uri,x,y\na.jpg,,""')), storage)
    assert item.metadata == '{"x": null, "y": null}'


def test_any_parquet_value_becomes_json(storage: Storage, folder: str, tmp_path: Path) -> None:
    columns = {
        "uri": ["a.jpg"],
        "when": [datetime.datetime(2026, 1, 2, 3, 4, 5)],
        "price": [decimal.Decimal("1.50")],
        "nan": [float("nan")],
        "box": [[1.0, float("inf")]],
        "nested": [{"day": datetime.date(2026, 1, 2), "ok": True}],
        "none": pa.nulls(1),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    [item] = listed(SourceSpec(table=f"{folder}/t.parquet"), storage)
    assert item.metadata is not None
    assert json.loads(item.metadata, parse_constant=pytest.fail) == {
        "when": "2026-01-02 03:04:05",
        "price": "1.50",
        "nan": None,
        "box": [1.0, None],
        "nested": {"day": "2026-01-02", "ok": True},
        "none": None,
    }


def test_metadata_is_canonical(storage: Storage, write: Write) -> None:
    one = listed(SourceSpec(table=write("t.csv", b"uri,b,a\nx.jpg,1,2")), storage)
    two = listed(SourceSpec(table=write("t.csv", b"a,uri,b\n2,x.jpg,1")), storage)
    assert one.digest == two.digest


# Several rows of one key


def test_rows_that_say_the_same_are_one_object(storage: Storage, write: Write) -> None:
    write("a.jpg")
    uri = write("t.csv", b"uri,label\na.jpg,cat\n./a.jpg,cat\n")
    assert samples(listed(SourceSpec(table=uri), storage)) == {"a": ["jpg"]}


def test_declared_columns_have_the_cells_of_all_rows_of_a_key_in_their_order(
    storage: Storage, write: Write, table: Table
) -> None:
    write("tables/z.jpg")
    write("tables/a.png")
    uri = table({"uri": ["z.jpg", "a.png", "z.jpg"], "id": ["k", "k", "k"], "said": ["one", "two", None]})
    source = SourceSpec(table=uri, key_column="id")
    manifest = listed(source, storage, columns={"said": "list<string>"}, embedder={})
    assert samples(manifest) == {"k": ["jpg", "png"]}
    assert [json.loads(item.columns or "") for item in manifest] == [{"said": ["one", "two", None]}] * 2
    assert metadata(manifest) == {}


def test_rows_as_lists_are_lists_whatever_their_number(storage: Storage, write: Write, table: Table) -> None:
    rows = {"uri": ["a.jpg", "a.jpg", "b.jpg"], "said": ["one", "two", "three"], "tag": [None, "x", None]}
    manifest = listed(SourceSpec(table=table(rows), rows="list"), storage)
    assert samples(manifest) == {"a": ["jpg"], "b": ["jpg"]}
    assert metadata(manifest) == {
        "a": {"said": ["one", "two"], "tag": [None, "x"]},
        "b": {"said": ["three"], "tag": [None]},
    }


def test_a_declared_column_is_no_part_of_the_sample(storage: Storage, table: Table) -> None:
    source = SourceSpec(table=table({"uri": ["a.jpg"], "label": ["cat"], "note": ["old"]}))
    manifest = listed(source, storage, columns={"label": "string"}, embedder={})
    assert (metadata(manifest), columns(manifest)) == ({"a": {"note": "old"}}, {"a": {"label": ["cat"]}})


def test_the_class_is_beside_the_sample_in_any_case(storage: Storage, table: Table) -> None:
    manifest = listed(SourceSpec(table=table({"uri": ["a.jpg"], "cls": ["7"]})), storage)
    assert (metadata(manifest), columns(manifest)) == ({"a": {"cls": "7"}}, {"a": {"cls": ["7"]}})


def test_a_declared_column_that_the_table_lacks_is_named_in_the_log(
    storage: Storage, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    uri = table({"uri": ["a.jpg"], "caption": ["x"]})
    listed(SourceSpec(table=uri), storage, columns={"capton": "string"}, embedder={})
    assert f"{uri} has no column capton; its columns are uri, caption" in caplog.text


# Where rows lead


@pytest.mark.parametrize(
    "location",
    [
        "{folder}/secret.jpg",
        "{path}/secret.jpg",
        "../secret.jpg",
        "images/../../secret.jpg",
        "{folder}/tables/../secret.jpg",
        "FILE://{path}/secret.jpg",
        "file:///etc/passwd",
        "{folder}/tables-of-others/a.jpg",
        "https://example/a.jpg",
        "gs://bucket/a.jpg",
        "unknown://a/b.jpg",
        "file://~/a.jpg",
        "/a\0.jpg",
    ],
)
def test_a_row_leads_nowhere_but_below_the_folder_of_its_table(
    folder: str, tmp_path: Path, write: Write, location: str
) -> None:
    class Asked(Storage):
        def stat(self, uri: str) -> ObjectInfo | None:
            assert uri == f"{folder}/tables/a.jpg"
            return super().stat(uri)

    write("secret.jpg")
    write("tables-of-others/a.jpg")
    write("tables/a.jpg")
    location = location.format(folder=folder, path=tmp_path)
    uri = write("tables/t.csv", f"uri\na.jpg\nimages/../a.jpg\n{location}\n".encode())
    found = {item.uri: item.version for item in listed(SourceSpec(table=uri), Asked())}
    assert found.pop(f"{folder}/tables/a.jpg") not in (MISSING, NOT_ALLOWED)
    assert list(found.values()) == [UNSUPPORTED if location.startswith(("https", "unknown")) else NOT_ALLOWED]


def test_a_table_may_itself_be_named_by_a_detour(storage: Storage, tmp_path: Path, write: Write) -> None:
    write("tables/raw/a.jpg")
    write("other/there")
    write("tables/t.csv", b"uri\nraw/a.jpg\n")
    manifest = listed(SourceSpec(table=f"{tmp_path}/other/../tables/t.csv"), storage)
    assert [(item.key, item.version == NOT_ALLOWED) for item in manifest] == [("raw/a", False)]


def test_a_table_at_the_root_of_a_disk_leads_all_over_it() -> None:
    places = AllowedPlaces("file:///t.csv", [])
    assert places.target("a/b.jpg") == ("file:///a/b.jpg", None)
    assert places.target("/c.jpg") == ("file:///c.jpg", None)


def test_what_is_allowed_is_looked_up(storage: Storage, folder: str, tmp_path: Path, write: Write) -> None:
    write("images/a.jpg")
    write("images-of-others/b.jpg")
    uri = write("tables/t.csv", b"uri\n../images/a.jpg\n../images-of-others/b.jpg\n")
    for allow in (f"{folder}/images", f"{folder}/images/", f"{tmp_path}/other/../images"):
        found = {item.uri: item.version for item in listed(SourceSpec(table=uri, allow=[allow]), storage)}
        assert found[f"{folder}/images/a.jpg"] not in (MISSING, NOT_ALLOWED)
        assert found[f"{folder}/images-of-others/b.jpg"] == NOT_ALLOWED


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("gs://", "names no bucket"),
        ("s3:///photos", "names no bucket"),
        ("", "is empty"),
        ("..", "is relative"),
        ("photos/2026", "is relative"),
        ("http://b", "no store that is supported"),
        ("s3a://b", "did you mean s3://?"),
        ("gs://b/*", "is a glob"),
        ("/mnt/**/raw", "is a glob"),
        ("file://server/share", "names the host 'server'"),
        ("file://", "names the host ''"),
    ],
)
def test_a_place_that_is_allowed_is_a_folder_or_a_bucket(place: str, words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        SourceSpec(table="/lists/t.csv", allow=["gs://photographs/2026", "/mnt/[old] scans", place])


def test_a_table_in_a_bucket_leads_all_over_it() -> None:
    places = AllowedPlaces("gs://bucket/lists/t.csv", ["s3://other/photos"])
    assert places.target("../raw/a.jpg") == ("gs://bucket/raw/a.jpg", None)
    assert places.target("gs://bucket/raw/a.jpg") == ("gs://bucket/raw/a.jpg", None)
    assert places.target("gs://bucket/raw/%2e%2e/a.jpg") == ("gs://bucket/raw/%2e%2e/a.jpg", None)
    assert places.target("s3://other/photos/a.jpg") == ("s3://other/photos/a.jpg", None)
    for location in (
        "gs://bucket2/a.jpg",
        "gs://bucket/../other/a.jpg",
        "../../other/a.jpg",
        "s3://bucket/a.jpg",
        "s3://other/photos-2/a.jpg",
        "s3://other/photos/../a.jpg",
        "/etc/passwd",
    ):
        assert places.target(location)[1] == NOT_ALLOWED


# Looking objects up


def test_objects_of_a_bucket_are_looked_up_together_and_it_is_said_how_far_that_is(write: Write) -> None:
    asked, many = threading.Semaphore(0), threading.Event()

    class Slow(Storage):
        def stat(self, uri: str) -> ObjectInfo | None:
            asked.release()
            assert many.wait(300)  # none is answered before eight are asked for
            return ObjectInfo(uri, 1, "v", 0.0)

    def wait_for_eight() -> None:
        for _ in range(8):
            asked.acquire()
        many.set()

    threading.Thread(target=wait_for_eight, daemon=True).start()

    uri = write("t.csv", "\n".join(["uri", *(f"gs://bucket/{n:02}.jpg" for n in range(64))]).encode())
    heard: list[Progress] = []
    dataset = dataset_of(SourceSpec(table=uri, allow=["gs://bucket"]), Slow())
    manifest = dataset.manifest("all", heard.append)
    assert [item.uri for item in manifest] == [f"gs://bucket/{n:02}.jpg" for n in range(64)]
    assert str(heard[-1]).startswith(f"look up the objects of {uri}: 64 of 64 objects, ")
