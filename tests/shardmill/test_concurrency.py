"""Threads over a stream: results in order, and no more ahead than was asked for."""

from collections.abc import Iterator

import pytest

from shardmill.concurrency import bounded_map


@pytest.mark.parametrize(("most", "ahead"), [(float("inf"), 8), (30, 3), (1, 1)])
@pytest.mark.parametrize("quick", [None, 3])
def test_no_more_is_ahead_than_so_many_or_so_much(most: float, ahead: int, quick: int | None) -> None:
    """Each item is of size ten; every third may be done in this thread."""
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield number

    is_quick = None if quick is None else lambda number: number % quick == 0
    for number, result in enumerate(bounded_map(str, items(), 4, is_quick, lambda _: 10, most)):
        assert result == str(number)
        assert taken - number <= ahead
    assert taken == 40
