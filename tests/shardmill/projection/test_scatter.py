import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from shardmill.projection.scatter import draw_scatter


def blobs(classes: int, each: int) -> tuple[np.ndarray, list[str | None]]:
    random = np.random.default_rng(0)
    centres = random.normal(size=(classes, 2)) * 6
    points = np.concatenate([centre + random.normal(size=(each, 2)) for centre in centres])
    return points.astype(np.float32), [f"class {i:02}" for i in range(classes) for _ in range(each)]


@pytest.mark.parametrize(("classes", "each"), [(1, 1), (3, 200), (20, 1000), (200, 500)])
def test_picture_is_small(classes: int, each: int):
    picture = draw_scatter(*blobs(classes, each), title="pets / 2026-11-01")
    assert len(picture) < 150_000
    image = Image.open(io.BytesIO(picture))
    assert image.format == "PNG"
    assert 500 < image.width < 1200


def test_legend_only_up_to_twenty_classes(monkeypatch):
    from matplotlib.axes import Axes

    legends = []

    def legend(_axes: Axes, _handles: list[object], names: list[str], **_: object) -> "_Legend":
        legends.append(names)
        return _Legend()

    monkeypatch.setattr(Axes, "legend", legend)
    points, labels = blobs(20, 3)
    draw_scatter(points, [*labels[:-1], None], "t")
    draw_scatter(*blobs(21, 3), "t")
    assert legends == [[*(f"class {i:02}" for i in range(20)), "no label"]]


class _Legend:
    def get_texts(self) -> list[object]:
        return []


def test_the_same_points_give_the_same_bytes_from_any_thread():
    points, labels = blobs(4, 50)
    with ThreadPoolExecutor(4) as pool:
        pictures = set(pool.map(lambda _: draw_scatter(points, labels, "t"), range(8)))
    assert len(pictures) == 1


def test_odd_input_is_drawn():
    points = np.array([[0, 0], [np.nan, 1], [2, np.inf], [1, 1]])
    assert draw_scatter(points, ["$x_{", None, "a_$", "_hidden"], "a $title_{ with dollars")
    assert draw_scatter(np.empty((0, 2), np.float32), [], "empty")
    assert draw_scatter(np.zeros((3, 2)), [None] * 3, "no classes")
    with pytest.raises(ValueError, match="4 points, 1 labels"):
        draw_scatter(points, ["a"], "t")
