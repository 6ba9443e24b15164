import datetime
import decimal
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shardmill.dataset import Dataset, DatasetSpec
from shardmill.errors import ConfigurationError
from shardmill.sources import Manifest, RawObject, SampleNames, SourceSpec, content_digest, content_of, manifest_of
from shardmill.sources.manifest import MISSING
from shardmill.storage import ObjectInfo, Storage, join_uri
from tests.small import plan

Write = Callable[..., str]


def dataset_of(source: SourceSpec, partition: str, storage: Storage, root: str = "/nowhere") -> Dataset:
    spec = {"name": "listed", "root": root, "source": source.model_dump(), "partitions": [partition]}
    return Dataset(DatasetSpec.model_validate(spec), storage)


def listed(source: SourceSpec, partition: str, storage: Storage) -> Manifest:
    return dataset_of(source, partition, storage).manifest(partition)


def samples(manifest: Manifest) -> dict[str, list[str]]:
    return {key: [item.component for item in group] for key, group in manifest.by_key()}


def metadata(manifest: Manifest) -> dict[str, Any]:
    return {item.key: json.loads(item.metadata) for item in manifest if item.metadata is not None}


class Shuffled(Storage):
    """Lists in another order every time."""

    def list(self, folder: str, **options: Any) -> Iterator[ObjectInfo]:
        found = list(super().list(folder, **options))
        random.shuffle(found)
        return iter(found)


# A prefix


def test_a_marker_is_no_sample_and_its_name_elsewhere_is_one() -> None:
    names = SampleNames(SourceSpec(uri="s3://b", marker="done"))
    assert not names.takes("done")
    assert names.split("done") is None
    assert names.place("done") == "marker"
    assert names.split("below/done") == ("below/done", "")


def test_a_prefix_is_listed_into_samples_by_name(storage: Storage, folder: str, write: Write) -> None:
    uri = write("raw/cats/a.jpg", b"12345")
    write("raw/cats/a.cls")
    write("raw/cats/a.trimap.png")
    write("raw/dogs/b.JPG")
    write("raw/README")
    manifest = listed(SourceSpec(uri=f"{folder}/raw"), "all", storage)
    assert samples(manifest) == {"README": [""], "cats/a": ["cls", "jpg", "trimap.png"], "dogs/b": ["jpg"]}
    [item] = [item for item in manifest if item.uri == uri]
    info = storage.stat(uri)
    assert info is not None
    modified = pytest.approx(info.modified, abs=1e-6)
    assert item == RawObject("cats/a", "jpg", uri, 5, info.version, modified, None)


def test_the_partition_stands_for_its_place_in_the_uri(storage: Storage, folder: str, write: Write) -> None:
    write("2026-01/raw/a.jpg")
    write("2026-02/raw/b.jpg")
    source = SourceSpec(uri=folder + "/{partition}/raw")
    assert samples(listed(source, "2026-01", storage)) == {"a": ["jpg"]}
    assert samples(listed(source, "2026-02", storage)) == {"b": ["jpg"]}


@pytest.mark.parametrize("ending", ["", "/", "//", "/."])
def test_the_end_of_the_uri_does_not_matter(storage: Storage, folder: str, write: Write, ending: str) -> None:
    write("raw/a.jpg")
    assert samples(listed(SourceSpec(uri=f"{folder}/raw{ending}"), "all", storage)) == {"a": ["jpg"]}


def test_a_bare_path_is_a_uri(storage: Storage, tmp_path: Path, write: Write) -> None:
    write("raw/a.jpg")
    assert samples(listed(SourceSpec(uri=str(tmp_path / "raw")), "all", storage)) == {"a": ["jpg"]}


def test_odd_names_are_encoded_and_their_uris_are_not(storage: Storage, folder: str, write: Write) -> None:
    uri = write("raw/été 1.0/a b.jpg")
    [item] = listed(SourceSpec(uri=f"{folder}/raw"), "all", storage)
    assert (item.key, item.component, item.uri) == ("%C3%A9t%C3%A9%201%2E0/a%20b", "jpg", uri)


