"""What a comparison found: a table, a JSON file, a plot."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.comparison.rounds import Outcome

Result = Mapping[str, Any]
"""The content of a JSON file."""

OURS = ("numpy", "openvino", "pillow", "simplejpeg", "torch", "torchvision")
"""Packages of Shardmill's environment whose versions matter."""

HEAD = (
    "| | wall ms | CPU ms | a call: wall, CPU s | peak MiB | of the best peer: wall, CPU | of the limit: wall, CPU |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
)
MEASURES = ("wall_seconds", "cpu_seconds")


def write_report(
    stage: str, files: Path, few: Path, workers: int, outcomes: Sequence[Outcome], folder: Path, python: Path | None
) -> str:
    """Write `<stage>.json` and `<stage>.png` into the folder. Returns the table."""
    sizes = [file.stat().st_size for file in files.iterdir()]
    packages = {outcome.variant.needs for outcome in outcomes if outcome.variant.needs and outcome.turns}
    result = {
        "stage": stage,
        "images": len(sizes),
        "few": len(list(few.iterdir())),
        "bytes": sum(sizes),
        "workers": workers,
        "rounds": max((len(outcome.turns) for outcome in outcomes), default=0),
        "machine": machine(),
        "versions": versions(OURS),
        "peers": peer_versions(python, sorted(packages)),
        "outcomes": [outcome.to_json() for outcome in outcomes],
    }
    (folder / f"{stage}.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(result, folder / f"{stage}.png")
    return table(result)


def table(result: Result) -> str:
    """Markdown: a line a variant, medians of the rounds, milliseconds a sample; then what was left out."""
    measured = [outcome for outcome in result["outcomes"] if outcome["turns"]]
    best = {measure: _best(result, measured, measure) for measure in MEASURES}
    lines = [*HEAD]
    for outcome in measured:
        variant = outcome["variant"]
        name = f"**{_label(variant)}**" if variant["kind"] == "ours" else _label(variant)
        cells = [
            *(f"{statistics.median(per_sample(result, outcome, measure)):.2f}" for measure in MEASURES),
            ", ".join(f"{statistics.median(per_call(result, outcome, measure)):.2f}" for measure in MEASURES),
            f"{statistics.median(turn['all']['peak_bytes'] for turn in outcome['turns']) / 2**20:,.0f}",
            "",
            "",
        ]
        if variant["kind"] != "limit":
            limit = _limit(measured, variant["options"])
            cells[-2] = ", ".join(_ratio(result, outcome, best[measure], measure) for measure in MEASURES)
            cells[-1] = ", ".join(_ratio(result, outcome, limit, measure) for measure in MEASURES)
        note = f" ({variant['note']})" if variant["note"] else ""
        lines.append(f"| {name}{note} | " + " | ".join(cells) + " |")
    left_out = [outcome for outcome in result["outcomes"] if outcome["left_out"]]
    notes = [f"Left out: {outcome['variant']['name']}: {outcome['left_out']}" for outcome in left_out]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def standing(result: Result) -> list[str]:
    """Markdown: a line for each of ours, with the fastest peers that do the same work, and the limit."""
    measured = [outcome for outcome in result["outcomes"] if outcome["turns"]]
    best = {measure: _best(result, measured, measure) for measure in MEASURES}
    lines = []
    for ours in (outcome for outcome in measured if outcome["variant"]["kind"] == "ours"):
        limit = _limit(measured, ours["variant"]["options"])
        cells = [f"{result['stage']}: {ours['variant']['name']}"]
        for other in (best["cpu_seconds"], limit):
            cells += [f"{_ratio(result, ours, other, 'cpu_seconds')}"]
        for other in (best["wall_seconds"], limit):
            cells += [f"{_ratio(result, ours, other, 'wall_seconds')}"]
        peers = [peer["variant"]["name"] if peer else "–" for peer in (best["cpu_seconds"], best["wall_seconds"])]
        cells.append("; ".join(dict.fromkeys(peers)))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def per_sample(result: Result, outcome: Result, measure: str) -> list[float]:
    """Milliseconds, for each round: what all samples took beyond a few, by the samples beyond them.

    The few count with the median of the rounds, and at most with nine tenths: of few samples noise may take more.
    """
    beyond = result["images"] - result["few"]
    few = statistics.median(turn["few"][measure] for turn in outcome["turns"])
    return [
        max(turn["all"][measure] - few, 0.1 * turn["all"][measure], 1e-6) / beyond * 1e3 for turn in outcome["turns"]
    ]


def per_call(result: Result, outcome: Result, measure: str) -> list[float]:
    """Seconds, for each round: what a call on a few samples took beyond these samples."""
    each = per_sample(result, outcome, measure)
    return [
        max(turn["few"][measure] - result["few"] * milliseconds / 1e3, 0)
        for turn, milliseconds in zip(outcome["turns"], each, strict=True)
    ]


def _label(variant: Result) -> str:
    return f"limit: {variant['name']}" if variant["kind"] == "limit" else str(variant["name"])


def _best(result: Result, measured: Sequence[Result], measure: str) -> Result | None:
    """The peer of the least time among those that do the same work."""
    peers = [each for each in measured if each["variant"]["kind"] == "peer" and each["variant"]["same_work"]]
    return min(peers, key=lambda each: statistics.median(per_sample(result, each, measure)), default=None)


def _limit(measured: Sequence[Result], options: Mapping[str, Any]) -> Result | None:
    """That of the same precision, or the only one."""
    limits = [outcome for outcome in measured if outcome["variant"]["kind"] == "limit"]
    wanted = "bfloat16" if options.get("bfloat16") or options.get("precision") == "bfloat16" else "float32"
    same = [each for each in limits if each["variant"]["options"].get("precision", "float32") == wanted]
    return next(iter([*same, *limits]), None)


def _ratio(result: Result, outcome: Result, other: Result | None, measure: str) -> str:
    """The median of the rounds' ratios: what is compared was measured in one round."""
    if other is None:
        return "–"
    pairs = zip(per_sample(result, outcome, measure), per_sample(result, other, measure), strict=False)
    return f"{statistics.median(one / two for one, two in pairs):.2f}"


def plot(result: Result, target: Path) -> None:
    """Bars: wall and CPU milliseconds a sample of each variant, with the least and the most of the rounds."""
    from matplotlib.figure import Figure

    measured = [outcome for outcome in result["outcomes"] if outcome["turns"]][::-1]
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(measured)), layout="constrained")
    axes = figure.subplots()
    for shift, name, label in ((0.2, "cpu_seconds", "CPU"), (-0.2, "wall_seconds", "wall")):
        values = [per_sample(result, outcome, name) for outcome in measured]
        middle = [statistics.median(each) for each in values]
        spread = [
            [m - min(v) for m, v in zip(middle, values, strict=True)],
            [max(v) - m for m, v in zip(middle, values, strict=True)],
        ]
        places = [number + shift for number in range(len(measured))]
        color = "#1f77b4" if label == "CPU" else "#9ecae1"
        bars = axes.barh(places, middle, 0.38, xerr=spread, label=label, color=color)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks(range(len(measured)), [_label(outcome["variant"]) for outcome in measured])
    for text, outcome in zip(axes.get_yticklabels(), measured, strict=True):
        text.set_fontweight("bold" if outcome["variant"]["kind"] == "ours" else "normal")
    axes.margins(x=0.12)
    axes.set_xlabel("ms a sample")
    axes.set_title(f"{result['stage']}: {result['images']:,} images, medians, and range; rounds: {result['rounds']}")
    axes.legend()
    figure.savefig(target, dpi=100, metadata={"Software": None})


def machine() -> str:
    """The processor, and how many cores of it may be used."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of the packages that are installed here."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peer_versions(python: Path | None, packages: Sequence[str]) -> dict[str, str]:
    """Of the packages that are installed among the peers."""
    if python is None or not packages:
        return {}
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    told = subprocess.run([str(python), "-c", code, *packages], check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(zip(packages, told.split(), strict=True))
