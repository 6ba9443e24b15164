"""The picture of a dataset's history is drawn whatever was recorded."""

import pytest

from resources.history import Point, draw_history


@pytest.mark.parametrize("rates", [[], [None, None], [0.0], [5.0, None]], ids=str)
def test_it_is_drawn_with_and_without_rates(rates: list[float | None]) -> None:
    points = [Point(1e9 + number, 0, rate) for number, rate in enumerate(rates)]
    assert draw_history({"packed": points, "embedded": points}).startswith(b"\x89PNG")
