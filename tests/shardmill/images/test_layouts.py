"""Pixels are those of the file in every layout that is accepted, by a second decoder; the others are refused truly."""

import io
import itertools
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from shardmill.errors import Rejected
from shardmill.images import decode_image, decode_mask, reasons, verify_image
from tests.pictures import chunk, png, save, smooth

RNG = np.random.default_rng(0)
CHANNELS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "palette": 1, "separated": 4, "ycbcr": 3, "cielab": 3}
EXTRAS = ((), ("assocalpha",), ("unassalpha",), ("unspecified",))
HEIGHT, WIDTH = 37, 53  # no multiple of a tile, a strip or a byte


def ramps(channels: int, bits: int) -> npt.NDArray[Any]:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    values = np.stack([(y * 6 + x * 2 * (n + 1) + n * 37) % 256 for n in range(channels)], axis=-1)
    dtype = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    return (values / 255 * ((1 << bits) - 1)).round().astype(dtype)


def tiffs(photometric: str, bits: int) -> Iterator[tuple[str, bytes, npt.NDArray[np.floating[Any]]]]:
    """Every file that tifffile writes: what it is, its bytes, and the colours [height, width, 3], 0 to 255."""
    if photometric == "palette" and bits > 8:
        return
    for planar, order, compression, tile, predictor, extra in itertools.product(
        ("contig", "separate"),
        "<>",
        (None, "lzw", "deflate", "packbits", "zstd", "jpeg"),
        (None, (16, 16)),
        (False, True),
        EXTRAS,
    ):
        channels = CHANNELS[photometric] + len(extra)
        if (channels == 1 and planar == "separate") or (predictor and compression not in ("lzw", "deflate", "zstd")):
            continue
        values = ramps(channels, bits)
        largest = (1 << bits) - 1
        if extra == ("assocalpha",):
            alpha = values[..., -1:] / largest
            values[..., :-1] = (values[..., :-1] * alpha).round()
        data = np.ascontiguousarray(np.moveaxis(values, -1, 0)) if planar == "separate" else values
        options: dict[str, Any] = {"bitspersample": bits} if bits in (1, 2, 4, 12) else {}
        if photometric == "palette":
            options["colormap"] = np.random.default_rng(1).integers(0, 65536, (3, 1 << bits)).astype(np.uint16)
        if photometric == "ycbcr":
            options["subsampling"] = (1, 1)
        file = io.BytesIO()
        try:
            tifffile.imwrite(
                file,
                data[..., 0] if channels == 1 else data,
                photometric=photometric,
                planarconfig=planar if channels > 1 else None,
                byteorder=order,
                compression=compression,
                tile=tile,
                extrasamples=extra or None,
                rowsperstrip=None if tile else 16,
                predictor=predictor or None,
                **options,
            )
        except (ValueError, imagecodecs.Jpeg8Error):
            continue  # no such file
        with tifffile.TiffFile(io.BytesIO(file.getvalue())) as read:
            stored = read.pages[0].asarray()
        stored = stored[..., None] if channels == 1 else np.moveaxis(stored, 0, -1) if planar == "separate" else stored
        wanted = colours(photometric, stored, largest, extra, options.get("colormap"))
        yield f"{planar} {order} {compression} {tile} {predictor} {extra}", file.getvalue(), wanted


def colours(
    photometric: str, stored: npt.NDArray[Any], largest: int, extra: tuple[str, ...], palette: npt.NDArray[Any] | None
) -> npt.NDArray[np.floating[Any]]:
    values = stored[..., : CHANNELS[photometric]] / largest
    if photometric == "palette":
        assert palette is not None
        values = palette.T[stored[..., 0]] / 65535
    elif photometric == "miniswhite":
        values = 1 - values
    elif photometric == "separated":
        values = (1 - values[..., :3]) * (1 - values[..., 3:])
    elif photometric == "ycbcr":
        light, blue, red = (values[..., n] * 255 - (128 if n else 0) for n in range(3))
        rgb = [light + 1.402 * red, light - 0.344136 * blue - 0.714136 * red, light + 1.772 * blue]
        values = np.stack(rgb, axis=-1).clip(0, 255) / 255
    if extra == ("assocalpha",):
        values = values + (1 - stored[..., -1:] / largest)
    elif extra == ("unassalpha",):
        alpha = stored[..., -1:] / largest
        values = values * alpha + 1 - alpha
    return np.broadcast_to(values * 255, (HEIGHT, WIDTH, 3))


