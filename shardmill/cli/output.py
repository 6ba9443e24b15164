"""What the commands print: lines and tables for people, JSON lines for scripts, progress, errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any

import typer

from shardmill.errors import ShardmillError
from shardmill.progress import Progress, ProgressSink, for_a_log


class Output:
    """Where a command prints. With `as_json`, stdout gets JSON objects, a line each, and nothing else."""

    def __init__(self, as_json: bool = False) -> None:
        from rich.console import Console

        self._json = as_json
        self._results = sys.stdout
        self._told: set[str] = set()
        self._console = Console(highlight=False, emoji=False, stderr=as_json)
        self._errors = Console(highlight=False, emoji=False, stderr=True)

    def say(self, text: str) -> None:
        """A line for people."""
        from rich.markup import escape

        self._console.print(escape(text), soft_wrap=True)

    def result(self, text: str, /, **fields: Any) -> None:
        """A line for people, or its fields for scripts."""
        if self._json:
            typer.echo(_plain(fields), self._results)
        else:
            self.say(text)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table on a terminal; elsewhere a line a row, its cells apart by tabs, as `cut` and `grep` want them."""
        if not self._console.is_terminal:
            for row in (header, *rows):
                typer.echo("\t".join(row))
            return
        from rich.markup import escape
        from rich.table import Table

        table = Table(*header)
        for row in rows:
            table.add_row(*map(escape, row))
        self._console.print(table)

    def records(self, header: Sequence[str], rows: Sequence[tuple[Sequence[str], dict[str, Any]]]) -> None:
        """A table for people, or for scripts the fields of each row."""
        if not self._json:
            self.table(header, [cells for cells, _ in rows])
        for _, fields in rows if self._json else ():
            typer.echo(_plain(fields), self._results)

    def error(self, error: ShardmillError | str, **fields: Any) -> None:
        """One sentence on stderr, the same one once; for scripts its fields on stdout, too."""
        from rich.markup import escape

        if str(error) not in self._told:
            self._told.add(str(error))
            self._errors.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        if self._json:
            typer.echo(_plain({**fields, "error": str(error)}), self._results)

    @contextmanager
    def readable_errors(self) -> Iterator[None]:
        """Errors of our own in one sentence, exit status 1; of Ctrl-C that it was heard, and where that leaves things.

        Anything else is a defect and keeps its traceback. With `as_json`, what code of the user's own prints goes to
        stderr.
        """
        try:
            with redirect_stdout(sys.stderr) if self._json else nullcontext():
                yield
        except ShardmillError as error:
            self.error(error)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            self._errors.print("interrupted: what is stored is whole, and the same command goes on from there")
            raise

    @contextmanager
    def progress(self, beside: bool = False) -> Iterator[ProgressSink]:
        """A bar on a terminal, plain lines elsewhere; on stderr, if they stand `beside` what is printed."""
        from rich.markup import escape

        console = self._errors if beside else self._console
        if not console.is_terminal:
            yield for_a_log(lambda state: console.print(escape(str(state)), soft_wrap=True))
            return
        from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

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
                rate = f"{state.done:,} of {state.total:,}, {state.rate:,.0f} {state.unit}/s"
                bar.update(tasks[state.task], completed=state.done, rate=rate)

            yield show_bar


def _plain(fields: dict[str, Any]) -> str:
    """A line of JSON; dates and the like as text."""
    return json.dumps(fields, ensure_ascii=False, default=str)
