"""`run`, `plan` and `partitions`: bring partitions up to date, say what that would do, say where they stand."""

from __future__ import annotations

import faulthandler
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardmill.cli.arguments import CredentialsFile, DatasetFile, Json, Partitions, chosen, open_dataset
from shardmill.cli.output import Output
from shardmill.errors import ShardmillError
from shardmill.interrupts import ended_in_order_by_sigterm
from shardmill.progress import ProgressSink, counted, format_duration

if TYPE_CHECKING:
    from shardmill.graph import AssetState, Planner
    from shardmill.shards.commit import Commit
    from shardmill.shards.reader import ShardSet


def run(
    file: DatasetFile,
    partition: Partitions = None,
    credentials: CredentialsFile = None,
    engine: Annotated[str, typer.Option(help="what runs it: local, or another's name[://address]")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="threads in all; default: one a core")] = None,
    as_json: Json = False,
) -> None:
    """Bring partitions up to date. Shards that stand are not made again; if one partition fails, the others follow."""
    from shardmill.engines import choose_engine
    from shardmill.graph import Planner

    output, failed = Output(as_json), 0
    if not faulthandler.is_enabled():  # where native code crashes, the line of the callable that it ran for is printed
        faulthandler.enable(sys.__stderr__ or 2)
    with output.readable_errors(), ended_in_order_by_sigterm():
        planner = Planner(open_dataset(file, credentials))
        keys = chosen(planner.dataset, partition)
        with choose_engine(engine, workers, output.say) as opened:
            for key in keys:
                started = time.monotonic()
                try:
                    _run_one(planner, key, opened, output)
                except ShardmillError as error:
                    failed += 1
                    output.error(f"{key}: {error}" if len(keys) > 1 else error, partition=key)
                else:
                    output.say(f"{key}: done in {time.monotonic() - started:.1f} s")
        if len(keys) > 1:
            output.say(f"{len(keys) - failed} of {len(keys)} partitions are up to date")
    if failed:
        raise typer.Exit(1)


def _run_one(planner: Planner, partition: str, engine: Any, output: Output) -> None:
    from rich.filesize import decimal

    from shardmill.dataset import RAW
    from shardmill.graph import PACKED, accounts_of
    from shardmill.graph import run as run_partition

    commits: dict[str, Commit] = {}
    with output.progress() as sink:
        for asset, shards in run_partition(planner, partition, engine, sink):
            commit = commits[asset] = shards.commit
            reasons = ", ".join(f"{count} × {reason}" for reason, count in commit.rejects_by_reason.items())
            rejects = f", {counted(commit.total_rejects, 'reject')} ({reasons})" if commit.total_rejects else ""
            filtered = f", {commit.total_filtered:,} filtered" if commit.total_filtered else ""
            output.result(
                f"{partition} {asset}: {counted(commit.total_samples, 'sample')}, "
                f"{counted(len(commit.shards), 'shard')} ({shards.made} made{_copied(shards)}), "
                f"{decimal(commit.total_bytes)}{filtered}{rejects}",
                partition=shards.layout.name.rpartition("/")[2],
                asset=asset,
                **_figures(commit),
                made=shards.made,
                computed=shards.computed,
                copied=shards.copied,
            )
            for warning in commit.warnings if shards.made else ():
                output.say(f"warning: {warning}")
            if asset == PACKED:
                output.say(f"{partition}: {accounts_of(commits[RAW], commit)}")


def _copied(shards: ShardSet) -> str:
    return f": {shards.computed:,} of {shards.computed + shards.copied:,} samples computed" if shards.copied else ""


def _figures(commit: Commit) -> dict[str, Any]:
    return {
        "samples": commit.total_samples,
        "shards": len(commit.shards),
        "bytes": commit.total_bytes,
        "filtered": commit.total_filtered,
        "rejects": commit.total_rejects,
        "rejects_by_reason": commit.rejects_by_reason,
        "digest": commit.digest,
        **({"listed": commit.listed, "left_out": commit.left_out} if commit.left_out_sha256 else {}),
    }


