"""The picture of a map: a small PNG, coloured by class."""

import io
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LEGEND_CLASSES = 20
DRAWN_POINTS = 10_000
UNLABELLED = "#b4b4b4"

Colour = str | tuple[float, float, float, float]

_lock = threading.Lock()  # matplotlib's fonts and settings belong to the process


def draw_scatter(points: NDArray[np.floating], labels: Sequence[str | None], title: str) -> bytes:
    """A PNG under 150 kB of points [n, 2], coloured by label; None is grey.

    Has a legend for up to 20 classes. Of more than 10,000 points a fixed sample is drawn. Points that are not
    finite are left out. Safe to call from several threads.

    Raises:
        ValueError: There is not one label a point.
    """
    if len(points) != len(labels):
        raise ValueError(f"{len(points)} points, {len(labels)} labels")
    rows = np.flatnonzero(np.isfinite(points).all(axis=1)) if len(points) else np.empty(0, np.int64)
    # Shuffled, so that the last class does not cover the others.
    rows = np.random.default_rng(0).permutation(rows)[:DRAWN_POINTS]
    with _lock:
        return _draw(points[rows], [labels[row] for row in rows.tolist()], title, len(points))


def _draw(points: NDArray[np.floating], labels: list[str | None], title: str, total: int) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours = _colours(labels)
    figure = Figure(figsize=(8.4, 5.6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    area = float(np.clip(12_000 / max(len(points), 1), 5, 36))
    if len(points):
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=area,
            c=[colours[label] for label in labels],
            alpha=0.75,
            linewidths=0,
        )
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=18, parse_math=False)
    drawn = f"{total:,} samples" if len(points) == total else f"{len(points):,} of {total:,} samples"
    classes = sum(label is not None for label in colours)
    subtitle = f"{drawn}, {classes} classes" if classes > 1 else drawn
    axes.text(0, 1.015, subtitle, transform=axes.transAxes, fontsize=9, color="#606060")
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_facecolor("#fafafa")
    for spine in axes.spines.values():
        spine.set_color("#d0d0d0")
    if 1 < len(colours) <= LEGEND_CLASSES + 1 and classes <= LEGEND_CLASSES:
        handles = [Line2D([], [], marker="o", linestyle="", markersize=6, color=colour) for colour in colours.values()]
        names = ["no label" if label is None else _short(label) for label in colours]
        legend = axes.legend(
            handles,
            names,
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            borderaxespad=0,
            frameon=False,
            fontsize=8,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    picture = Image.fromarray(pixels).convert("RGB")
    file = io.BytesIO()
    # A palette makes it a third as large; nobody sees the difference.
    palette = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(file, "PNG", optimize=True)
    return file.getvalue()


def _colours(labels: list[str | None]) -> dict[str | None, Colour]:
    """A colour a label, the names sorted, grey for None last; the same labels get the same colours."""
    import matplotlib

    names = sorted({label for label in labels if label is not None})
    if len(names) <= 10:
        palette = matplotlib.colormaps["tab10"]
        colours: dict[str | None, Colour] = {name: palette(i) for i, name in enumerate(names)}
    elif len(names) <= LEGEND_CLASSES:
        palette = matplotlib.colormaps["tab20"]
        colours = {name: palette(i) for i, name in enumerate(names)}
    else:
        palette = matplotlib.colormaps["turbo"]
        colours = {name: palette(i / (len(names) - 1)) for i, name in enumerate(names)}
    if None in labels:
        colours[None] = UNLABELLED
    return colours


def _short(label: str) -> str:
    return label if len(label) <= 24 else label[:23] + "…"
