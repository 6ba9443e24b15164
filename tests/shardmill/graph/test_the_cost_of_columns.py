"""What a change of a declared column costs, by counting; the result is always that of a build from nothing."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardmill import graph
from shardmill.shards.reader import ShardSet
from tests.changes import Changing, Cost, Instruments, counting, photograph
from tests.servers.places import Kind, NewPlace
from tests.small_embedder import SMALL

__all__ = ["counting"]

COUNT = 40
COLUMNS = {"caption": "string", "width": "int32", "taken": "timestamp", "cls": "int64"}
NOTHING = Cost(0, 0, 0)
Rows = dict[int, dict[str, Any]]
Put = Callable[[Rows], None]


def rows() -> Rows:
    """Of each image, what is said of it; some of it unknown."""
    return {
        number: {
            "caption": f"number {number}, said",
            "width": None if number % 4 else 24,
            "taken": f"2026-01-{number % 28 + 1:02}T10:00:00Z",
            "cls": number % 3,
        }
        for number in range(COUNT)
    }


def name(number: int) -> str:
    return f"image_{number:03}"


def text(rows: Mapping[str, Mapping[str, Any]], first: str) -> bytes:
    """A CSV of these rows, by what stands in their first column."""
    buffer = io.StringIO()
    columns = next(iter(rows.values()))
    writer = csv.writer(buffer)
    writer.writerow([first, *columns])
    writer.writerows([cell, *row.values()] for cell, row in rows.items())
    return buffer.getvalue().encode()


@pytest.fixture(params=["file", "s3"])
def changing(
    request: pytest.FixtureRequest, place: NewPlace, counting: Instruments, embedder_of_tests: dict[str, str]
) -> Changing:
    """A dataset of images that are there and columns that are declared; nothing is made of it yet."""
    kind: Kind = request.param
    crop = {"operations": [{"operation": "CenterCrop", "arguments": {"size": 16}}]}
    fields = {"shards": {"max_samples": 16}, "embedder": SMALL, "transform": crop, "columns": COLUMNS}
    made = Changing(place(kind), counting, fields)
    for number in range(COUNT):
        made.put(f"{name(number)}.jpg", photograph(number))
    return made


@pytest.fixture(params=["source", "side"])
def said(request: pytest.FixtureRequest, changing: Changing) -> Put:
    """Says these columns of the images: in the source's own table, or in one beside it."""
    place = changing.place
    if request.param == "side":
        changing.fields["source"] = {"metadata": {"table": f"{place.uri}/said/{{partition}}.csv", "key_column": "id"}}

        def put(rows: Rows) -> None:
            place.put("said/p.csv", text({name(number): row for number, row in rows.items()}, "id"))

    else:
        changing.fields["source"] = {"uri": None, "table": f"{place.uri}/raw/t.csv"}

        def put(rows: Rows) -> None:
            place.put("raw/t.csv", text({f"p/{name(number)}.jpg": row for number, row in rows.items()}, "uri"))

    return put


def parts(shards: ShardSet) -> dict[str, str]:
    return {entry.id: entry.sha256 for entry in shards.commit.shards}


def check(changing: Changing, before: Mapping[Any, ShardSet], changed: int) -> Mapping[Any, ShardSet]:
    """The next run computes nothing and writes `changed` parts of the table, no tar, as its plan foretells."""
    foreseen = {state.asset: state for state in graph.states(changing.dataset(), "p")}
    cost, made = changing.run()
    assert cost == NOTHING
    assert {asset: state.to_compute for asset, state in foreseen.items() if state.to_make and "map" not in asset} == {
        "raw_images": COUNT,
        "embeddings": 0,
    }
    assert foreseen["embeddings"].to_make == made["embeddings", "p"].made == changed
    for asset in ("webdataset_shards", "transformed_shards"):
        assert made[asset, "p"].commit.digest == before[asset, "p"].commit.digest
    one, two = (parts(each["embeddings", "p"]) for each in (before, made))
    assert len(one) > changed
    assert len(one.items() - two.items()) == changed
    assert changing.files() == changing.files_from_nothing()
    return made


def table(made: Mapping[Any, ShardSet]) -> dict[str, dict[str, Any]]:
    found = made["embeddings", "p"].table(["key", *COLUMNS]).to_pylist()
    return {row.pop("key").rpartition("/")[2]: row for row in found}


def test_a_changed_value_rewrites_the_parts_of_the_table_that_hold_it_and_computes_nothing(
    changing: Changing, said: Put
) -> None:
    values = rows()
    said(values)
    cost, made = changing.run()
    assert cost == Cost(COUNT, COUNT, COUNT)
    before = table(made)
    assert {key: row["caption"] for key, row in before.items()} == {name(n): f"number {n}, said" for n in range(COUNT)}
    assert before[name(3)]["taken"].isoformat() == "2026-01-04T10:00:00+00:00"
    values[3]["caption"] = "another"
    said(values)
    made = check(changing, made, 1)
    assert table(made) == before | {name(3): before[name(3)] | {"caption": "another"}}


def test_shards_in_the_order_of_keys_have_the_columns_of_their_samples(changing: Changing, said: Put) -> None:
    changing.fields["shards"] = {"max_samples": 8, "order": "key"}
    values = rows()
    said(values)
    _, made = changing.run()
    assert {key: row["caption"] for key, row in table(made).items()} == {
        name(n): f"number {n}, said" for n in range(COUNT)
    }
    values[3]["caption"] = "another"
    said(values)
    check(changing, made, 1)


