"""`verify`, `gc` and `check-storage`: are the bytes right, what may go, what do the credentials allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shardmill.cli.arguments import (
    CredentialsFile,
    DatasetFile,
    Json,
    Partitions,
    chosen,
    open_dataset,
    open_storage,
)
from shardmill.cli.output import Output
from shardmill.errors import CorruptionError, ShardmillError, StorageError

if TYPE_CHECKING:
    from shardmill.dataset import Dataset


def verify_command(
    file: DatasetFile, partition: Partitions = None, credentials: CredentialsFile = None, as_json: Json = False
) -> None:
    """Read every byte of stored partitions and compare digests, counts and offsets; read tars with webdataset too."""
    from shardmill.graph import PACKED, build_graph, unaccounted

    output, problems = Output(as_json), 0
    with output.readable_errors():
        dataset = open_dataset(file, credentials)
        graph, done = build_graph(dataset.spec), set[tuple[str, str]]()
        for key in chosen(dataset, partition):
            dataset.check(key)
            for asset in graph:
                place = asset.place(key)
                if (asset.name, place) in done:
                    continue
                done.add((asset.name, place))
                found = _problems(dataset, asset.name, place)
                if asset.name == PACKED and not found:
                    found = list(unaccounted(dataset, place))
                problems += len(found)
                text = f"{place} {asset.name}: {'ok' if not found else f'{len(found)} problems'}"
                lines = [text, *(f"  {problem}" for problem in found)]
                output.result("\n".join(lines), partition=place, asset=asset.name, problems=found)
    if problems:
        raise typer.Exit(1)


def _problems(dataset: Dataset, asset: str, partition: str) -> list[str]:
    """Problems of the commit that stands; one that another run supersedes meanwhile is none, and is looked at anew."""
    from shardmill.shards.verify import read_with_webdataset, verify

    while True:
        try:
            shards = dataset.stored(asset, partition)
        except (CorruptionError, StorageError) as error:
            return [str(error)]
        if shards is None:
            return ["nothing is committed"]
        problems = list(verify(shards))
        if shards.commit.suffix == "tar" and not problems:
            samples, _ = read_with_webdataset(shards)
            if samples != shards.commit.total_samples:
                problems.append(f"webdataset reads {samples} samples, index.json says {shards.commit.total_samples}")
        if not problems or shards.newest().commit == shards.commit:
            return problems


def gc(
    file: DatasetFile,
    partition: Partitions = None,
    credentials: CredentialsFile = None,
    grace_hours: Annotated[float, typer.Option(min=0, help="spare files younger than this: a run may need them")] = 24,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list them, delete nothing")] = False,
    as_json: Json = False,
) -> None:
    """Delete files that no commit names, left by runs that failed or were killed, and what is kept no longer."""
    from rich.filesize import decimal

    from shardmill.graph.orphans import remove_orphans

    output, done = Output(as_json), "would delete" if dry_run else "deleted"
    count = size = problems = 0
    with output.readable_errors():
        dataset = open_dataset(file, credentials)
        for key in partition or ():
            dataset.check(key)
        for found in remove_orphans(dataset, grace_hours * 3600, dry_run, partition):
            if isinstance(found, ShardmillError):
                problems += 1
                output.error(found)
                continue
            count, size = count + 1, size + found.size
            output.result(f"{done} {found.uri}", uri=found.uri, bytes=found.size, deleted=not dry_run)
        output.say(f"{count} files, {decimal(size)}")
    if problems:
        raise typer.Exit(1)


def check_storage_command(
    uris: Annotated[list[str], typer.Argument(help="folders on any store", show_default=False)],
    credentials: CredentialsFile = None,
    source: Annotated[bool, typer.Option("--source", help="only list and read, as a source needs")] = False,
    as_json: Json = False,
) -> None:
    """List, read, write, replace and delete below each URI with the credentials for it; say what is missing."""
    from shardmill.storage import absolute_uri
    from shardmill.storage.check import check_storage, impatient

    output, problems = Output(as_json), 0
    with output.readable_errors():
        storage = impatient(open_storage(credentials))
        stores = {uri: storage.store(uri) for uri in map(absolute_uri, uris)}
        for uri, store in stores.items():
            for number, finding in enumerate(check_storage(storage, uri, source)):
                if number == 0:  # only now: the owner of a key is known once it has been read
                    output.say(f"{uri} as {store.identity}")
                problems += finding.problem is not None
                output.result(
                    f"  {finding.verb}: {finding.problem or 'ok'}",
                    uri=uri,
                    identity=store.identity,
                    verb=finding.verb,
                    problem=finding.problem,
                )
    if problems:
        raise typer.Exit(1)
