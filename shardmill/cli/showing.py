"""`show`: one sample, where it comes from and what was made of it. And the demo's photographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardmill.cli.arguments import CredentialsFile, DatasetFile, Json, Partitions, chosen, open_dataset
from shardmill.cli.output import Output
from shardmill.errors import ConfigurationError

if TYPE_CHECKING:
    from shardmill.dataset import Dataset
    from shardmill.graph import Asset, Graph
    from shardmill.samples import EncodedSample
    from shardmill.shards.stored import Rows

_SHOWN = 6
"""Elements of a vector."""


def show(
    file: DatasetFile,
    partition: Partitions = None,
    key: Annotated[str | None, typer.Option("--key", "-k", help="the sample's key; default: the first")] = None,
    asset: Annotated[str | None, typer.Option(help="which shards; default: the last that hold samples")] = None,
    save: Annotated[Path | None, typer.Option(help="a folder to write the components into")] = None,
    credentials: CredentialsFile = None,
    as_json: Json = False,
) -> None:
    """Show a stored sample: its components, where each comes from, and its row in every table."""
    from shardmill.graph import build_graph

    output = Output(as_json)
    with output.readable_errors():
        dataset = open_dataset(file, credentials)
        graph = build_graph(dataset.spec)
        name = _holding_samples(graph, asset)
        for each in (partition or ())[1:]:
            if dataset.stored(name, each) is None:
                raise ConfigurationError(f"{name} of {each} is not there; a sample is named by --key")
        place, sample, rows = _find(dataset, name, chosen(dataset, partition), key, file)
        header = ("component", "bytes", "pixels", "raw object", "its version", "its sha256")
        table: list[Sequence[str]] = []
        for component, data in sample.components.items():
            row = rows[component]
            cells = (component, f"{len(data):,}", _pixels(component, data))
            table.append((*cells, row.source_uri, row.source_version, row.source_sha256))
            if save is not None:
                target = save / f"{sample.key.replace('/', '_')}.{component}"
                save.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        every = {each.name: _row_of(dataset, each, place, sample.key) for each in graph}
        found = {each: cells for each, cells in every.items() if cells is not None}
        if as_json:
            components = [dict(zip(header, cells, strict=True)) for cells in table]
            output.result("", partition=place, asset=name, key=sample.key, components=components, tables=found)
            return
        output.say(f"{sample.key} in {dataset.folder(name, place)}")
        output.table(header, table)
        for each, values in found.items():
            output.say(f"{each}: {', '.join(_cells(values))}")


def _holding_samples(graph: Graph, asked: str | None) -> str:
    names = [asset.name for asset in graph if asset.format == "tar"]
    if asked is not None and asked not in names:
        raise ConfigurationError(f"{asked} holds no samples; {', '.join(names)} do")
    return asked or names[-1]


def _find(
    dataset: Dataset, asset: str, partitions: Sequence[str], key: str | None, file: Path
) -> tuple[str, EncodedSample, Rows]:
    """The sample with this key, as it is stored or as it stands in the source; without a key the first one."""
    from shardmill.sources.names import encode_key

    stored = 0
    for partition in partitions:
        shards = dataset.stored(asset, partition)
        stored += shards is not None
        first = None if key is not None or shards is None else next(shards.samples(), None)
        for each in (key, encode_key(key)) if key is not None else (first.key,) if first else ():
            with suppress(KeyError):
                if shards is not None:
                    return (partition, *shards.sample_with_lineage(each))
    where = f"{asset} of {', '.join(partitions[:3])}{', …' if len(partitions) > 3 else ''}"
    if not stored:
        raise ConfigurationError(f"{where} is not there yet: run `shardmill run {file}` first")
    if key is None:
        raise ConfigurationError(f"{where} holds no samples")
    raise ConfigurationError(f"{where} has no sample {key!r}{_why_not(dataset, partitions, key)}")


def _why_not(dataset: Dataset, partitions: Sequence[str], key: str) -> str:
    """What became of a sample that is not there: where it was rejected, or which object with this name is left out."""
    from shardmill.dataset import RAW
    from shardmill.graph import build_graph
    from shardmill.shards.left_out import read_left_out
    from shardmill.sources.names import encode_key

    tars = [asset.name for asset in build_graph(dataset.spec) if asset.format == "tar"]
    for partition in partitions:
        for asset in tars:
            shards = dataset.stored(asset, partition)
            for reject in shards.rejects() if shards else ():
                if reject.key in (key, encode_key(key)):
                    return f": {asset} of {partition} rejected it, {reject}"
        left_out, _ = read_left_out(dataset.storage, dataset.layout(RAW, partition))
        for row in left_out.table.to_pylist() if left_out else ():
            if row["uri"].endswith(f"/{key}"):
                return f": {row['uri']} is left out, by {row['rule']}"
    return ""


def _pixels(component: str, data: bytes) -> str:
    from io import BytesIO

    from PIL import Image

    from shardmill.samples import image_format

    if not image_format(component):
        return ""
    with Image.open(BytesIO(data)) as image:
        return f"{image.width} × {image.height}"


def _row_of(dataset: Dataset, asset: Asset, partition: str, key: str) -> dict[str, Any] | None:
    """The sample's row in a table that has one a sample."""
    import pyarrow.compute as pc

    if asset.format != "parquet" or asset.scope != "partition" or not asset.inputs:
        return None
    table = dataset.stored(asset.name, partition)
    for batch in table.batches() if table else ():
        rows: list[dict[str, Any]] = batch.filter(pc.equal(batch["key"], key)).to_pylist()
        if rows:
            return rows[0]
    return None


def _cells(row: dict[str, Any]) -> Iterator[str]:
    """Vectors in short; not what the table of components says already."""
    for name, value in row.items():
        if name == "key" or name.startswith(("source_", "shard", "component")):
            continue
        if isinstance(value, list) and value and all(isinstance(element, float) for element in value):
            start = ", ".join(f"{element:.3f}" for element in value[:_SHOWN])
            yield f"{len(value)} dimensions, [{start}{', …' if len(value) > _SHOWN else ''}]"
        else:
            yield f"{name} = {value:.3f}" if isinstance(value, float) else f"{name} = {value}"


def demo_photographs(folder: Annotated[Path, typer.Argument(help="where to", show_default=False)]) -> None:
    """Make the demo dataset's raw images from the photographs in scikit-image and scikit-learn."""
    from rich.filesize import decimal

    from shardmill.demo import make_demo_dataset

    output = Output()
    with output.readable_errors():
        summary = make_demo_dataset(folder)
    for made in summary.partitions:
        state = "made" if made.made else "stood already"
        output.say(f"{made.name}: {made.samples} samples, {decimal(made.image_bytes)}, {state}")
