"""What the commands `pack`, `transform`, `embed` and `chain` share: arguments, data, the report."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

from benchmarks.comparison.checks import Check, Found
from benchmarks.comparison.report import write_report
from benchmarks.comparison.rounds import REPOSITORY, take_turns
from benchmarks.comparison.variants import Input, Variant
from shardmill.concurrency import usable_cores
from shardmill.demo import make_demo_dataset

FEW = 16
"""Samples of the calls that tell what any call takes: enough to have every worker start."""


def compare(
    stage: str,
    doc: str | None,
    variants: Callable[[str], Sequence[Variant]],
    check: Check,
    given: Sequence[str] | None,
    *,
    prepared: Sequence[str] = (),
    few: int = FEW,
    right: Callable[[Path], Found] | None = None,
) -> None:
    """Run a benchmark's command.

    Args:
        stage: What is compared; the results are called so.
        doc: What the command says of itself.
        variants: From the address of a server of the images to the variants, ours first.
        check: Compares what variants wrote.
        given: The command's arguments.
        prepared: Stages of ours that make what the variants read.
        few: Samples of the calls that tell what any call takes; half of all at most.
        right: From a folder of images to what variants have to write; if None, what ours writes.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of JPEGs; default: the demo's photographs")
    parser.add_argument("--images", type=int, help="so many; fewer photographs than that are taken again")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=usable_cores(), help="threads, or processes, of each variant")
    parser.add_argument("--peers", type=Path, default=REPOSITORY / ".venv-peers", help="their environment: make peers")
    parser.add_argument("--only", help="peers whose names hold this text; ours and the limits run in any case")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results", help="where to write")
    parser.add_argument("--work", type=Path, help="where to work; needs 1 MB an image")
    arguments = parser.parse_args(given)
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        work = Path(temporary)
        files = gather(arguments.folder or demo(work / "demo"), work / "images", arguments.images)
        count = len(list(files.iterdir()))
        some = gather(files, work / "few", min(few, count // 2))
        with served(work) as server:
            chosen = [v for v in variants(server) if v.kind != "peer" or (arguments.only or "") in v.name]
            read_few = source_of(some, work / "few-prepared", prepared, arguments.workers)
            read_all = source_of(files, work / "prepared", prepared, arguments.workers)
            peers = arguments.peers / "bin" / "python"
            pythons = {False: Path(sys.executable), True: peers if peers.exists() else None}
            known = right(files) if right else None
            print(f"{stage}: {count:,} images, {arguments.rounds} rounds", flush=True)
            outcomes = take_turns(
                chosen, read_few, read_all, known, check, work, arguments.rounds, arguments.workers, pythons
            )
        arguments.results.mkdir(parents=True, exist_ok=True)
        print(write_report(stage, files, some, arguments.workers, outcomes, arguments.results, pythons[True]))


def demo(folder: Path) -> Path:
    """The demo's photographs, without those that are planted to be bad."""
    make_demo_dataset(folder)
    for file in [*folder.rglob("*.jpg"), *folder.rglob("*.jpeg")]:
        if not file.stem[-3:].isdigit():  # a good one's name ends in the number of its view
            file.unlink()
    return folder


def gather(folder: Path, images: Path, count: int | None) -> Path:
    """A folder of so many JPEGs of another, from all over it or each several times; links where the disk allows."""
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    if len(found) < 2:
        raise SystemExit(f"fewer than two JPEGs below {folder}")
    images.mkdir(parents=True)
    wanted = count or len(found)
    chosen = (
        islice(cycle(found), wanted)
        if wanted > len(found)
        else (found[n * len(found) // wanted] for n in range(wanted))
    )
    for number, file in enumerate(chosen):
        target = images / f"{number:07}.jpg"
        try:
            os.link(file, target)
        except OSError:
            shutil.copyfile(file, target)
    return images


def source_of(files: Path, target: Path, prepared: Sequence[str], workers: int) -> Input:
    """What variants read."""
    from benchmarks.comparison.ours import prepare

    return prepare(files, target, list(prepared), workers) if prepared else Input(files)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of the folder, in a process of its own, on this machine alone."""
    command = [sys.executable, "-u", "-m", "benchmarks.comparison.server", str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPOSITORY
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()
