"""A part of an image is that part of the whole, byte for byte, and of a JPEG nothing below it is decoded."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shardmill.errors import Rejected
from shardmill.images import decode, decode_image, open_image, reasons
from shardmill.images.budget import PixelBudget
from tests.pictures import ADOBE_RGB, Pixels, grey_profile, save

RNG = np.random.default_rng(0)
KINDS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "a profile": {"icc_profile": ADOBE_RGB},
    "named in RGB": {"keep_rgb": True},
    "grey": {"mode": "L"},
    "grey with a profile": {"mode": "L", "icc_profile": grey_profile(1.8)},
    "CMYK": {"mode": "CMYK"},
    "PNG": {"name": "PNG"},
}
BY_TURBO = ("440", "411")
"""Samplings that Pillow does not write."""


def noise(height: int, width: int) -> Pixels:
    """Coarse, so that the rows of colours that a row lies between differ."""
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def stored(kind: str, height: int, width: int, orientation: int) -> tuple[bytes, str]:
    """A file, and the component that it is."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind in BY_TURBO:
        data = simplejpeg.encode_jpeg(noise(height, width), 90, "RGB", kind)
        told = exif.tobytes()
        return data[:2] + b"\xff\xe1" + (len(told) + 2).to_bytes(2, "big") + told + data[2:], "jpg"
    options = dict(KINDS[kind])
    name = options.pop("name", "JPEG")
    image = Image.fromarray(noise(height, width)).convert(options.pop("mode", "RGB"))
    return save(image, name, exif=exif, **options), "jpg" if name == "JPEG" else "png"


def part(data: bytes, component: str, top: int, left: int, height: int, width: int) -> Pixels:
    """These pixels, decoded alone."""
    pixels, convert = open_image(data, component).decode(top, left, height, width)
    if convert is not None:
        convert(pixels)
    return pixels


@pytest.mark.parametrize("kind", [*KINDS, *BY_TURBO])
@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 50)),
    orientation=st.integers(1, 8),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    extent=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_part_is_that_of_the_whole(
    kind: str, shape: tuple[int, int], orientation: int, corner: tuple[float, float], extent: tuple[float, float]
) -> None:
    data, component = stored(kind, *shape, orientation)
    whole = decode_image(data, component)
    assert open_image(data, component).size == whole.shape[:2]
    top, left = (int(at * (side - 1)) for at, side in zip(corner, whole.shape, strict=False))
    height, width = whole.shape[0] - top, whole.shape[1] - left
    height, width = max(1, int(height * extent[0])), max(1, int(width * extent[1]))
    made = part(data, component, top, left, height, width)
    assert made.flags.writeable
    assert min(made.strides) > 0
    assert np.array_equal(made, whole[top : top + height, left : left + width])


@pytest.mark.parametrize("kind", ["4:4:4", "4:2:2", "4:2:0", "grey", *BY_TURBO])
def test_each_last_row_is_that_of_the_whole(kind: str) -> None:
    data, _ = stored(kind, 70, 33, 1)
    whole = decode_image(data, "jpg")
    for rows in range(1, 71):
        assert np.array_equal(part(data, "jpg", 0, 0, rows, 33), whole[:rows])


def entropy_coded(data: bytes) -> slice:
    start = data.index(b"\xff\xda")
    return slice(start + 2 + int.from_bytes(data[start + 2 : start + 4], "big"), len(data) - 2)


def broken(data: bytes, share: float) -> bytes:
    """With a marker in the data, so far down."""
    scan = entropy_coded(data)
    at = scan.start + int((scan.stop - scan.start) * share)
    return data[:at] + b"\xff\xd9" + data[at:]


def test_what_lies_below_a_part_is_not_decoded() -> None:
    data, _ = stored("4:2:0", 160, 64, 1)
    whole, damaged = decode_image(data, "jpg"), broken(data, 0.9)
    with pytest.raises(Rejected, match=reasons.CORRUPT_IMAGE):
        decode_image(damaged, "jpg")
    assert np.array_equal(part(damaged, "jpg", 8, 8, 32, 40), whole[8:40, 8:48])
    for damage, (top, height) in itertools.product((0.0, 0.1, 0.5), ((0, 100), (99, 1))):
        with pytest.raises(Rejected, match=reasons.CORRUPT_IMAGE):
            part(broken(data, damage), "jpg", top, 0, height, 64)


@pytest.mark.parametrize("lost", [1, 2, 3, 500])
def test_a_file_that_was_cut_off_has_no_parts(lost: int) -> None:
    data, _ = stored("4:2:0", 160, 64, 1)
    with pytest.raises(Rejected, match=reasons.CORRUPT_IMAGE):
        part(data[:-lost], "jpg", 0, 0, 16, 16)


@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "PNG"])
def test_what_was_decoded_gives_back_its_place_in_the_budget(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, component = stored(kind, 60, 40, 1)
    monkeypatch.setattr(decode, "in_work", PixelBudget(60 * 40))
    with ThreadPoolExecutor(1) as other:
        for box in ((0, 0, 60, 40), (0, 0, 8, 8)) * 2:
            part(data, component, *box)
            open_image(data, component)
            other.submit(part, data, component, *box).result(timeout=60)
