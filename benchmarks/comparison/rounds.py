"""Variants take turns, round by round, each in a process of its own; what they wrote is compared once."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison.checks import Check, Found, Incomparable
from benchmarks.comparison.usage import cpu_seconds, end, resident_bytes
from benchmarks.comparison.variants import Errand, Input, Variant

REPOSITORY = Path(__file__).parents[2]
LONGEST_SECONDS = 900
_LOOK_SECONDS = 0.2
_QUIET = {
    "DO_NOT_TRACK": "true",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "SCARF_NO_ANALYTICS": "true",
    "WANDB_MODE": "disabled",
}
"""Peers send nothing to anybody while they are measured."""


class Failed(Exception):
    """A variant ended before it was done."""


@dataclass(frozen=True)
class Cost:
    """What one call took, after the process has started and warmed up."""

    wall_seconds: float
    cpu_seconds: float
    """Of the process and all its descendants."""
    peak_bytes: int
    """Resident, of all of them, shared pages once; what the imports take is in it."""


@dataclass(frozen=True)
class Turn:
    """What one variant took in one round."""

    few: Cost
    all: Cost


@dataclass
class Outcome:
    """All rounds of a variant."""

    variant: Variant
    turns: list[Turn] = field(default_factory=list)
    checked: str = ""
    """What of its output was found equal."""
    left_out: str = ""
    """Why it was not measured."""

    def to_json(self) -> dict[str, Any]:
        """For the file of results."""
        return asdict(self)


def take_turns(
    variants: Sequence[Variant],
    few: Input,
    source: Input,
    right: Found | None,
    check: Check,
    work: Path,
    rounds: int,
    workers: int,
    pythons: Mapping[bool, Path | None],
) -> list[Outcome]:
    """Measure. What is right is what ours wrote, where `right` is None; ours has to come first then.

    `pythons` are the interpreters of peers (True) and of Shardmill (False).
    """
    outcomes = [Outcome(variant) for variant in variants]
    for number in range(rounds):
        for outcome in outcomes:
            variant, python = outcome.variant, pythons[outcome.variant.needs is not None]
            if python is None:
                outcome.left_out = "the peers' environment is not there: make peers"
            if outcome.left_out or python is None:
                continue
            try:
                turn, found = one_turn(variant, python, few, source, work / "turn", workers, look=number == 0)
                if found is not None:
                    right = found if right is None else right
                    outcome.checked = check(right, found, variant.options)
                outcome.turns.append(turn)
                print(f"  round {number + 1}: {variant.name}: {turn.all.wall_seconds:.1f} s", flush=True)
            except (Failed, Incomparable) as error:
                if right is None:
                    raise SystemExit(f"nothing to compare with: {variant.name}: {error}") from error
                outcome.left_out, outcome.turns = str(error), []
                print(f"  {variant.name} is left out: {error}", flush=True)
    return outcomes


def one_turn(
    variant: Variant, python: Path, few: Input, source: Input, work: Path, workers: int, *, look: bool
) -> tuple[Turn, Found | None]:
    """Run a variant in a process of its own; also what it wrote, if `look` and it writes something."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    errand = Errand(
        variant.run, variant.read if look else None, variant.options, few, source, work, workers, variant.prepare
    )
    hear, say = os.pipe()
    wait, go = os.pipe()
    environment = {**os.environ, **_QUIET, "PYTHONPATH": str(REPOSITORY)}
    command = [str(python), "-W", "ignore", "-m", "benchmarks.comparison.child", errand.to_json(), str(say), str(wait)]
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, pass_fds=(say, wait), cwd=work
        )
    os.close(say)
    os.close(wait)
    try:
        turn = Turn(_cost(process, hear, go, work), _cost(process, hear, go, work))
        if errand.read is None:
            return turn, None
        if process.wait(LONGEST_SECONDS):
            raise Failed(_last_words(work))
        with np.load(work / "made.npz") as made:
            return turn, dict(zip(made["keys"].tolist(), made["values"], strict=True))
    finally:
        end(process.pid)
        process.wait()
        os.close(hear)
        os.close(go)
        shutil.rmtree(work, ignore_errors=True)


def _cost(process: subprocess.Popen[bytes], hear: int, go: int, work: Path) -> Cost:
    """Of the next call: the process says when it is about to begin, and when it is done."""
    _message(process, hear, work)
    before = cpu_seconds(process.pid)
    os.write(go, b"\n")
    said, peak = _message(process, hear, work)
    cost = Cost(said["wall"], cpu_seconds(process.pid) - before, peak)
    os.write(go, b"\n")
    return cost


def _message(process: subprocess.Popen[bytes], hear: int, work: Path) -> tuple[dict[str, float], int]:
    """The next line of the process, and the most memory that was seen until then."""
    line, peak, started = b"", 0, time.monotonic()
    while not line.endswith(b"\n"):
        if select.select([hear], [], [], _LOOK_SECONDS)[0]:
            line += (part := os.read(hear, 4096))
            if not part:
                raise Failed(_last_words(work))
        elif process.poll() is not None:
            raise Failed(_last_words(work))
        elif time.monotonic() - started > LONGEST_SECONDS:
            raise Failed(f"it took longer than {LONGEST_SECONDS} s")
        peak = max(peak, resident_bytes(process.pid))
    found: dict[str, float] = json.loads(line)
    return found, peak


def _last_words(work: Path) -> str:
    """The last line that names an error, or the last one."""
    lines = [line.strip() for line in (work / "log").read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return next(iter([*errors[-1:], *lines[-1:]]), "it ended without a word")[:300]