def test_what_comes_later_is_filled_in(changing: Changing, said: Put) -> None:
    values = {number: dict.fromkeys(COLUMNS) for number in range(COUNT)}
    said(values)
    _, made = changing.run()
    schema = pq.read_schema(io.BytesIO(changing.place.storage.read(made["embeddings", "p"].urls[0])))
    assert [schema.field(column).type for column in COLUMNS] == [
        pa.string(),
        pa.int32(),
        pa.timestamp("us", tz="UTC"),
        pa.int64(),
    ]
    said(rows())
    changing.run()
    assert changing.files() == changing.files_from_nothing()


def test_a_value_that_does_not_fit_rejects_its_sample_until_it_does(changing: Changing, said: Put) -> None:
    changing.fields["max_reject_ratio"] = 0.1
    values = rows()
    said(values)
    _, made = changing.run()
    values[3]["width"] = "wide"
    said(values)
    made = check(changing, made, 1)
    [reject] = made["embeddings", "p"].rejects()
    assert reject.reason == "value does not fit its column"
    assert reject.detail == "column width is int32, and 'wide' is not"
    assert reject.key.rpartition("/")[2] == name(3)
    values[3]["width"] = 7
    said(values)
    cost, made = changing.run()
    assert (cost.transformed, cost.fetched) == (0, 0)
    assert cost.embedded <= 1
    assert not list(made["embeddings", "p"].rejects())
    assert table(made)[name(3)]["width"] == 7
    assert changing.files() == changing.files_from_nothing()


@pytest.mark.parametrize(
    "columns", [COLUMNS | {"note": "string"}, {"caption": "string"}, COLUMNS | {"width": "float64"}]
)
def test_columns_declared_otherwise_rewrite_the_table_and_move_no_basis(
    changing: Changing, said: Put, columns: dict[str, str]
) -> None:
    values = rows()
    said(values)
    _, before = changing.run()
    changing.fields["columns"] = columns
    cost, made = changing.run()
    assert (cost.embedded, cost.fetched) == (0, 0)
    schema = pq.read_schema(io.BytesIO(changing.place.storage.read(made["embeddings", "p"].urls[0])))
    assert columns.keys() <= set(schema.names)
    assert made["embedding_basis", "p"].commit.digest == before["embedding_basis", "p"].commit.digest
    assert changing.files() == changing.files_from_nothing()


def test_an_image_that_changes_with_its_columns_is_computed_alone(changing: Changing, said: Put) -> None:
    values = rows()
    said(values)
    changing.run()
    values[3]["caption"] = values[20]["caption"] = "another"
    said(values)
    changing.put(f"{name(3)}.jpg", photograph(1000))
    cost, _ = changing.run()
    assert cost == Cost(1, 1, 1)
    assert changing.files() == changing.files_from_nothing()


def test_columns_come_from_components_of_their_name(changing: Changing) -> None:
    changing.fields["columns"] = {"txt": "string", "cls": "int64"}
    for number in range(COUNT):
        changing.put(f"{name(number)}.txt", f"said of {number}\n".encode())
        changing.put(f"{name(number)}.cls", f"{number % 3}\n".encode())
    _, made = changing.run()
    found = made["embeddings", "p"].table(["key", "txt", "cls"]).to_pylist()
    assert {row["key"]: (row["txt"], row["cls"]) for row in found} == {
        name(number): (f"said of {number}", number % 3) for number in range(COUNT)
    }
    changing.put(f"{name(3)}.txt", b"another")
    changing.put(f"{name(4)}.cls", b"2")
    cost, made = changing.run()
    assert cost == Cost(0, 0, 2)
    assert "another" in made["embeddings", "p"].table(["txt"])["txt"].to_pylist()
    assert changing.files() == changing.files_from_nothing()


def test_columns_come_from_json_components(changing: Changing) -> None:
    for number, row in rows().items():
        fields = {column: value for column, value in row.items() if value is not None}
        changing.put(f"{name(number)}.json", json.dumps(fields | {"box": [1, 2]}).encode())
    cost, made = changing.run()
    assert cost == Cost(COUNT, COUNT, 2 * COUNT)
    assert [row["width"] for _, row in sorted(table(made).items())] == [row["width"] for row in rows().values()]
    changing.put(f"{name(3)}.json", b'{"caption": "another", "cls": "7"}')
    cost, made = changing.run()
    assert cost == Cost(0, 0, 1)
    assert table(made)[name(3)] == {"caption": "another", "width": None, "taken": None, "cls": 7}
    assert changing.files() == changing.files_from_nothing()
    changing.fields["max_reject_ratio"] = 0.1
    changing.put(f"{name(3)}.json", b'{"caption": ')
    cost, made = changing.run()
    assert cost == Cost(0, 0, 1)
    assert [reject.reason for reject in made["embeddings", "p"].rejects()] == ["unreadable json"]
    assert changing.files() == changing.files_from_nothing()


def test_columns_that_are_not_declared_stay_in_the_samples_and_the_class_is_in_the_tables_too(
    changing: Changing,
) -> None:
    changing.fields |= {"columns": {"caption": "string"}, "class_names": ["cat", "dog", "bird"]}
    changing.fields["source"] = {"uri": None, "table": f"{changing.place.uri}/raw/t.csv"}
    changing.place.put("raw/t.csv", text({f"p/{name(number)}.jpg": row for number, row in rows().items()}, "uri"))
    _, made = changing.run()
    stored = json.loads(made["transformed_shards", "p"].sample(f"p/{name(4)}").components["json"])
    assert stored == {"width": "24", "taken": "2026-01-05T10:00:00Z", "cls": "1"}
    for asset in ("embeddings", "embedding_map"):
        classes = {row["key"]: row["cls"] for row in made[asset, "p"].table(["key", "cls"]).to_pylist()}
        assert classes == {f"p/{name(number)}": str(number % 3) for number in range(COUNT)}
