"""A table of metadata beside a source: which sample a row belongs to."""

import json
from collections.abc import Callable
from typing import Any
from unicodedata import normalize

import pytest

from shardmill.dataset import Dataset, DatasetSpec
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage

Write = Callable[..., str]


def columns(folder: str, said: str, source: dict[str, Any] | None = None, **declared: str) -> dict[str, Any]:
    """The declared columns of each sample, those of partition `p` in `folder`/raw/p joined with the table `said`."""
    given = source or {"uri": f"{folder}/raw/{{partition}}"}
    dataset = Dataset(
        DatasetSpec.model_validate(
            {
                "name": "d",
                "root": "/nowhere",
                "partitions": ["p"],
                "source": {**given, "metadata": {"table": said, "key_column": "id"}},
                "columns": declared or {"note": "string"},
                "embedder": {},
            }
        ),
        Storage(),
    )
    return {item.key: json.loads(item.columns) for item in dataset.manifest("p") if item.columns is not None}


def test_a_row_belongs_to_the_sample_of_its_key_or_of_the_object_that_it_names(folder: str, write: Write) -> None:
    for name in ("a", "b c", "in/d", "007"):
        write(f"raw/p/{name}.jpg")
    write("raw/p/a.cls")
    said = write("p.csv", b"id,note\na,1\nb c,2\nin/d.jpg,3\n007,4\nelsewhere,5\n")
    assert columns(folder, said.replace("p.csv", "{partition}.csv")) == {
        "a": {"note": ["1"]},
        "b%20c": {"note": ["2"]},
        "in/d": {"note": ["3"]},
        "007": {"note": ["4"]},
    }


def test_declared_columns_alone_are_taken_and_all_rows_of_a_key(folder: str, write: Write) -> None:
    write("raw/p/a.jpg")
    said = write("said.csv", b"id;note;cls;other\na;one;7;x\na.jpg;two;;y\n")
    assert columns(folder, said) == {"a": {"note": ["one", "two"]}}
    assert columns(folder, said, cls="int64") == {"a": {"cls": ["7", None]}}


def test_it_is_joined_to_a_table_of_uris_too_where_they_have_no_column_in_common(folder: str, write: Write) -> None:
    write("raw/a.jpg")
    source = {"table": write("raw/t.csv", b"uri,id,label\na.jpg,k,cat\n"), "key_column": "id"}
    said = write("said.csv", b"id,note\nk,one\n")
    found = columns(folder, said, source, note="string", label="string")
    assert found == {"k": {"label": ["cat"], "note": ["one"]}}
    said = write("said.csv", b"id,label\nk,dog\n")
    with pytest.raises(ConfigurationError, match="both have the column label: rename one"):
        columns(folder, said, source, label="string")


def test_a_table_of_metadata_that_is_not_there_or_lacks_its_keys_is_an_error(folder: str, write: Write) -> None:
    write("raw/p/a.jpg")
    with pytest.raises(ConfigurationError, match=r"said\.csv does not exist"):
        columns(folder, f"{folder}/said.csv")
    with pytest.raises(ConfigurationError, match="has no column 'id'; its columns are name, note"):
        columns(folder, write("said.csv", b"name,note\na,1\n"))


def test_rows_that_fit_no_sample_are_counted_in_the_log(
    folder: str, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write("raw/p/a.jpg")
    said = write("p.csv", b"id,note\nx,1\na,2\n")
    columns(folder, said)  # a table for all partitions has rows of others
    assert not caplog.text
    columns(folder, f"{folder}/{{partition}}.csv")
    assert f"1 of the 2 rows of {said} have the key of no sample of the partition" in caplog.text


def test_a_table_of_which_no_row_belongs_to_a_sample_is_told_with_an_example_of_both_sides(
    folder: str, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write("raw/p/a.jpg")
    said = write("p.csv", b"id,note\nx,1\ny,2\n")
    assert columns(folder, said) == {}
    expected = f"none of the 2 rows of {said} belongs to a sample of the partition: its column id says 'x', for example"
    assert expected in caplog.text
    assert "a sample's key is 'a'" in caplog.text
    assert columns(folder, write("p.csv", b"id,note\n")) == {}


@pytest.mark.parametrize(
    ("component", "pattern", "name", "key"),
    [
        ("png", "{key}.png", "Screenshot 10.00.32.png", "Screenshot%2010%2E00%2E32"),
        ("jpg", "images/{key}.jpg", "images/a0.jpg", "a0"),
        ("seg.png", "m/{key}_mask.png", "m/a.0_mask.png", "a%2E0"),
    ],
)
def test_the_name_of_an_object_is_read_by_the_source_s_patterns(
    folder: str, write: Write, component: str, pattern: str, name: str, key: str
) -> None:
    write(f"raw/p/{name}")
    source = {"uri": f"{folder}/raw/{{partition}}", "components": {component: pattern}}
    said = write("said.csv", f"id,note\n{name},1\n".encode())
    assert columns(folder, said, source) == {key: {"note": ["1"]}}


def test_an_object_may_be_named_without_the_folder_of_its_pattern(folder: str, write: Write) -> None:
    write("raw/p/images/a.b.jpg")
    source = {"uri": f"{folder}/raw/{{partition}}", "components": {"jpg": "images/{key}.jpg"}}
    assert columns(folder, write("said.csv", b"id,note\na.b.jpg,1\na.jpg,2\n"), source) == {"a%2Eb": {"note": ["1"]}}


@pytest.mark.parametrize(("stored", "said"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_letters_are_the_same_composed_and_decomposed(folder: str, write: Write, stored: str, said: str) -> None:
    write(f"raw/p/{normalize(stored, 'Zoë')}.jpg")
    write(f"raw/p/{normalize(stored, 'Ö')}.jpg")
    rows = normalize(said, "id,note\nZoë,1\nÖ.jpg,2\n").encode()
    assert [each["note"] for each in columns(folder, write("said.csv", rows)).values()] in (
        [["1"], ["2"]],
        [["2"], ["1"]],
    )
