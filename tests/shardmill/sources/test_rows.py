"""Tables as people have them: encodings, delimiters, quotes, ends of lines; and errors that say where."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill.errors import ConfigurationError
from shardmill.sources.rows import DELIMITERS, TableSource
from shardmill.storage import Storage

Write = Callable[..., str]


def cells(uri: str, delimiter: str | None = None, needed: tuple[str, ...] = ("uri",)) -> list[dict[str, Any]]:
    with TableSource(uri, delimiter).rows(Storage(), needed) as (_, rows):
        return [dict(row.cells) for row in rows]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(
    rows=st.lists(st.tuples(TEXT.filter(str.strip), TEXT, TEXT), max_size=6),
    delimiter=st.sampled_from(DELIMITERS),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_what_pythons_writer_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    delimiter: str,
    end: str,
    encoding: str,
) -> None:
    # Python's writer leaves ends of lines that are not its own unquoted.
    quoting = csv.QUOTE_ALL if {"\r", "\n"} & set("".join(map("".join, rows))) else csv.QUOTE_MINIMAL
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([("uri", "two words", "ünï"), *rows])
    file = tmp_path_factory.getbasetemp() / "written.csv"
    file.write_bytes(buffer.getvalue().encode(encoding))
    expected = [{"uri": a.strip(), "two words": b or None, "ünï": c or None} for a, b, c in rows]
    assert cells(f"file://{file}") == expected


def test_cells_may_be_of_any_length(write: Write) -> None:
    assert cells(write("t.csv", b"uri,x\na," + b"y" * 1_000_000)) == [{"uri": "a", "x": "y" * 1_000_000}]


@pytest.mark.parametrize(
    "data",
    [
        b"uri;x\na,b;1\n",
        b"uri\tx\na,b\t1\n",
        b"uri|x\na,b|1\n",
        b'uri,x\n"a,b",1\n',
        b"sep=;\r\nuri;x\r\na,b;1\r\n",
        b'\n\r\n uri , x\n"a,b",1\n\n,\n',
        b'uri,x,,\n"a,b",1,,\n',
        b'uri,x\n"a,b",1,\n',
        b'x;y,uri\n1,"a,b"\n',
    ],
)
def test_the_delimiter_is_that_which_gives_the_columns(write: Write, data: bytes) -> None:
    [row] = cells(write("t.csv", data))
    assert row["uri"] == "a,b"
    assert "1" in row.values()


def test_a_delimiter_that_is_declared_is_taken(write: Write) -> None:
    assert cells(write("t.csv", b"uri^x\na^1"), "^") == [{"uri": "a", "x": "1"}]


def test_a_column_without_a_name_is_kept_where_it_says_something(write: Write) -> None:
    assert cells(write("t.csv", b",uri,\n0,a,\n1,b,\n")) == [
        {"column_1": "0", "uri": "a"},
        {"column_1": "1", "uri": "b"},
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("uri,x\na,ok\nb,\xe9t\xe9\n".encode("latin-1"), "line 3 is not UTF-8: byte 13 is 0xe9. Save it as UTF-8"),
        (b"uri\na\xc3", "line 2 is not UTF-8: byte 5 is 0xc3"),
        ("uri\na\n".encode("utf-16-le"), "line 1 has zero bytes: it may be UTF-16 .* Save it as UTF-8"),
        (b"\xff\xfeu\0r\0i\0\n\0\0\xd8a", "is not UTF-16"),
        (b"uri,x\na,1\n\nb\n", "line 4 has 1 cells, the header 2"),
        (b"uri,x\na,1\nb,2,3\n", "line 3 has 3 cells, the header 2"),
        (b'uri,x\n"a\nb",1\nc,"d\ne,f\n', "the record that begins on line 4: unexpected end of data"),
        (b"uri,x,x\na,1,2\n", "two columns called 'x'"),
        (b"image,x\na,1\n", "no column 'uri'; its columns are image, x"),
        (b"uri,x\na,1\n,2\n", r"row 2 \(line 3\) has no uri"),
        (b"", "no column 'uri'"),
        (b"\x1f\x8b\x08\x00", "gzip: unpack it"),
        (b"PK\x03\x04", "save it as CSV"),
    ],
)
def test_an_error_says_where_the_table_goes_wrong_and_what_to_do(write: Write, data: bytes, message: str) -> None:
    uri = write("t.csv", data)
    with pytest.raises(ConfigurationError, match=f"^(the table )?{uri}.*{message}"):
        cells(uri)


def test_the_place_of_what_is_no_text_is_found_far_into_a_file(write: Write) -> None:
    before = "uri\n" + "é\n" * 1_000_001
    with pytest.raises(ConfigurationError, match=f"line 1000003 is not UTF-8: byte {len(before.encode())} is 0xff"):
        cells(write("t.csv", before.encode() + b"\xff"))


def test_parquet_says_what_its_columns_are_whatever_it_is_called(tmp_path: Path) -> None:
    rows = [{"uri": "a", "n": 1, "x": 0.5}, {"uri": "b", "n": None, "x": 1.0}]
    for name in ("t.parquet", "t.pq"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        assert cells(f"file://{tmp_path / name}") == rows