def test_a_name_that_is_not_utf_8_is_listed_in_a_form_that_can_be_read(storage: Storage, folder: str, write) -> None:
    write("raw/caf\udce9.jpg")
    write("raw/café.jpg")
    manifest = listed(SourceSpec(uri=f"{folder}/raw"), "all", storage)
    assert samples(manifest) == {"caf%C3%A9": ["jpg"], "caf%E9": ["jpg"]}
    assert [item.uri for item in manifest] == [f"{folder}/raw/café.jpg", f"{folder}/raw/caf\\udce9.jpg"]
    infos = list(storage.list(f"{folder}/raw"))
    assert manifest.content == content_digest(sum(content_of(info.uri, info.version) for info in infos))


@pytest.mark.parametrize("made", [True, False])
def test_an_empty_prefix_is_a_configuration_error_that_names_it(
    storage: Storage, folder: str, tmp_path: Path, made: bool
) -> None:
    if made:
        (tmp_path / "raw").mkdir()
    with pytest.raises(ConfigurationError, match=f"{folder}/raw.*'2026-01'"):
        plan(dataset_of(SourceSpec(uri=f"{folder}/raw"), "2026-01", storage), "raw_images", "2026-01")


def test_equal_sets_of_objects_give_equal_manifests_whatever_the_order(folder: str, write: Write) -> None:
    for number in range(50):
        write(f"raw/{number % 7}/{number}.jpg")
    manifests = [listed(SourceSpec(uri=f"{folder}/raw"), "all", Shuffled()) for _ in range(5)]
    assert len({manifest.digest for manifest in manifests}) == 1
    assert all(manifest.table == manifests[0].table for manifest in manifests)


def test_a_replaced_object_changes_the_manifest(storage: Storage, folder: str, write: Write) -> None:
    write("raw/a.jpg", b"one")
    before = listed(SourceSpec(uri=f"{folder}/raw"), "all", storage)
    uri = write("raw/a.jpg", b"two")
    os.utime(uri.removeprefix("file://"), (1, 1))
    assert listed(SourceSpec(uri=f"{folder}/raw"), "all", storage).digest != before.digest


# Patterns


def test_patterns_bring_folders_together(storage: Storage, folder: str, write: Write) -> None:
    for name in ("images/a.jpg", "images/b.jpg", "annotations/trimaps/a.png", "annotations/list.txt"):
        write(f"raw/{name}")
    patterns = {"image.jpg": "images/{key}.jpg", "trimap.png": "annotations/trimaps/{key}.png"}
    manifest = listed(SourceSpec(uri=f"{folder}/raw", components=patterns), "all", storage)
    assert samples(manifest) == {"a": ["image.jpg", "trimap.png"], "b": ["image.jpg"]}


def test_patterns_that_nothing_fits_are_a_configuration_error_that_says_so(
    storage: Storage, folder: str, write: Write
) -> None:
    write("raw/a.jpg")
    source = SourceSpec(uri=f"{folder}/raw", components={"jpg": "images/{key}.jpg"})
    with pytest.raises(ConfigurationError, match="patterns of `components`"):
        plan(dataset_of(source, "all", storage), "raw_images", "all")


# A table


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
    manifest = listed(SourceSpec(table=uri), "all", storage)
    assert [(item.key, item.component, item.uri, item.size) for item in manifest] == [
        ("raw/a", "jpg", uris[0], 1),
        ("raw/bb", "jpg", uris[1], 2),
    ]
    assert metadata(manifest) == {
        "raw/a": {"label": "cat", "age": 3, "score": 0.5},
        "raw/bb": {"label": "dog", "age": None, "score": 2.25},
    }
    assert [item.version for item in manifest] == [info.version for info in map(storage.stat, uris) if info]


def test_a_table_of_uris_alone_has_no_metadata(storage: Storage, write: Write, table: Table) -> None:
    [item] = listed(SourceSpec(table=table({"uri": [write("a.jpg")]})), "all", storage)
    assert item.metadata is None


def test_relative_uris_are_relative_to_the_table(
    storage: Storage, folder: str, tmp_path: Path, write: Write, table: Table
) -> None:
    uris = {write("tables/images/a.jpg"), write("b.jpg"), write("c.jpg")}
    uri = table({"uri": ["images/a.jpg", f"{tmp_path}/b.jpg", f"{folder}/c.jpg"]})
    assert {item.uri for item in listed(SourceSpec(table=uri), "all", storage)} == uris


