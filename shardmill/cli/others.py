"""`urls` and `index`: what other readers of the stored files take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shardmill.cli.arguments import CredentialsFile, DatasetFile, Json, Partitions, open_dataset
from shardmill.cli.output import Output
from shardmill.errors import ConfigurationError

if TYPE_CHECKING:
    from shardmill.dataset import Dataset
    from shardmill.shards.reader import ShardSet

AssetName = Annotated[str, typer.Argument(help="such as webdataset_shards", show_default=False)]


def urls(
    file: DatasetFile,
    asset: AssetName,
    partition: Partitions = None,
    credentials: CredentialsFile = None,
    as_json: Json = False,
) -> None:
    """Print where the committed data files of an asset are, a line each: a path, or a URI with gs:// or s3://."""
    output = Output(as_json)
    with output.readable_errors():
        for key, shards in _committed(open_dataset(file, credentials), file, asset, partition):
            for url, shard in zip(shards.urls, shards.shards, strict=True):
                place = url.removeprefix("file://")
                output.result(
                    place,
                    partition=key,
                    url=place,
                    samples=shard.samples,
                    bytes=shard.size,
                    sha256=shard.entry.sha256,
                )


def index(
    file: DatasetFile,
    asset: AssetName,
    partition: Partitions = None,
    *,
    output_folder: Annotated[
        Path, typer.Option("--output", "-o", help="the folder to write below", show_default=False)
    ],
    dali: Annotated[bool, typer.Option("--dali", help="an index for DALI's fn.readers.webdataset")] = False,
    credentials: CredentialsFile = None,
    as_json: Json = False,
) -> None:
    """Write an index file a tar for another reader, in the folder `--output`; print each tar's place and its index's.

    They are called `<asset>/<partition>/<tar>.idx`. Those of tars that are no longer committed are removed.
    """
    from shardmill.shards.dali import dali_index

    output, rows = Output(as_json), []
    with output.readable_errors():
        if not dali:
            raise ConfigurationError("say for which reader the index is to be: --dali")
        dataset = open_dataset(file, credentials)
        _check_apart(output_folder, dataset)
        for key, shards in _committed(dataset, file, asset, partition, tars_only=True):
            folder = output_folder.absolute() / asset / key
            indexes = {
                f"{Path(shard.file_name).stem}.idx": dali_index(shard, shards.storage) for shard in shards.shards
            }
            _replace_all(folder, indexes)
            for url, shard, name in zip(shards.urls, shards.shards, indexes, strict=True):
                place, target = url.removeprefix("file://"), str(folder / name)
                fields = {"partition": key, "url": place, "index": target, "samples": shard.samples}
                rows.append(((place, target), fields))
        output.records(("tar", "index"), rows)


def _committed(
    dataset: Dataset, file: Path, asset: str, partitions: list[str] | None, tars_only: bool = False
) -> Iterator[tuple[str, ShardSet]]:
    """The committed partitions of an asset, those that are named or all.

    Raises:
        ConfigurationError: There is no such asset; nothing is committed of it, or of a partition that is named.
    """
    from shardmill.dataset import WHOLE
    from shardmill.graph import build_graph
    from shardmill.spec import did_you_mean

    graph, found = build_graph(dataset.spec), False
    names = [each.name for each in graph if each.format == "tar" or not tars_only]
    if asset not in names:
        held = "holds no samples" if asset in graph.by_name else "is no asset"
        raise ConfigurationError(f"{asset} {held} of {dataset.spec.name}{did_you_mean(asset, names) or _are(names)}")
    once = graph[asset].scope == "dataset"
    known = partitions or ([WHOLE] if once else dataset.stored_partitions(asset))
    for place in dict.fromkeys(graph[asset].place(key) for key in known):
        shards = dataset.stored(asset, place)
        if shards is None and partitions:
            raise ConfigurationError(_missing(f"{asset} of {place}", file))
        if shards is not None:
            found = True
            yield place, shards
    if not found:
        raise ConfigurationError(_missing(asset, file))


def _are(names: list[str]) -> str:
    return f": there are {', '.join(names)}"


def _missing(what: str, file: Path) -> str:
    return f"nothing is committed of {what}: run `shardmill run {file}` first"


def _check_apart(folder: Path, dataset: Dataset) -> None:
    """Refuse a folder below the root, or the source, whose objects the indexes would be.

    Raises:
        ConfigurationError: It is one.
    """
    from shardmill.storage import absolute_uri

    for uri in (absolute_uri(dataset.spec.root), dataset.partitioning.base):
        place = uri.removeprefix("file://")
        if place != uri and folder.resolve().is_relative_to(Path(place).resolve()):
            raise ConfigurationError(
                f"{folder} is among the data, in {place}: name a folder of its own for the indexes"
            )


def _replace_all(folder: Path, indexes: Mapping[str, str]) -> None:
    """Write indexes, and remove those of tars that are committed no more: the globs over both have to agree.

    Raises:
        ConfigurationError: The folder cannot be written to.
    """
    from shardmill.shards.layout import is_data_name

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in indexes.items():
            part = folder / f"{name}-part"
            part.write_text(text)
            part.replace(folder / name)
        for each in folder.iterdir():
            if each.suffix == ".idx" and each.name not in indexes and is_data_name(f"{each.stem}.tar"):
                each.unlink()
    except OSError as error:
        raise ConfigurationError(f"cannot write below {folder}: {error.strerror}") from error
