"""Declared columns in Dagster: the table shows them, and a changed value leaves the shards as they are."""

from typing import Any

import dagster as dg
import pyarrow.parquet as pq

COLUMNS = {"note": "string", "width": "int32"}


def materializations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetMaterialization]:
    assert result.success
    return {
        event.materialization.asset_key.path[-1]: event.materialization
        for event in result.get_asset_materialization_events()
    }


def test_a_changed_value_changes_the_version_of_the_tables_alone(tiny: Any) -> None:
    said = tiny.folder / "said.csv"
    source = {
        "uri": str(tiny.folder / "raw/{partition}"),
        "metadata": {"table": str(said), "key_column": "id"},
    }
    said.write_text("id,note,width\na0,first,80\na1,,\n")
    before = materializations(tiny.materialize("a", source=source, columns=COLUMNS))
    schema = before["embeddings"].metadata["dagster/column_schema"].value
    assert isinstance(schema, dg.TableSchema)
    shown = {column.name: (column.type, column.constraints.nullable) for column in schema.columns}
    assert {name: shown[name] for name in COLUMNS} == {"note": ("string", True), "width": ("int32", True)}
    said.write_text("id,note,width\na0,second,80\na1,,\n")
    after = materializations(tiny.materialize("a", source=source, columns=COLUMNS))
    version = "dagster/data_version"
    changed = {name for name, each in after.items() if (each.tags or {})[version] != (before[name].tags or {})[version]}
    assert changed == {"raw_images", "embeddings", "embedding_map"}
    assert after["embeddings"].metadata["samples computed"].value == 0
    table = pq.read_table(tiny.stored("embeddings", "a"), columns=["key", *COLUMNS]).to_pylist()
    assert {row.pop("key"): row for row in table} == {
        "a0": {"note": "second", "width": 80},
        **{f"a{number}": {"note": None, "width": None} for number in (1, 2, 3)},
    }