def plan(
    file: DatasetFile, partition: Partitions = None, credentials: CredentialsFile = None, as_json: Json = False
) -> None:
    """Say what `run` would make now, why, and how long it may take. Makes nothing."""
    from rich.filesize import decimal

    from shardmill.graph import Planner

    output = Output(as_json)
    header = ("partition", "asset", "state", "to make", "samples", "to compute", "bytes", "time", "why")
    rows = []
    with output.readable_errors():
        planner = Planner(open_dataset(file, credentials))
        found, failed = _states(planner, partition, output)
        for state in found:
            fields = {
                "partition": state.partition,
                "asset": state.asset,
                "state": state.state,
                "shards": state.shards,
                "to_make": state.to_make,
                "samples": state.samples,
                "to_compute": state.to_compute,
                "bytes": state.bytes,
                "seconds": state.seconds,
                "why": list(state.why),
            }
            cells = (
                *(state.partition, state.asset, state.state, f"{state.to_make} of {counted(state.shards, 'shard')}"),
                *(f"{state.samples:,}", f"{state.to_compute:,}", decimal(state.bytes), _time(state)),
                "; ".join(state.why),
            )
            rows.append((cells, fields))
        if failed and not rows:
            raise typer.Exit(1)
        output.records(header, rows)
        seconds = [state.seconds for state in found if state.to_make]
        total = sum(second for second in seconds if second is not None)
        taken = f", about {format_duration(total)} of work" if seconds and None not in seconds else ""
        others = f"; {counted(failed, 'partition')} could not be planned" if failed else ""
        output.say(f"{counted(sum(state.to_make for state in found), 'shard')} to make{taken}{others}")
        _say_what_is_no_sample(planner, found, partition, output)
        _say_where_models_differ(planner, found, output)
    if failed:
        raise typer.Exit(1)


def _time(state: AssetState) -> str:
    if not state.to_make:
        return ""
    return "unknown" if state.seconds is None else format_duration(state.seconds)


def partitions(
    file: DatasetFile, partition: Partitions = None, credentials: CredentialsFile = None, as_json: Json = False
) -> None:
    """List partitions and the state of each asset against the source as it is now."""
    from rich.filesize import decimal

    from shardmill.graph import Planner

    output = Output(as_json)
    header = ("partition", "asset", "state", "samples", "shards", "bytes", "rejects", "left out", "digest")
    rows = []
    with output.readable_errors():
        planner = Planner(open_dataset(file, credentials))
        found, failed = _states(planner, partition, output)
        for state in found:
            figures = _figures(state.commit) if state.commit else {}
            cells: tuple[str, ...] = (state.partition, state.asset, state.state)
            if state.commit:
                numbers = (f"{figures['samples']:,}", str(figures["shards"]), decimal(figures["bytes"]))
                cells = (*cells, *numbers, str(figures["rejects"]), _left_out(state), figures["digest"][:16])
            fields = {"partition": state.partition, "asset": state.asset, "state": state.state, **figures}
            if state.listed:
                fields |= {"listed": state.listed, "left_out": dict(state.left_out)}
            rows.append((cells, fields))
        if failed and not rows:
            raise typer.Exit(1)
        output.records(header, rows)
        _say_what_is_no_sample(planner, found, partition, output)
        _say_where_models_differ(planner, found, output)
    if failed:
        raise typer.Exit(1)


def _left_out(state: AssetState) -> str:
    return f"{sum(state.left_out.values()):,}" if state.listed else ""


def _say_what_is_no_sample(
    planner: Planner, found: list[AssetState], partitions: list[str] | None, output: Output
) -> None:
    """What was left out of the partitions, by rule; and, if all were asked for, what lies beside them."""
    from shardmill.graph import beside_partitions
    from shardmill.left_out import described

    rules: Counter[str] = Counter()
    for state in found:
        rules.update(state.left_out)
    if rules:
        output.say(f"{sum(state.listed for state in found):,} objects: {described(dict(rules.most_common()))}")
    beside = None if partitions else beside_partitions(planner.dataset)
    if beside:
        output.say(str(beside))


def _say_where_models_differ(planner: Planner, found: list[AssetState], output: Output) -> None:
    """Which tables hold vectors of several models, as they stand."""
    from shardmill.graph import models_of
    from shardmill.stages.embed import EmbedStage

    for asset in planner.graph:
        commits = {state.partition: state.commit for state in found if state.asset == asset.name and state.commit}
        models = models_of(commits) if isinstance(asset.stage, EmbedStage) else []
        if len(models) > 1:
            parts = "; ".join(f"{len(each.partitions)} of {each.model}" for each in models)
            output.say(f"warning: {asset.name} has partitions of {len(models)} models, not to be compared: {parts}")


def _states(planner: Planner, partitions: list[str] | None, output: Output) -> tuple[list[AssetState], int]:
    """The states of the partitions' assets, a shared asset once; and how many partitions' states could not be told."""
    found: dict[tuple[str, str], AssetState] = {}
    failed = 0
    for key in chosen(planner.dataset, partitions):
        try:
            with output.progress(beside=True) as sink:
                for state in _each(planner, key, sink):
                    same = found.setdefault((state.asset, state.partition), state)
                    if state.to_make > same.to_make:  # what the dataset has once: one may need it, another not
                        found[state.asset, state.partition] = state
        except ShardmillError as error:
            failed += 1
            output.error(error, partition=key)
    return list(found.values()), failed


def _each(planner: Planner, partition: str, progress: ProgressSink) -> Iterator[AssetState]:
    from shardmill.graph import states

    planner.dataset.check(partition)
    yield from states(planner, partition, progress)
