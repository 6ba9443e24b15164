"""Losses that libjpeg is silent about: scans that never came, and zeros where a file was never written."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shardmill.errors import Rejected
from shardmill.images import decode_image, reasons, verify_image
from tests.pictures import save, smooth

RNG = np.random.default_rng(0)
# Like a photograph: smooth, with details.
PHOTOGRAPH = np.clip(smooth(400, 600) + RNG.normal(0, 12, (400, 600, 3)), 0, 255).astype(np.uint8)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"optimize": True},
    {"progressive": True},
    {"subsampling": 0},
    {"restart_marker_rows": 1},
)


def refusal(function: Callable[..., Any], data: bytes) -> str | None:
    try:
        function(data, "jpg")
    except Rejected as refused:
        return refused.reason
    return None


def scan_starts(data: bytes) -> list[int]:
    return [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    for mode in ("RGB", "L", "CMYK"):
        data = save(Image.fromarray(PHOTOGRAPH).convert(mode), "JPEG", progressive=True)
        verify_image(data, "jpg")
        scans = scan_starts(data)
        assert len(scans) >= 6
        for at in scans[1:]:
            for end in (b"\xff\xd9", b"\xff\xd9" + data):
                for function in (verify_image, decode_image):
                    with pytest.raises(Rejected, match=r"truncated or corrupt image: the last scans of the JPEG"):
                        function(data[:at] + end, "jpg")


def test_a_second_picture_behind_the_first_has_scans_of_its_own() -> None:
    data = save(Image.fromarray(PHOTOGRAPH), "JPEG", progressive=True)
    for function in (verify_image, decode_image):
        function(data + data * 20, "jpg")


@pytest.mark.parametrize("options", OPTIONS)
def test_a_hole_of_zeros_is_refused(options: dict[str, Any]) -> None:
    data = save(Image.fromarray(PHOTOGRAPH), "JPEG", quality=85, **options)
    pixels = decode_image(data, "jpg").astype(int)
    for size, at in product((100, 600, 4096), RNG.integers(scan_starts(data)[0] + 16, len(data) - 4098, 40).tolist()):
        holed = data[:at] + bytes(size) + data[at + size :]
        refused = refusal(decode_image, holed)
        assert refusal(verify_image, holed) == refused
        if "progressive" in options and refused is None:  # the last bit of the blocks' brightness
            assert np.abs(decode_image(holed, "jpg") - pixels).max() <= 8
        else:
            assert refused == reasons.CORRUPT_IMAGE


def flats() -> dict[str, Image.Image]:
    y, x = np.mgrid[0:320, 0:480]
    half = PHOTOGRAPH[:320, :480].copy()
    half[40:] = 200
    grey = {"to the right": x // 2, "down": y // 2, "chequered": (x // 8 + y // 8) % 2 * 255}
    grey |= {"dots": 255 * ((x % 8 == 0) & (y % 8 == 0)), "stripes": x // 16 % 2 * 99}
    made = {name: Image.fromarray(np.repeat(values[..., None], 3, 2).astype(np.uint8)) for name, values in grey.items()}
    colours = {name: Image.new("RGB", (480, 320), name) for name in ("white", "black", "red", "#808080")}
    return {**made, **colours, "half": Image.fromarray(half), "ramp": Image.fromarray(smooth(320, 480))}


FLATS = flats()


@pytest.mark.parametrize("name", FLATS)
def test_zeros_that_an_encoder_writes_for_flat_areas_are_none(name: str) -> None:
    longest = 0
    for mode in ("RGB", "L", "CMYK"):
        for options in OPTIONS[:3]:
            for quality in (20, 75, 100):
                data = save(FLATS[name].convert(mode), "JPEG", quality=quality, **options)
                verify_image(data, "jpg")
                longest = max(longest, bytes(64) in data)
    if name in ("white", "half"):
        assert longest
