"""The `shardmill` command: a dataset file without Dagster."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from shardmill import chain
from shardmill.dataset import ASSETS, AssetName, Dataset, load_dataset
from shardmill.engines import LocalEngine
from shardmill.errors import ConfigurationError, CorruptionError, ShardmillError, StorageError
from shardmill.orphans import remove_orphans
from shardmill.progress import Progress, ProgressSink, for_a_log
from shardmill.samples import EncodedSample, image_format
from shardmill.shards.commit import Commit
from shardmill.shards.reader import ShardSet
from shardmill.shards.stored import Rows
from shardmill.sources.names import encode_key
from shardmill.storage import Storage, absolute_uri, load_credentials
from shardmill.storage.check import check_storage, impatient
from shardmill.verify import read_with_webdataset, verify

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()

DatasetFile = Annotated[Path, typer.Argument(help="the dataset's YAML file (a defs.yaml)", show_default=False)]
CredentialsFile = Annotated[
    Path | None,
    typer.Option(
        "--credentials",
        envvar="SHARDMILL_CREDENTIALS",
        help="a YAML file with credentials for buckets; default: the clouds' own",
        show_default=False,
    ),
]
Partitions = Annotated[
    list[str] | None, typer.Option("--partition", "-p", help="a partition; may be repeated; default: all")
]


class Tars(Enum):
    """The assets that hold samples."""

    webdataset_shards = "webdataset_shards"
    transformed_shards = "transformed_shards"


_TARS: dict[Tars, AssetName] = {
    Tars.webdataset_shards: "webdataset_shards",
    Tars.transformed_shards: "transformed_shards",
}


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Errors of our own in one sentence, exit status 1. Anything else is a defect and keeps its traceback."""
    try:
        yield
    except ShardmillError as error:
        _print_error(error)
        raise typer.Exit(1) from error


def _print_error(error: ShardmillError) -> None:
    Console(stderr=True).print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)


def _say(text: str) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)


def _storage(credentials: Path | None) -> Storage:
    return Storage(load_credentials(credentials) if credentials else ())


@app.command()
def run(
    file: DatasetFile,
    partition: Partitions = None,
    credentials: CredentialsFile = None,
    workers: Annotated[int | None, typer.Option(min=1, help="threads in all; default: one a core")] = None,
) -> None:
    """Bring partitions up to date: list, pack, transform, embed, map. What stands already is not made again."""
    with _readable_errors():
        dataset = load_dataset(file, _storage(credentials))
        for key in partition or chain.known_partitions(dataset):
            started = time.monotonic()
            with _progress() as sink:
                for asset, shards in chain.run(dataset, key, LocalEngine(workers, _say), sink):
                    commit = shards.commit
                    rejects = f", {commit.total_rejects} rejects" if commit.total_rejects else ""
                    console.print(
                        f"{key} {asset}: {commit.total_samples:,} samples, {len(commit.shards)} shards "
                        f"({shards.made} made), {decimal(commit.total_bytes)}{rejects}",
                        highlight=False,
                        soft_wrap=True,
                    )
            console.print(f"{key}: done in {time.monotonic() - started:.1f} s", highlight=False)


