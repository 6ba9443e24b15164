"""Large images wait for each other, small ones do not, and nobody waits for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from shardmill.images import budget, decode_image, verify_image
from shardmill.images.budget import PixelBudget
from tests.pictures import save


class Counting(PixelBudget):
    """Knows how many pixels were held at most."""

    most = 0

    def take(self, pixels: int) -> None:
        super().take(pixels)
        self.most = max(self.most, self._held)


def work(room: PixelBudget, pixels: list[int]) -> None:
    with room:
        for each in pixels:
            room.take(each)
            threading.Event().wait(0.001)


def test_no_more_is_held_than_there_is_but_by_one_alone() -> None:
    room = Counting(100)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: work(room, [40]), range(60)))
    assert room.most == 80
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda size: work(room, [size]), [300, 20] * 20))
    assert room.most == 300
    assert room._held == 0


def test_who_holds_some_does_not_wait() -> None:
    """Else two threads that each hold half would wait for each other."""
    room = Counting(100)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: work(room, [50, 50, 50]), range(40), timeout=60))
    assert room._held == 0


def test_an_error_gives_back_what_was_taken() -> None:
    room = PixelBudget(100)

    def fail() -> None:
        with room, room:
            room.take(70)
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert room._held == 0


def test_decoding_takes_room_for_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Counting(40 * 30)
    monkeypatch.setattr("shardmill.images.decode.in_work", room)
    files = [
        (save(Image.new("RGB", (40, 30)), name), suffix) for suffix, name in (("png", "PNG"), ("jpg", "JPEG"))
    ] * 20
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda file: decode_image(*file), files))
        list(pool.map(lambda file: verify_image(*file), files))
    assert room.most == 40 * 30
    assert room._held == 0
    assert all(np.array_equal(pixels, np.zeros((30, 40, 3))) for pixels in made)


def test_the_processs_own_holds_an_image_at_the_limit() -> None:
    assert budget.in_work._pixels == budget.MAX_PIXELS