def test_objects_that_are_missing_are_listed_as_missing(storage: Storage, write: Write, table: Table) -> None:
    write("tables/a.jpg")
    write("tables/folder/in.jpg")
    uri = table({"uri": ["a.jpg", "gone.jpg", "folder", "x" * 300 + ".jpg"]})
    manifest = listed(SourceSpec(table=uri), "all", storage)
    assert manifest.objects == 4
    missing = [item for item in manifest if item.version == MISSING]
    assert {item.uri.rpartition("/")[2] for item in missing} == {"gone.jpg", "folder", "x" * 300 + ".jpg"}
    assert {(item.size, item.modified) for item in missing} == {(0, 0.0)}


def test_columns_may_have_other_names(storage: Storage, write: Write, table: Table) -> None:
    write("tables/1.jpg")
    write("tables/2.png")
    uri = table({"image": ["1.jpg", "2.png"], "id": ["x y", "x y"]})
    manifest = listed(SourceSpec(table=uri, uri_column="image", key_column="id"), "all", storage)
    assert samples(manifest) == {"x%20y": ["jpg", "png"]}
    assert [item.metadata for item in manifest] == [None, None]


def test_keys_are_text_to_the_letter(storage: Storage, write: Write, table: Table) -> None:
    keys = ["007", "7", "NA", "null", "1.0", "1e3", "True"]
    uri = table({"uri": [f"{key}.jpg" for key in keys], "id": keys})
    manifest = listed(SourceSpec(table=uri, key_column="id"), "all", storage)
    assert {item.key for item in manifest} == {key.replace(".", "%2E") for key in keys}


@pytest.mark.parametrize("column", ["uri", "id"])
def test_a_row_without_uri_or_key_is_a_configuration_error_that_counts_to_it(
    storage: Storage, table: Table, column: str
) -> None:
    columns = {"uri": ["a.jpg", "b.jpg"], "id": ["a", "b"]} | {column: ["a", None]}
    with pytest.raises(ConfigurationError, match=f"row 2 has no {column}"):
        listed(SourceSpec(table=table(columns), key_column="id"), "all", storage)


def test_another_row_never_changes_what_a_row_is(storage: Storage, table: Table) -> None:
    columns = {"uri": ["a.jpg", "b.jpg"], "age": [3, 4], "score": [0.5, 1.5]}
    before = listed(SourceSpec(table=table(columns)), "all", storage)
    longer = {name: [*cells, None] for name, cells in columns.items()} | {"uri": ["a.jpg", "b.jpg", "c.jpg"]}
    after = listed(SourceSpec(table=table(longer)), "all", storage)
    assert [item for item in after if item.key != "c"] == list(before)


@pytest.mark.parametrize("column", ["uri", "id"])
def test_a_missing_column_is_a_configuration_error_that_names_those_there_are(
    storage: Storage, table: Table, column: str
) -> None:
    uri = table({"image": ["a.jpg"], "name": ["a"]})
    source = {"uri": SourceSpec(table=uri), "id": SourceSpec(table=uri, uri_column="image", key_column="id")}[column]
    with pytest.raises(ConfigurationError, match=f"{uri}.*{column!r}.*image, name"):
        listed(source, "all", storage)


def test_an_empty_table_is_a_configuration_error(storage: Storage, table: Table) -> None:
    uri = table({"uri": []})
    with pytest.raises(ConfigurationError, match=f"{uri}.*no rows"):
        plan(dataset_of(SourceSpec(table=uri), "all", storage), "raw_images", "all")


def test_a_table_that_does_not_exist_is_a_configuration_error(storage: Storage, folder: str) -> None:
    with pytest.raises(ConfigurationError, match=r"2026-01\.csv does not exist"):
        listed(SourceSpec(table=folder + "/{partition}.csv"), "2026-01", storage)


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
        listed(SourceSpec(table=uri), "all", storage)