@app.command()
def partitions(file: DatasetFile, credentials: CredentialsFile = None) -> None:
    """List the partitions and the state of each asset against the source as it is now."""
    with _readable_errors():
        dataset = load_dataset(file, _storage(credentials))
        header = ("partition", "asset", "state", "samples", "shards", "bytes", "rejects", "digest")
        rows: list[Sequence[str]] = []
        for key in chain.known_partitions(dataset):
            for found in chain.states(dataset, key):
                commit = found.commit
                figures = _figures(commit) if commit else []
                rows.append((key, found.asset, found.state, *figures))
        _print_table(header, rows)


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal; elsewhere a line a row, its cells apart by tabs, as `cut` and `grep` want them."""
    if not console.is_terminal:
        for row in (header, *rows):
            typer.echo("\t".join(row))
        return
    table = Table(*header)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _figures(commit: Commit) -> list[str]:
    shards = len(commit.shards)
    figures = [f"{commit.total_samples:,}", str(shards), decimal(commit.total_bytes), str(commit.total_rejects)]
    return [*figures, commit.digest[:16]]


@app.command("verify")
def verify_command(file: DatasetFile, partition: Partitions = None, credentials: CredentialsFile = None) -> None:
    """Read every byte of stored partitions and compare digests, counts and offsets; read tars with webdataset too."""
    problems = 0
    with _readable_errors():
        dataset = load_dataset(file, _storage(credentials))
        for key in partition or chain.known_partitions(dataset):
            for asset in ASSETS:
                found = _problems(dataset, asset, key)
                problems += len(found)
                console.print(f"{key} {asset}: {'ok' if not found else f'{len(found)} problems'}", highlight=False)
                for problem in found:
                    console.print(f"  {escape(problem)}", highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)


def _problems(dataset: Dataset, asset: AssetName, partition: str) -> list[str]:
    """Of the commit that stands; what another run supersedes meanwhile is no problem, and is looked at anew."""
    while True:
        try:
            shards = chain.stored(dataset, asset, partition)
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


@app.command()
def show(
    file: DatasetFile,
    partition: Annotated[str, typer.Argument(help="the partition", show_default=False)],
    key: Annotated[str | None, typer.Argument(help="the sample's key; default: the first")] = None,
    asset: Annotated[Tars, typer.Option(help="which shards")] = Tars.transformed_shards,
    save: Annotated[Path | None, typer.Option(help="a folder to write the components into")] = None,
    credentials: CredentialsFile = None,
) -> None:
    """Show a stored sample: its components, where each comes from, its embedding and its place on the map."""
    with _readable_errors():
        dataset = load_dataset(file, _storage(credentials))
        shards = chain.stored(dataset, _TARS[asset], partition)
        if shards is None:
            raise ConfigurationError(f"{asset.value} of {partition} is not there yet: run `shardmill run {file}` first")
        sample, rows = _find(shards, key, f"{asset.value} of {partition}")
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
        console.print(f"[bold]{escape(sample.key)}[/] in {shards.folder}", highlight=False, soft_wrap=True)
        _print_table(header, table)
        _show_vector(dataset, partition, sample.key)


def _find(shards: ShardSet, key: str | None, where: str) -> tuple[EncodedSample, Rows]:
    """The sample with this key, as it is stored or as it stands in the source; without a key the first one."""
    first = None if key is not None else next(shards.samples(), None)
    for each in (key, encode_key(key)) if key is not None else (first.key,) if first else ():
        with suppress(KeyError):
            return shards.sample_with_lineage(each)
    raise ConfigurationError(f"{where} {'holds no samples' if key is None else f'has no sample {key!r}'}")


def _pixels(component: str, data: bytes) -> str:
    from io import BytesIO

    from PIL import Image

    if not image_format(component):
        return ""
    with Image.open(BytesIO(data)) as image:
        return f"{image.width} × {image.height}"


def _show_vector(dataset: Dataset, partition: str, key: str) -> None:
    for row in _rows_of(dataset, "embeddings", partition, key):
        vector = row["embedding"]
        start = ", ".join(f"{value:.3f}" for value in vector[:6])
        console.print(f"embedding: {len(vector)} dimensions, [{start}, …]", highlight=False)
    for row in _rows_of(dataset, "embedding_map", partition, key):
        console.print(f"map: x = {row['x']:.3f}, y = {row['y']:.3f}", highlight=False)


def _rows_of(dataset: Dataset, asset: AssetName, partition: str, key: str) -> Iterator[dict[str, Any]]:
    import pyarrow.compute as pc

    table = chain.stored(dataset, asset, partition)
    for batch in table.batches() if table else ():
        yield from batch.filter(pc.equal(batch["key"], key)).to_pylist()


@app.command("check-storage")
def check_storage_command(
    uris: Annotated[list[str], typer.Argument(help="folders on any store", show_default=False)],
    credentials: CredentialsFile = None,
    source: Annotated[bool, typer.Option("--source", help="only list and read, as a source needs")] = False,
) -> None:
    """List, read, write, replace and delete below each URI with the credentials for it; say what is missing."""
    problems = 0
    with _readable_errors():
        storage = impatient(_storage(credentials))
        stores = {uri: storage.store(uri) for uri in map(absolute_uri, uris)}
        for uri, store in stores.items():
            for number, finding in enumerate(check_storage(storage, uri, source)):
                if number == 0:  # only now: whose a key is, is known once it has been read
                    console.print(f"{escape(uri)} as {escape(store.identity)}", highlight=False, soft_wrap=True)
                problems += finding.problem is not None
                console.print(f"  {finding.verb}: {escape(finding.problem or 'ok')}", highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)


@app.command()
def gc(
    file: DatasetFile,
    credentials: CredentialsFile = None,
    grace_hours: Annotated[float, typer.Option(min=0, help="spare files younger than this: a run may need them")] = 24,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list them, delete nothing")] = False,
) -> None:
    """Delete files that no commit names, left by runs that failed or were killed, and what is kept no longer."""
    done = "would delete" if dry_run else "deleted"
    count = size = problems = 0
    with _readable_errors():
        dataset = load_dataset(file, _storage(credentials))
        for found in remove_orphans(dataset, grace_hours * 3600, dry_run):
            if isinstance(found, CorruptionError):
                problems += 1
                _print_error(found)
                continue
            count, size = count + 1, size + found.size
            console.print(f"{done} {escape(found.uri)}", highlight=False, soft_wrap=True)
        console.print(f"{count} files, {decimal(size)}", highlight=False)
    if problems:
        raise typer.Exit(1)


@app.command("demo-photographs")
def demo_photographs(folder: Annotated[Path, typer.Argument(help="where to", show_default=False)]) -> None:
    """Make the demo dataset's raw images from the photographs in scikit-image and scikit-learn."""
    from shardmill.demo import make_demo_dataset

    with _readable_errors():
        summary = make_demo_dataset(folder)
    for made in summary.partitions:
        state = "made" if made.made else "stood already"
        console.print(f"{made.name}: {made.samples} samples, {decimal(made.image_bytes)}, {state}", highlight=False)


@contextmanager
def _progress() -> Iterator[ProgressSink]:
    """A bar on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield for_a_log(lambda state: console.print(str(state), highlight=False, soft_wrap=True))
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show_bar(state: Progress) -> None:
            if state.task not in tasks:
                tasks[state.task] = bar.add_task(state.task, total=state.total, rate="")
            rate = f"{state.done:,} of {state.total:,}, {state.rate:,.0f} samples/s"
            bar.update(tasks[state.task], completed=state.done, rate=rate)

        yield show_bar


if __name__ == "__main__":
    app()
