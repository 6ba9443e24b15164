"""Colours come out as a colour-managed viewer shows them, whatever space the file means them in."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from shardmill.images import colour, decode_image, decode_mask, verify_image
from shardmill.samples import EncodedSample
from shardmill.transforms import TransformSpec, build_transform
from tests.pictures import (
    ADOBE_RGB,
    chunk,
    grey_profile,
    png,
    press_profile,
    profile,
    save,
    smooth,
    to_srgb,
    with_chunks,
    with_segment,
)

GREEN = Image.new("RGB", (16, 16), (90, 170, 80))
RIGHT = (0, 172, 72)  # by littleCMS, Chromium and ImageMagick, within one step
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXACT = {
    "webp": {"lossless": True},
    "jpg": {"quality": 100, "subsampling": 0},
    "avif": {"quality": 100, "subsampling": "4:4:4"},
}
NAMES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF", "avif": "AVIF"}


def centre(data: bytes, suffix: str) -> np.ndarray:
    return decode_image(data, suffix)[8, 8].astype(int)


@pytest.mark.parametrize("suffix", NAMES)
def test_an_embedded_profile_is_converted(suffix: str) -> None:
    data = save(GREEN, NAMES[suffix], icc_profile=ADOBE_RGB, **EXACT.get(suffix, {}))
    lossy = suffix in ("jpg", "avif")
    assert np.abs(centre(data, suffix) - RIGHT).max() <= (3 if lossy else 1)
    verify_image(data, suffix)


def test_the_profile_of_a_bmp_is_converted() -> None:
    pixels = bytes([80, 170, 90]) * 4
    header = struct.pack("<IiiHHIIiiII", 124, 2, 2, 1, 24, 0, 12, 0, 0, 0, 0) + bytes(16) + b"DEBM" + bytes(48)
    header += struct.pack("<IIII", 4, 124 + 16, len(ADOBE_RGB), 0)
    rows = (pixels[:6] + bytes(2)) * 2
    data = b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 124) + header + rows + ADOBE_RGB
    assert np.abs(decode_image(data, "bmp")[0, 0] - np.array(RIGHT)).max() <= 1


def test_the_profile_of_a_heic_is_converted() -> None:
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    image = heif.from_pillow(GREEN.resize((64, 64)))
    image.info["icc_profile"] = ADOBE_RGB
    image.save(file, quality=100, chroma=444)
    assert np.abs(centre(file.getvalue(), "heic") - RIGHT).max() <= 4


def test_the_profile_of_a_jpeg_xl_is_converted() -> None:
    pytest.importorskip("pillow_jxl")
    import imagecodecs

    values = np.full((16, 16, 3), (90, 170, 80), np.uint16) * 257
    linear = centre(imagecodecs.jpegxl_encode(values, lossless=True), "jxl")  # it writes 16 bits as linear ones
    assert np.abs(linear - to_srgb(np.array([90, 170, 80]) / 255)).max() <= 1


def test_a_palette_is_converted() -> None:
    for suffix in ("png", "tif"):
        data = save(GREEN.quantize(4), NAMES[suffix], icc_profile=ADOBE_RGB)
        assert np.abs(centre(data, suffix) - RIGHT).max() <= 1


def test_colours_are_converted_before_they_are_laid_over_white() -> None:
    rgba = GREEN.copy()
    rgba.putalpha(128)
    for suffix in ("png", "tif", "webp"):
        data = save(rgba, NAMES[suffix], icc_profile=ADOBE_RGB, **EXACT.get(suffix, {}))
        assert np.abs(centre(data, suffix) - (np.array(RIGHT) * 128 + 255 * 127) / 255).max() <= 1.5


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [*(("png", mode) for mode in ("L", "LA", "I;16")), *(("tif", mode) for mode in ("L", "LA", "I;16", "I;16B"))],
)
def test_greys_are_converted_in_full_depth(suffix: str, mode: str) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    if mode in ("L", "LA"):
        image, light = Image.fromarray((ramp >> 8).astype(np.uint8)).convert(mode), (ramp >> 8) / 255
    else:
        image, light = Image.fromarray(ramp.astype(">u2" if mode == "I;16B" else "<u2")), ramp / 65535
    pixels = decode_image(save(image, NAMES[suffix], icc_profile=grey_profile(1.0)), suffix)
    assert np.abs(pixels[:, :, 0] - to_srgb(light)).max() <= 0.51
    assert (pixels == pixels[:, :, :1]).all()


def test_a_grey_jpeg_is_converted() -> None:
    data = save(Image.new("L", (16, 16), 55), "JPEG", quality=100, icc_profile=grey_profile(1.0))
    assert np.abs(centre(data, "jpg") - to_srgb(np.array(55 / 255))).max() <= 4  # JPEG's own step, in the dark


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_inks_are_converted(suffix: str) -> None:
    press, inks = press_profile(), [(230, 30, 20, 0), (20, 220, 210, 0), (220, 200, 20, 10), (60, 50, 50, 20)]
    for ink in inks:
        image = Image.new("CMYK", (16, 16), ink)
        wanted = ImageCms.profileToProfile(
            image, io.BytesIO(press), ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB"
        )
        data = save(image, NAMES[suffix], icc_profile=press, **EXACT.get(suffix, {}))
        assert np.abs(centre(data, suffix) - np.asarray(wanted)[8, 8]).max() <= 3


def test_an_image_is_converted_strip_by_strip_to_the_same_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(smooth(90, 70))
    files = [(save(image, NAMES[s], icc_profile=ADOBE_RGB, **EXACT.get(s, {})), s) for s in ("png", "jpg")]
    whole = [decode_image(*file) for file in files]
    monkeypatch.setattr(colour, "_STRIP", 1000)
    assert all(np.array_equal(decode_image(*file), pixels) for file, pixels in zip(files, whole, strict=True))


USELESS = {
    "none": b"\0",
    "noise": np.random.default_rng(0).bytes(5000),
    "cut off": ADOBE_RGB[:200],
    "of inks": press_profile(),
    "of greys": grey_profile(2.2),
    "a link between devices": ADOBE_RGB[:12] + b"link" + ADOBE_RGB[16:],
    "named colours": ADOBE_RGB[:12] + b"nmcl" + ADOBE_RGB[16:],
    "no tags": profile(b"RGB ", {}),
    "huge": ADOBE_RGB + bytes(17 << 20),
    "tags out of the file": ADOBE_RGB[:136] + b"\xff" * 60 + ADOBE_RGB[196:],
}


@pytest.mark.parametrize("name", USELESS)
def test_a_profile_that_cannot_be_used_is_as_none(name: str) -> None:
    for suffix in ("png", "jpg", "tif"):
        if suffix == "jpg" and len(USELESS[name]) > 16_000_000:
            continue
        data = save(GREEN, NAMES[suffix], icc_profile=USELESS[name], **EXACT.get(suffix, {}))
        verify_image(data, suffix)
        assert np.abs(centre(data, suffix) - (90, 170, 80)).max() <= 2


def test_the_space_has_to_be_that_of_the_pixels() -> None:
    grey = Image.new("L", (16, 16), 90)
    for suffix in ("png", "jpg", "tif"):
        assert centre(save(grey, NAMES[suffix], icc_profile=ADOBE_RGB), suffix).tolist() == [90] * 3


def test_srgb_costs_no_conversion() -> None:
    assert colour._conversion(SRGB, "RGB") is None
    assert colour._conversion(ADOBE_RGB, "RGB") is not None
    pixels = smooth()
    assert np.array_equal(decode_image(save(Image.fromarray(pixels), "PNG", icc_profile=SRGB), "png"), pixels)


def test_a_profile_in_parts_is_put_together_and_one_that_lacks_a_part_is_none() -> None:
    plain = save(GREEN, "JPEG", quality=100, subsampling=0)
    first, second = ADOBE_RGB[:200], ADOBE_RGB[200:]
    parts = [b"ICC_PROFILE\0\x01\x02" + first, b"ICC_PROFILE\0\x02\x02" + second]
    for order in (parts, parts[::-1]):
        whole = with_segment(with_segment(plain, 0xE2, order[0]), 0xE2, order[1])
        assert np.abs(centre(whole, "jpg") - RIGHT).max() <= 3
    assert np.abs(centre(with_segment(plain, 0xE2, parts[0]), "jpg") - (90, 170, 80)).max() <= 2


def test_masks_are_never_converted() -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for image in (Image.fromarray(labels), Image.fromarray(labels).convert("RGB")):
        for suffix in ("png", "tif"):
            data = save(image, NAMES[suffix], icc_profile=grey_profile(1.0) if image.mode == "L" else ADOBE_RGB)
            assert np.array_equal(decode_mask(data, suffix), labels)


def test_what_a_transform_writes_is_srgb_and_carries_no_profile() -> None:
    for suffix in ("png", "jpg", "webp", "tif"):
        data = save(GREEN, NAMES[suffix], icc_profile=ADOBE_RGB, **EXACT.get(suffix, {}))
        spec = TransformSpec.model_validate({"operations": [{"operation": "CenterCrop", "arguments": {"size": 12}}]})
        (made,) = build_transform(spec)(EncodedSample("k", {suffix: data}))
        image = Image.open(io.BytesIO(made.components[suffix]))
        assert "icc_profile" not in image.info
        assert np.abs(np.array(image.convert("RGB").getpixel((6, 6))) - RIGHT).max() <= 5


def test_threads_share_a_conversion() -> None:
    files = [
        (save(Image.fromarray(np.roll(smooth(64, 64), n, 0)), "PNG", icc_profile=ADOBE_RGB), "png") for n in range(40)
    ]
    alone = [decode_image(*file) for file in files]
    with ThreadPoolExecutor(8) as pool:
        assert all(
            np.array_equal(a, b) for a, b in zip(alone, pool.map(lambda f: decode_image(*f), files), strict=True)
        )


def exif(space: int, index: str | None = None) -> Image.Exif:
    made = Image.Exif()
    made[0x8769] = {0xA001: space, **({0xA005: {1: index}} if index else {})}
    return made


def test_exif_says_adobe_rgb_where_a_camera_writes_no_profile() -> None:
    for said in (exif(2), exif(0xFFFF, "R03")):
        for suffix in ("jpg", "png", "webp"):
            data = save(GREEN, NAMES[suffix], exif=said, **EXACT.get(suffix, {}))
            assert np.abs(centre(data, suffix) - RIGHT).max() <= 3
    for said in (exif(1), exif(0xFFFF), exif(0xFFFF, "R98")):
        data = save(GREEN, "JPEG", exif=said, **EXACT["jpg"])
        assert np.abs(centre(data, "jpg") - (90, 170, 80)).max() <= 2
    data = save(GREEN, "PNG", exif=exif(2), icc_profile=SRGB)
    assert centre(data, "png").tolist() == [90, 170, 80], "the profile comes first"


GAMA = chunk(b"gAMA", struct.pack(">I", 45455))
LINEAR = chunk(b"gAMA", struct.pack(">I", 100_000))
SRGB_POINTS = chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
ADOBE_POINTS = chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000))


def test_the_colours_of_a_png_may_stand_in_its_chunks_by_numbers() -> None:
    file = save(GREEN, "PNG")
    assert centre(with_chunks(file, GAMA, SRGB_POINTS), "png").tolist() == [90, 170, 80]
    assert centre(with_chunks(file, GAMA), "png").tolist() == [90, 170, 80]
    wide = centre(with_chunks(file, GAMA, ADOBE_POINTS), "png")
    assert np.abs(wide - RIGHT).max() <= 3  # sRGB's curve instead of an exponent of 2.2
    linear = centre(with_chunks(file, LINEAR), "png")
    assert np.abs(linear - to_srgb(np.array([90, 170, 80]) / 255)).max() <= 1
    p3 = centre(with_chunks(file, chunk(b"cICP", bytes([12, 13, 0, 1]))), "png")
    assert np.abs(p3 - (52, 172, 66)).max() <= 1


def test_of_several_ways_to_say_it_the_first_counts() -> None:
    file = save(GREEN, "PNG")
    srgb, icc = chunk(b"sRGB", b"\0"), chunk(b"iCCP", b"x\0\0" + zlib.compress(ADOBE_RGB))
    assert centre(with_chunks(file, srgb, LINEAR), "png").tolist() == [90, 170, 80]
    assert np.abs(centre(with_chunks(file, icc, srgb, LINEAR), "png") - RIGHT).max() <= 1
    coded = chunk(b"cICP", bytes([1, 13, 0, 1]))
    assert centre(with_chunks(file, coded, icc, LINEAR), "png").tolist() == [90, 170, 80]


@pytest.mark.parametrize(
    "chunks",
    [
        (chunk(b"gAMA", bytes(4)),),
        (chunk(b"gAMA", b"\xff" * 4),),
        (GAMA, chunk(b"cHRM", bytes(32))),
        (GAMA, chunk(b"cHRM", b"\xff" * 32)),
        (GAMA, chunk(b"cHRM", struct.pack(">8I", *(31270, 32900) * 4))),
        (GAMA, chunk(b"cHRM", b"short")),
        (chunk(b"cICP", bytes([9, 16, 0, 1])),),
        (chunk(b"cICP", b"x"),),
    ],
)
def test_numbers_that_are_no_space_are_as_none(chunks: tuple[bytes, ...]) -> None:
    assert centre(with_chunks(save(GREEN, "PNG"), *chunks), "png").tolist() == [90, 170, 80]


def test_few_bits_of_grey_are_converted() -> None:
    values = np.arange(16, dtype=np.uint8).reshape(1, 16, 1)
    icc = chunk(b"iCCP", b"x\0\0" + zlib.compress(grey_profile(1.0)))
    pixels = decode_image(png(values, 4, 0, icc), "png")
    assert np.abs(pixels[0, :, 0] - to_srgb(values[0, :, 0] / 15)).max() <= 0.51