def test_csv_is_read_as_spreadsheets_write_it(storage: Storage, write: Write) -> None:
    uri = write("t.csv", '\ufeffuri,text\r\n"a, b.jpg","two\nlines ""quoted"""\r\n\r\nc.jpg,007\r\n'.encode())
    manifest = listed(SourceSpec(table=uri), "all", storage)
    assert metadata(manifest) == {"a,%20b": {"text": 'two\nlines "quoted"'}, "c": {"text": "007"}}


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("3", 3),
        ("-0.5", -0.5),
        ("1e3", 1000.0),
        ("007", "007"),
        ("", None),
        ("NaN", "NaN"),
        ("1e999", "1e999"),
        ("1_000", "1_000"),
        ("True", "True"),
        (" 1", " 1"),
        ("é", "é"),
    ],
)
def test_a_csv_cell_is_a_number_only_if_it_says_the_same_as_one(
    storage: Storage, write: Write, cell: str, value: object
) -> None:
    [item] = listed(SourceSpec(table=write("t.csv", f"uri,x\na.jpg,{cell}".encode())), "all", storage)
    assert item.metadata is not None
    assert json.loads(item.metadata) == {"x": value}


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
    [item] = listed(SourceSpec(table=f"{folder}/t.parquet"), "all", storage)
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
    one = listed(SourceSpec(table=write("t.csv", b"uri,b,a\nx.jpg,1,2")), "all", storage)
    two = listed(SourceSpec(table=write("t.csv", b"a,uri,b\n2,x.jpg,1")), "all", storage)
    assert one.digest == two.digest


def test_an_unsupported_scheme_in_a_table_is_a_configuration_error(storage: Storage, write: Write) -> None:
    with pytest.raises(ConfigurationError, match="https://example"):
        listed(SourceSpec(table=write("t.csv", b"uri\nhttps://example/a.jpg")), "all", storage)


# What is left out


def left_out(manifest: Manifest) -> dict[str, list[str]]:
    """The names of the objects by rule."""
    found: dict[str, list[str]] = {}
    for row in manifest.left_out.table.to_pylist():
        found.setdefault(row["rule"], []).append(row["uri"].rpartition("/raw/")[2])
    return found


def test_every_listed_object_is_in_a_sample_or_left_out_by_a_named_rule(storage, folder: str, write: Write) -> None:
    for name in (
        "images/a.JPG",
        "images/._a.JPG",
        "images/b.gif",
        "images/old/c.jpg",
        ".DS_Store",
        "notes.txt",
        "done",
    ):
        write(f"raw/{name}")
    source = SourceSpec(
        uri=f"{folder}/raw", components={"jpg": "images/{key}.jpg"}, exclude=["*.TXT", "images/old/"], marker="done"
    )
    manifest = listed(source, "all", storage)
    assert samples(manifest) == {"a": ["jpg"]}
    assert left_out(manifest) == {
        "default: .DS_Store": [".DS_Store"],
        "default: ._*": ["images/._a.JPG"],
        "exclude: *.TXT": ["notes.txt"],
        "exclude: images/old/": ["images/old/c.jpg"],
        "marker": ["done"],
        "no pattern": ["images/b.gif"],
    }
    assert manifest.left_out.by_rule == dict.fromkeys(sorted(left_out(manifest)), 1)
    assert manifest.left_out.listed == 7


def test_without_the_defaults_litter_is_data(storage: Storage, folder: str, write: Write) -> None:
    write("raw/._a.jpg")
    assert left_out(listed(SourceSpec(uri=f"{folder}/raw"), "all", storage)) == {"default: ._*": ["._a.jpg"]}
    manifest = listed(SourceSpec(uri=f"{folder}/raw", exclude_defaults=False), "all", storage)
    assert (samples(manifest), manifest.left_out.objects) == ({"%2E_a": ["jpg"]}, 0)