def refusal(function: Callable[..., Any], *args: Any) -> str | None:
    try:
        function(*args)
    except Rejected as refused:
        return refused.reason
    return None


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16, 32])
@pytest.mark.parametrize("photometric", CHANNELS)
def test_tiffs_of_every_layout(photometric: str, bits: int) -> None:
    found = Counter[str]()
    for name, data, wanted in tiffs(photometric, bits):
        refused = refusal(verify_image, data, "tif")
        assert refusal(decode_image, data, "tif") == refused, name
        if refused is not None:
            assert refused == reasons.UNSUPPORTED_PIXELS, name
            found["unsupported"] += "jpeg" not in name
            continue
        pixels = decode_image(data, "tif")
        if photometric == "ycbcr" and "jpeg" in name:
            continue  # tifffile gives RGB here
        tolerance = 12 if "jpeg" in name else 3.5 if "alpha" in name else 1.5
        assert np.abs(pixels - wanted).max() <= tolerance, name
        found["right"] += 1
    if bits == 32 or photometric == "cielab":
        assert not found["right"]
    elif bits in (8, 16) and photometric in ("rgb", "minisblack", "miniswhite", "separated"):
        assert found["right"] >= 24
        if photometric == "rgb":
            assert not found["unsupported"]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float16", "float32", "float64"])
def test_tiffs_of_other_numbers_are_unsupported(dtype: str) -> None:
    for shape, photometric in (((9, 9), "minisblack"), ((9, 9, 3), "rgb")):
        file = io.BytesIO()
        tifffile.imwrite(file, np.ones(shape, dtype), photometric=photometric)
        for function in (verify_image, decode_image, decode_mask):
            with pytest.raises(Rejected, match=r"unsupported pixel format: \d+-bit (signed integers|floats), "):
                function(file.getvalue(), "tif")


def test_a_tiff_of_many_bands_is_unsupported_and_says_so() -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((9, 9, 13), np.uint8), photometric="minisblack", planarconfig="contig")
    for function in (verify_image, decode_image):
        with pytest.raises(Rejected, match="unsupported pixel format: 13 bands"):
            function(file.getvalue(), "tif")


def test_a_colour_map_of_eight_bits_is_understood() -> None:
    palette = np.array([[0, 10], [0, 20], [0, 30]], np.uint16)
    for scale in (1, 257):
        file = io.BytesIO()
        labels = np.array([[0, 1]], np.uint8)
        tifffile.imwrite(
            file, labels, photometric="palette", colormap=np.pad(palette * scale, ((0, 0), (0, 254))), bitspersample=8
        )
        assert decode_image(file.getvalue(), "tif").tolist() == [[[0, 0, 0], [10, 20, 30]]]
        assert np.array_equal(decode_mask(file.getvalue(), "tif"), labels)


def test_sixteen_bit_masks_of_any_layout_keep_their_values() -> None:
    labels = RNG.integers(0, 65536, (HEIGHT, WIDTH), np.uint16)
    for order, compression, photometric in itertools.product("<>", (None, "lzw"), ("minisblack", "miniswhite")):
        file = io.BytesIO()
        tifffile.imwrite(file, labels, byteorder=order, compression=compression, photometric=photometric)
        wanted = labels if photometric == "minisblack" else 65535 - labels
        assert np.array_equal(decode_mask(file.getvalue(), "tif"), wanted)


DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
BANDS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@pytest.mark.parametrize(("colour", "bits"), [(colour, bits) for colour, depths in DEPTHS.items() for bits in depths])
@pytest.mark.parametrize("transparent", [False, True])
def test_pngs_of_every_kind(colour: int, bits: int, transparent: bool) -> None:
    values = RNG.integers(0, 1 << bits, (11, 13, BANDS[colour]), np.uint16)
    largest, chunks, alpha = (1 << bits) - 1, [], np.ones((11, 13, 1))
    wanted = values / largest * 255
    if colour == 3:
        palette = RNG.integers(0, 256, (1 << bits, 3)).astype(np.uint8)
        chunks.append(chunk(b"PLTE", palette.tobytes()))
        wanted = palette[values[..., 0]].astype(float)
    if colour in (4, 6):
        wanted, alpha = wanted[..., :-1], wanted[..., -1:] / 255
    elif transparent and colour == 3:
        some = RNG.integers(0, 256, max(1, (1 << bits) // 2)).astype(np.uint8)
        chunks.append(chunk(b"tRNS", some.tobytes()))
        alpha = np.append(some, np.full((1 << bits) - len(some), 255))[values] / 255
    elif transparent:
        values[3:5, 4:9] = values[3, 4]
        wanted = values / largest * 255
        chunks.append(chunk(b"tRNS", struct.pack(f">{BANDS[colour]}H", *values[3, 4])))
        alpha = 1 - (values == values[3, 4]).all(axis=-1, keepdims=True)
    data = png(values, bits, colour, *chunks)
    if transparent and (colour, bits) == (2, 16):
        for function in (verify_image, decode_image):
            with pytest.raises(Rejected, match=r"unsupported pixel format: .*16-bit RGB with a transparent colour"):
                function(data, "png")
        return
    verify_image(data, "png")
    tolerance = 2 if bits == 16 and colour in (4, 6) else 1
    assert np.abs(decode_image(data, "png") - (wanted * alpha + 255 * (1 - alpha))).max() <= tolerance
    if colour in (0, 3):
        assert np.array_equal(decode_mask(data, "png"), values[..., 0])


def bmp(bits: int, pixels: npt.NDArray[Any], top_down: bool, masks: tuple[int, ...] = (), header: int = 40) -> bytes:
    height, width = pixels.shape[:2]
    rows = (pixels if top_down else pixels[::-1]).reshape(height, -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    packed = struct.pack(f"<{len(masks)}I", *masks)
    compression = 3 if masks else 0
    head = struct.pack(
        "<IiiHHIIiiII", header, width, -height if top_down else height, 1, bits, compression, 0, 0, 0, 0, 0
    )
    head += packed if header == 40 else packed.ljust(header - 40, b"\0")
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(head)) + head + rows.tobytes()


@pytest.mark.parametrize("top_down", [False, True])
def test_bmps_of_every_kind(top_down: bool) -> None:
    pixels = smooth(21, 33)
    red, green, blue = (pixels[..., n].astype(int) for n in range(3))
    of_555 = np.stack([red >> 3, green >> 3, blue >> 3], axis=-1) * 255 / 31
    of_565 = np.stack([(red >> 3) * 255 / 31, (green >> 2) * 255 / 63, (blue >> 3) * 255 / 31], axis=-1)
    alpha = np.arange(33) * 7
    wide = (red << 16 | green << 8 | blue).astype("<u4")
    over = pixels * (alpha / 255)[:, None] + (255 - alpha)[:, None]
    in_555 = (red >> 3 << 10 | green >> 3 << 5 | blue >> 3).astype("<u2")
    in_565 = (red >> 3 << 11 | green >> 2 << 5 | blue >> 3).astype("<u2")
    rgba = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    with_alpha = wide | (alpha << 24).astype("<u4")
    for data, wanted in (
        (bmp(24, np.ascontiguousarray(pixels[..., ::-1]), top_down), pixels),
        (bmp(16, in_555, top_down), of_555),
        (bmp(16, in_555, top_down, (0x7C00, 0x3E0, 0x1F)), of_555),
        (bmp(16, in_565, top_down, (0xF800, 0x7E0, 0x1F)), of_565),
        (bmp(32, wide, top_down), pixels),
        (bmp(32, with_alpha, top_down), pixels),  # the fourth byte means nothing here
        (bmp(32, with_alpha, top_down, rgba, 56), over),
        (bmp(32, with_alpha, top_down, rgba, 108), over),
        (bmp(32, with_alpha, top_down, rgba, 124), over),
    ):
        verify_image(data, "bmp")
        assert np.abs(decode_image(data, "bmp") - wanted).max() <= 1
    odd = bmp(32, wide, top_down, (0x3FF00000, 0xFFC00, 0x3FF))
    for function in (verify_image, decode_image):
        with pytest.raises(Rejected, match=reasons.UNSUPPORTED_PIXELS):
            function(odd, "bmp")


@pytest.mark.parametrize("inks", ["CMYK", "YCCK"])
def test_jpegs_of_inks(inks: str) -> None:
    pixels = np.dstack([smooth(), 255 - smooth()[..., :1]])
    data = imagecodecs.jpeg8_encode(pixels, level=100, colorspace="CMYK", outcolorspace=inks, subsampling="444")
    assert b"Adobe" in data
    verify_image(data, "jpg")
    wanted = pixels[..., :3].astype(float) * pixels[..., 3:] / 255  # Adobe stores what the inks let through
    assert np.abs(decode_image(data, "jpg") - wanted).max() <= 8


def test_jpegs_of_red_green_and_blue() -> None:
    data = imagecodecs.jpeg8_encode(smooth(), level=100, colorspace="RGB", outcolorspace="RGB", subsampling="444")
    verify_image(data, "jpg")
    assert np.abs(decode_image(data, "jpg").astype(int) - smooth()).max() <= 2


def test_jpegs_of_other_kinds_are_unsupported_and_not_corrupt() -> None:
    plain = save(Image.fromarray(smooth()), "JPEG")
    at = plain.index(b"\xff\xc0")
    arithmetic = plain[: at + 1] + b"\xc9" + plain[at + 2 :]
    hierarchical = plain[: at + 1] + b"\xc5" + plain[at + 2 :]
    later = plain[: at + 5] + b"\0\0" + plain[at + 7 :]
    for data, what in (
        (imagecodecs.jpeg8_encode(smooth().astype(np.uint16) * 16, bitspersample=12), "12-bit JPEG"),
        (imagecodecs.jpeg8_encode(smooth(), lossless=True), "lossless JPEG"),
        (arithmetic, "arithmetic-coded JPEG"),
        (hierarchical, "hierarchical JPEG"),
        (later, "height after the first scan: JPEG"),
    ):
        for function in (verify_image, decode_image, decode_mask):
            with pytest.raises(Rejected, match=f"unsupported pixel format: {what}"):
                function(data, "jpg")


def test_a_gif_frame_that_is_smaller_than_the_picture_stands_where_it_says() -> None:
    small = Image.fromarray(np.full((4, 5), 1, np.uint8), "P")
    small.putpalette([0, 0, 0, 9, 99, 199])
    data = bytearray(save(small, "GIF"))
    data[6:10] = struct.pack("<HH", 12, 10)
    at = data.index(b",\0\0\0\0")
    data[at + 1 : at + 5] = struct.pack("<HH", 3, 2)
    verify_image(bytes(data), "gif")
    pixels = decode_image(bytes(data), "gif")
    assert pixels.shape == (10, 12, 3)
    assert (pixels[2:6, 3:8] == [9, 99, 199]).all()
    assert (pixels[0] == pixels[0, 0]).all()


def test_transparency_of_each_format_is_white() -> None:
    alpha = np.zeros((32, 48), np.uint8)
    alpha[:16] = 255
    image = Image.fromarray(np.dstack([smooth(), alpha]))
    for suffix, name, options in (
        ("webp", "WEBP", {"lossless": True}),
        ("avif", "AVIF", {"quality": 100}),
        ("png", "PNG", {}),
        ("tif", "TIFF", {}),
    ):
        pixels = decode_image(save(image, name, **options), suffix)
        assert (pixels[17:] >= 254).all()
        assert np.abs(pixels[:14].astype(int) - smooth()[:14]).max() <= 12
