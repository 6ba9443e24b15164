"""Materializations over time, drawn: rejects and throughput."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Point:
    """One materialization."""

    timestamp: float
    """Seconds since the epoch."""
    rejects: int
    rate: float | None
    """Samples per second; None if some of the shards stood already."""


def draw_history(points: Mapping[str, Sequence[Point]]) -> bytes:
    """A PNG of 640 x 420 pixels: above the rejects of each asset, below its samples per second."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 4.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    for asset, items in points.items():
        times = [datetime.fromtimestamp(item.timestamp, UTC) for item in items]
        above.plot(times, [item.rejects for item in items], marker=".", label=asset)
        timed = [(time, item.rate) for time, item in zip(times, items, strict=True) if item.rate is not None]
        below.plot([time for time, _ in timed], [rate for _, rate in timed], marker=".", label=asset)
    above.set_ylabel("rejects")
    above.set_ylim(bottom=0, top=max(1, above.get_ylim()[1]))
    above.yaxis.set_major_locator(MaxNLocator(integer=True))
    above.legend(fontsize="small", ncols=len(points), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    below.set_ylabel("samples per second")
    below.set_xlabel("time of materialization, UTC")
    if any(item.rate for items in points.values() for item in items):  # a logarithmic axis needs something to show
        below.set_yscale("log")  # the assets differ by orders of magnitude
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    below.xaxis.set_major_locator(locator)
    below.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    for axes in (above, below):
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