def test_what_is_no_file_is_left_out(storage: Storage, folder: str, tmp_path: Path, write: Write) -> None:
    write("raw/sub/a.jpg")
    os.mkfifo(tmp_path / "raw/pipe.jpg")
    (tmp_path / "raw/link.jpg").symlink_to("pipe.jpg")
    (tmp_path / "raw/._pipe").symlink_to("pipe.jpg")
    (tmp_path / "raw/zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "raw/sub/round").symlink_to("..")
    manifest = listed(SourceSpec(uri=f"{folder}/raw"), "all", storage)
    assert samples(manifest) == {"sub/a": ["jpg"]}
    assert left_out(manifest) == {
        "default: ._*": ["._pipe"],
        "not a file": ["link.jpg", "pipe.jpg", "zero.jpg"],
        "loop of links": ["sub/round"],
    }
    assert manifest.left_out.listed == 6


PARTS = st.sampled_from(["images", "Masks", "a", "b.c", "._a", ".DS_Store", "__MACOSX", "@eaDir", "x y", "0001", "é"])
SUFFIXES = st.sampled_from(["", ".jpg", ".JPG", ".jpeg", ".png", ".mask.TIF", ".txt", ".tar.gz", "/"])
NAMES = st.builds(lambda parts, suffix: "/".join(parts) + suffix, st.lists(PARTS, min_size=1, max_size=3), SUFFIXES)
PATTERNS = st.none() | st.fixed_dictionaries(
    {"image": st.lists(st.sampled_from(["images/{key}.jpg", "images/{key}.*", "a/{key}.png"]), min_size=1)},
    optional={"mask.tiff": st.just(["Masks/{key}.mask.tif"]), "txt": st.just("{key}.txt")},
)
GLOBS = st.lists(st.sampled_from(["*.txt", "a/", "**/b*/**", "images/?", "*.tar.gz", "/x y/*"]), max_size=3)


@given(st.lists(NAMES, unique=True), PATTERNS, GLOBS, st.booleans())
def test_listed_are_the_samples_objects_and_what_is_left_out(names, patterns, globs, defaults: bool) -> None:
    """Each once, by one rule, and as a watcher sees them one by one."""
    source = SourceSpec(uri="s3://b/raw", components=patterns, exclude=globs, exclude_defaults=defaults)
    objects = [ObjectInfo(f"s3://b/raw/{name}", number, "v", 1.0) for number, name in enumerate(names)]
    manifest = manifest_of(source, "s3://b/raw", objects)
    kept, rest = [item.uri for item in manifest], manifest.left_out.table["uri"].to_pylist()
    assert sorted([*kept, *rest]) == sorted(info.uri for info in objects)
    assert manifest.left_out.listed == len(names) == manifest.objects + sum(manifest.left_out.by_rule.values())
    takes = SampleNames(source).takes
    assert {uri.removeprefix("s3://b/raw/") for uri in kept} == set(filter(takes, names))


# The spec


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either `uri`"),
        ({"uri": "a", "table": "b"}, "either `uri`"),
        ({"table": "a", "components": {"jpg": "{key}.jpg"}}, "a table has none"),
        ({"uri": "a", "components": {"jpg": "a.jpg"}}, r"'a\.jpg'; it needs \{key\} once"),
        ({"uri": "a", "components": {"JPG": "{key}.jpg"}}, "'JPG'"),
        ({"uri": "a", "components": {"a b": "{key}.jpg"}}, "'a b'"),
        ({"uri": "a", "components": {"__key__": "{key}.jpg"}}, "'__key__'"),
        ({"uri": "a", "components": {"x" * 28: "{key}.jpg"}}, "27"),
        ({"uri": "a", "components": {"image.jpeg": "{key}.jpeg"}}, r"did you mean 'image\.jpg'"),
        ({"uri": "a", "components": {"jpg": []}}, "at least 1"),
        ({"uri": "a", "components": {}}, "at least 1"),
        ({"uri": "a", "components": {"image": "{key}.*", "image.png": "{key}.png"}}, r"called 'image\.png'"),
        ({"uri": "a", "exclude": ["!keep.jpg"]}, "taken back"),
        ({"uri": "a", "exclude": ["*.{jpg,png}"]}, "only `\\*`"),
        ({"uri": "a", "exclude": ["/"]}, "fits nothing"),
        ({"table": "a", "exclude": ["*.txt"]}, "over a listing"),
        ({"table": "a", "exclude_defaults": False}, "over a listing"),
        ({"uri": "a", "prefix": "b"}, "prefix"),
    ],
    ids=str,
)
def test_a_wrong_spec_says_what_is_wrong(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SourceSpec(**fields)


def test_the_root_folder_can_be_a_prefix(folder: str) -> None:
    class Root(Storage):
        def list(self, folder: str, **_: Any) -> Iterator[ObjectInfo]:
            assert folder == "file:///"
            return iter([ObjectInfo(join_uri(folder, "a/b.jpg"), 1, "v", 0.0)])

    dataset = dataset_of(SourceSpec(uri="/"), "all", Root(), root="gs://elsewhere/made")
    assert samples(dataset.manifest("all")) == {"a/b": ["jpg"]}
