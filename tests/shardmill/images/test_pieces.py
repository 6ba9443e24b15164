"""A TIFF whose pixels, or whose tags about them, are not all in the file is refused, and no other is."""

import io
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from shardmill.errors import Rejected
from shardmill.images import decode_image, reasons, verify_image
from tests.pictures import save

NOISE = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
DIRECTORY_LAST = (None, "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma")
DIRECTORY_FIRST = (None, "lzw", "deflate", "packbits", "zstd", "jpeg")


def tiff(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **options)
    return file.getvalue()


def files() -> Iterator[tuple[str, bytes]]:
    grey = Image.fromarray(NOISE[:, :, 0])
    for compression in DIRECTORY_LAST:
        for image in (Image.fromarray(NOISE), grey):
            options = {"tiffinfo": {317: 2}} if compression in ("tiff_lzw", "tiff_deflate") else {}
            yield f"{compression}, {image.mode}", save(image, "TIFF", compression=compression, **options)
    for fax in ("group3", "group4", "tiff_ccitt"):
        yield fax, save(grey.convert("1"), "TIFF", compression=fax)
    for compression in DIRECTORY_FIRST:
        for layout in ({}, {"tile": (16, 16)}, {"rowsperstrip": 7}):
            name = f"{compression} behind the directory, {layout}"
            yield name, tiff(NOISE, photometric="rgb", compression=compression, **layout)
            planes = np.ascontiguousarray(np.moveaxis(NOISE, -1, 0))
            options = {"photometric": "rgb", "planarconfig": "separate", "compression": compression}
            yield f"{name}, in planes", tiff(planes, **options, **layout)
            if compression in ("lzw", "deflate", "zstd"):
                predicted = {"photometric": "rgb", "compression": compression, "predictor": True}
                yield f"{name}, predicted", tiff(NOISE, **predicted, **layout)
    yield "big", tiff(NOISE, photometric="rgb", bigtiff=True, byteorder=">")


FILES = dict(files())


@pytest.mark.parametrize("name", FILES)
def test_a_tiff_that_was_cut_is_refused_or_has_all_pixels(name: str) -> None:
    whole = FILES[name]
    pixels = decode_image(whole, "tif")
    cuts = {*range(1, 120), *range(120, len(whole), max(1, len(whole) // 60))}
    accepted = sum(check_cut(whole[:-lost], pixels) for lost in cuts)
    assert accepted < (500 if "tile" in name else 60)  # padding of tiles, values of tags that say nothing of pixels


def refusal(function: Callable[..., Any], data: bytes) -> str | None:
    try:
        function(data, "tif")
    except Rejected as refused:
        return refused.reason
    return None


def check_cut(data: bytes, pixels: np.ndarray) -> bool:
    """Whether it is accepted: with these pixels, or not at all."""
    refused = refusal(decode_image, data)
    assert refusal(verify_image, data) == refused
    if refused is None:
        assert np.array_equal(decode_image(data, "tif"), pixels)
    else:
        assert refused in (reasons.CORRUPT_IMAGE, reasons.NOT_AN_IMAGE)
    return refused is None


def entries(data: bytes) -> dict[int, int]:
    """Tag → where its entry stands."""
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    places = range(directory + 2, directory + 2 + 12 * count, 12)
    return {struct.unpack_from("<H", data, at)[0]: at for at in places}


def with_entry(data: bytes, number: int, **changed: int) -> bytes:
    """With another `tag`, `kind`, `count` or `value` in the entry of this number."""
    file, at = bytearray(data), entries(data)[number]
    old = dict(zip(("tag", "kind", "count", "value"), struct.unpack_from("<HHII", data, at), strict=True))
    file[at : at + 12] = struct.pack("<HHII", *(old | changed).values())
    return bytes(file)


STRIPS = {compression: save(Image.fromarray(NOISE), "TIFF", compression=compression) for compression in DIRECTORY_LAST}


def test_how_long_an_uncompressed_strip_is_need_not_be_told_truly() -> None:
    for raw in (STRIPS[None], tiff(NOISE, photometric="rgb")):
        for changed in ({"value": 0}, {"value": 9}, {"value": 1 << 30}, {"tag": 60000}):
            data = with_entry(raw, 279, **changed)
            verify_image(data, "tif")
            assert np.array_equal(decode_image(data, "tif"), NOISE)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd"])
def test_a_compressed_strip_without_a_length_reaches_to_what_follows(compression: str) -> None:
    data = tiff(NOISE, photometric="rgb", compression=compression.removeprefix("tiff_"))
    for changed in ({"value": 0}, {"tag": 60000}):
        file = with_entry(data, 279, **changed)
        assert np.array_equal(decode_image(file, "tif"), NOISE)
        for lost in range(1, 100):
            check_cut(file[:-lost], NOISE)


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 262, 273, 277, 278])
def test_a_tag_of_the_pixels_that_cannot_be_read_refuses_the_file(tag: int) -> None:
    for changed in ({"kind": 0}, {"kind": 99}, {"count": 0}, {"count": 1 << 30}, {"kind": 11}):
        with pytest.raises(Rejected, match=reasons.CORRUPT_IMAGE):
            decode_image(with_entry(STRIPS[None], tag, **changed), "tif")


def test_strips_that_are_no_pixels_refuse_the_file() -> None:
    plain = tiff(NOISE, photometric="rgb", rowsperstrip=7)
    offsets = struct.unpack_from("<I", plain, entries(plain)[273] + 8)[0]
    for place in (0, 4, len(plain), 0xFFFFFFFF):
        data = bytearray(plain)
        data[offsets : offsets + 4] = struct.pack("<I", place)
        with pytest.raises(Rejected, match="strip or tile 0 of the TIFF is not in the file"):
            decode_image(bytes(data), "tif")
    for fewer in (1, 5):
        with pytest.raises(Rejected, match=f"names {fewer} of 6 strips"):
            decode_image(with_entry(plain, 273, count=fewer), "tif")
    last = tiff(NOISE, photometric="rgb")
    data = with_entry(last, 273, value=8)
    with pytest.raises(Rejected, match="reaches into what follows"):
        decode_image(data, "tif")


def test_a_bomb_is_called_one() -> None:
    with pytest.raises(Rejected, match=reasons.TOO_MANY_PIXELS):
        verify_image(with_entry(with_entry(STRIPS[None], 256, value=60_000, kind=4), 257, value=60_000, kind=4), "tif")


@pytest.mark.parametrize("options", [{}, {"tile": (64, 64)}, {"planarconfig": "separate"}], ids=str)
def test_a_jpeg_in_a_tiff_that_lost_pixels_refuses_the_file(options: dict[str, Any]) -> None:
    """In whichever strip or tile; libtiff only warns."""
    noise = np.random.default_rng(3).integers(0, 256, (128, 128, 3), np.uint8)
    if "planarconfig" in options:
        noise = np.moveaxis(noise, -1, 0)
    data = tiff(noise, compression="jpeg", photometric="rgb", **{"rowsperstrip": 64, **options})
    verify_image(data, "tiff")
    assert decode_image(data, "tiff").shape == (128, 128, 3)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        pieces = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    assert len(pieces) > 1
    for at, count in pieces:
        middle = at + count // 2
        for damaged in (
            data[:middle] + bytes(600) + data[middle + 600 :],
            data[:middle] + b"\xff\xd9" + data[middle + 2 :],
        ):
            for function in (verify_image, decode_image):
                assert refusal(function, damaged) == reasons.CORRUPT_IMAGE
