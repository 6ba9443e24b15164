"""Bytes become the right pixels, or are refused with a reason; never anything else."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, JpegImagePlugin

from shardmill.errors import ConfigurationError, Rejected
from shardmill.images import decode_image, decode_mask, encode_image, reasons, verify_image

# pytest takes away the filter that the module sets at import.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

RNG = np.random.default_rng(0)
ROWS, COLUMNS = np.mgrid[0:32, 0:48]
PIXELS = np.stack([ROWS * 8, COLUMNS * 5, ROWS + COLUMNS * 3], axis=2).astype(np.uint8)  # smooth: JPEG keeps it
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "tiff": "TIFF", "bmp": "BMP"}


def save(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def example(suffix: str) -> bytes:
    return save(Image.fromarray(PIXELS), FORMATS[suffix])


def reason_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(Rejected) as caught:
        function(*args, **kwargs)
    return caught.value.reason


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_format_decodes_to_writable_rgb(suffix: str) -> None:
    pixels = decode_image(example(suffix), f"image.{suffix}")
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    tolerance = {"jpg": 25, "webp": 25, "gif": 25}.get(suffix, 0)
    assert np.abs(pixels.astype(int) - PIXELS).max() <= tolerance


def test_the_fast_jpeg_path_gives_pillows_pixels() -> None:
    for image in (Image.fromarray(PIXELS), Image.fromarray(PIXELS).convert("L")):
        for options in ({}, {"progressive": True}, {"subsampling": 0}):
            data = save(image, "JPEG", **options)
            assert np.array_equal(decode_image(data, "jpg"), Image.open(io.BytesIO(data)).convert("RGB"))


def test_cmyk_is_converted() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red; Pillow writes it Adobe-inverted
    for suffix, name in (("jpg", "JPEG"), ("tif", "TIFF")):
        pixels = decode_image(save(cmyk, name), suffix)
        assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 3


def test_palettes_are_converted() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (decode_image(save(image, "PNG"), "png") == [10, 20, 30]).all()
    assert (decode_image(save(image, "GIF"), "gif") == [10, 20, 30]).all()


@pytest.mark.parametrize(("suffix", "name"), [("png", "PNG"), ("tif", "TIFF")])
def test_sixteen_bit_grey_is_scaled_not_clipped(suffix: str, name: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65534, 65535]], dtype=np.uint16)
    pixels = decode_image(save(Image.fromarray(values), name), suffix)
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255, 255]
    assert (pixels == pixels[:, :, :1]).all()


def test_big_endian_sixteen_bit_grey_is_scaled() -> None:
    data = save(Image.fromarray(np.array([[0, 65535, 257]], ">u2")), "TIFF")
    assert decode_image(data, "tiff")[0, :, 0].tolist() == [0, 255, 1]
    assert decode_mask(data, "tiff").tolist() == [[0, 65535, 257]]


def test_a_big_tiff_is_a_tiff() -> None:
    data = save(Image.fromarray(np.array([[0, 65535, 257]], np.uint16)), "TIFF", big_tiff=True)
    assert data.startswith(b"II+\0")
    verify_image(data, "tiff")
    assert decode_image(data, "tiff")[0, :, 0].tolist() == [0, 255, 1]


def test_alpha_is_laid_over_white() -> None:
    rgba = np.array([[[200, 0, 0, 0], [200, 0, 0, 255], [200, 0, 0, 128]]], dtype=np.uint8)
    for suffix, name, options in (("png", "PNG", {}), ("webp", "WEBP", {"lossless": True, "exact": True})):
        pixels = decode_image(save(Image.fromarray(rgba), name, **options), suffix)
        assert np.abs(pixels[0].astype(int) - [[255, 255, 255], [200, 0, 0], [227, 127, 127]]).max() <= 1
    grey = Image.fromarray(np.array([[[9, 0], [9, 255]]], dtype=np.uint8), "LA")
    assert decode_image(save(grey, "PNG"), "png")[0].tolist() == [[255] * 3, [9] * 3]


def test_a_transparent_colour_or_palette_entry_is_white() -> None:
    grey = Image.fromarray(np.array([[7, 8]], dtype=np.uint8))
    assert decode_image(save(grey, "PNG", transparency=7), "png")[0].tolist() == [[255] * 3, [8] * 3]
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    palette.putpalette([1, 2, 3, 4, 5, 6])
    for options in ({"transparency": 0}, {"transparency": bytes([0, 255])}):
        assert decode_image(save(palette, "PNG", **options), "png")[0].tolist() == [[255] * 3, [4, 5, 6]]
    wide = Image.fromarray(np.array([[300, 301, 30_000]], dtype=np.uint16))
    assert decode_image(save(wide, "PNG", transparency=300), "png")[0].tolist() == [[255] * 3, [1] * 3, [117] * 3]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_exif_orientation_is_applied(suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(Image.fromarray(PIXELS), FORMATS[suffix], exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode_image(data, suffix), upright)
    assert upright.size == ((48, 32) if orientation < 5 else (32, 48))
    labels = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    if suffix in ("png", "tiff"):
        stored = save(labels, FORMATS[suffix], exif=exif)
        turned = ImageOps.exif_transpose(Image.open(io.BytesIO(stored)))
        assert np.array_equal(decode_mask(stored, suffix), turned)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_a_turned_image_of_one_row_or_column_lies_forwards_in_memory(size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.arange(3 * max(size), dtype=np.uint8).reshape(*size, 3))
    data = save(image, "PNG", exif=exif)
    pixels, labels = decode_image(data, "png"), decode_mask(save(image.getchannel(0), "PNG", exif=exif), "png")
    assert np.array_equal(pixels, ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(labels, pixels[:, :, 0])
    assert min(*pixels.strides, *labels.strides) > 0  # torch takes no others


def test_only_the_first_frame_of_an_animation_is_decoded() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "webp", "png", "tiff"):
        data = save(frames[0], FORMATS[suffix], save_all=True, append_images=frames[1:])
        assert np.abs(decode_image(data, suffix).astype(int) - [255, 0, 0]).max() <= 3


def test_masks_keep_their_values() -> None:
    labels = np.array([[0, 1, 2], [3, 254, 255]], dtype=np.uint8)
    grey = Image.fromarray(labels)
    palette = Image.fromarray(labels, "P")
    palette.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
    rgb = Image.fromarray(np.repeat(labels[:, :, None], 3, axis=2))
    for image in (grey, palette, rgb, rgb.convert("RGBA")):
        for suffix in ("png", "tif"):
            mask = decode_mask(save(image, {"png": "PNG", "tif": "TIFF"}[suffix]), suffix)
            assert mask.dtype == np.uint8
            assert mask.flags.writeable
            assert np.array_equal(mask, labels)
    wide = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    mask = decode_mask(save(Image.fromarray(wide), "PNG"), "png")
    assert mask.dtype == np.uint16
    assert np.array_equal(mask, wide)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_are_not_stretched(bits: int) -> None:
    """Pillow 12 writes no such PNG of 2 and 4 bits."""
    labels = np.arange(1 << bits, dtype=np.uint8)
    row = b"\0" + np.packbits(labels[:, None] >> np.arange(bits)[::-1] & 1).tobytes()
    header = struct.pack(">IIBBBBB", len(labels), 1, bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    assert decode_mask(data, "png").tolist() == [labels.tolist()]


@pytest.mark.parametrize("bits", [2, 4])
def test_tiff_masks_of_few_bits_are_not_stretched(bits: int) -> None:
    """Of one row, which is one strip right after the header; Pillow writes no such TIFF."""
    labels = np.arange(1 << bits, dtype=np.uint8)
    strip = np.packbits(labels[:, None] >> np.arange(bits)[::-1] & 1).tobytes()
    fields = [(256, len(labels)), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*fields, (279, len(strip))])
    head = b"II*\0" + (8 + len(strip)).to_bytes(4, "little")
    data = head + strip + struct.pack("<H", len(fields) + 1) + directory + bytes(4)
    assert decode_mask(data, "tif").tolist() == [labels.tolist()]


def test_a_mask_of_colours_or_transparency_is_refused() -> None:
    colours = save(Image.fromarray(PIXELS), "PNG")
    assert reason_of(decode_mask, colours, "png") == reasons.UNSUPPORTED_PIXELS
    for colour in ((3, 3, 4), (3, 4, 3), (4, 3, 3)):
        data = save(Image.new("RGB", (4, 4), colour), "PNG")
        assert reason_of(decode_mask, data, "png") == reasons.UNSUPPORTED_PIXELS
    holes = save(Image.new("LA", (4, 4), (3, 100)), "PNG")
    assert reason_of(decode_mask, holes, "png") == reasons.UNSUPPORTED_PIXELS


def test_refusals_have_reasons() -> None:
    jpeg, png = example("jpg"), example("png")
    for function in (decode_image, decode_mask, verify_image):
        assert reason_of(function, b"", "jpg") == reasons.EMPTY_FILE
        for other in (b"<!DOCTYPE html>", b"RIFF....AVI LIST", b"RIFX....WEBPVP8 "):
            assert reason_of(function, other, "webp") == reasons.NOT_AN_IMAGE
        assert reason_of(function, png, "image.jpg") == reasons.WRONG_EXTENSION
        assert reason_of(function, jpeg, "jpg", max_pixels=32 * 48 - 1) == reasons.TOO_MANY_PIXELS
        for other in (Image.fromarray(np.ones((2, 2), np.float32)), Image.new("LAB", (2, 2))):
            assert reason_of(function, save(other, "TIFF"), "tif") == reasons.UNSUPPORTED_PIXELS
        for value in (65536, -1):
            wide = save(Image.fromarray(np.array([[0, value]], np.int32)), "TIFF")
            assert reason_of(function, wide, "tif") == reasons.UNSUPPORTED_PIXELS
        with pytest.raises(ConfigurationError, match="cls"):
            function(jpeg, "cls")
    with pytest.raises(Rejected) as caught:
        decode_image(png, "image.jpg")
    assert caught.value.detail == "named .jpg, but the bytes are PNG"
    with pytest.raises(Rejected, match="48 x 32, the limit is 100"):
        decode_image(jpeg, "jpg", max_pixels=100)


def test_a_bomb_is_refused_by_its_header() -> None:
    head = bytearray(save(Image.new("L", (1, 1)), "PNG"))
    head[16:24] = (60000).to_bytes(4, "big") * 2
    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    assert reason_of(decode_image, bytes(head), "png") == reasons.TOO_MANY_PIXELS


@pytest.mark.parametrize("suffix", FORMATS)
def test_truncation_is_refused_anywhere(suffix: str) -> None:
    noise = Image.fromarray(RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    data = save(noise, FORMATS[suffix])
    end = len(data) - {"gif": 2, "png": 24}.get(suffix, 1)  # checksums and trailers hold no pixels
    for length in {*range(1, end, max(1, end // 60)), end - 1}:
        assert reason_of(verify_image, data[:length], suffix) in (reasons.CORRUPT_IMAGE, reasons.NOT_AN_IMAGE)
        assert reason_of(decode_image, data[:length], suffix) in (reasons.CORRUPT_IMAGE, reasons.NOT_AN_IMAGE)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm() -> None:
    data = example("jpg")
    assert np.array_equal(decode_image(data + b"\0" * 100, "jpg"), decode_image(data, "jpg"))
    verify_image(data + b"\0" * 100, "jpg")


def outcome(function: Callable[..., Any], *args: Any) -> str | None:
    """The reason of a refusal; whatever else is raised fails the test."""
    try:
        function(*args, 1 << 16)
    except Rejected as refused:
        return refused.reason
    return None


HOSTILE = settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
VALID = {
    **{suffix: [example(suffix)] for suffix in FORMATS},
    "png": [
        example("png"),
        save(Image.fromarray(PIXELS).convert("P"), "PNG", transparency=3),
        save(Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 250), "PNG"),
    ],
    "jpg": [example("jpg"), save(Image.fromarray(PIXELS).convert("CMYK"), "JPEG")],
    "tiff": [example("tiff"), save(Image.fromarray(PIXELS), "TIFF", compression="tiff_lzw")],
}


@HOSTILE
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM"]),
    st.binary(max_size=200),
    st.sampled_from(list(FORMATS)),
)
def test_any_bytes_decode_or_are_refused(magic: bytes, tail: bytes, suffix: str) -> None:
    for function in (decode_image, decode_mask, verify_image):
        outcome(function, magic + tail, suffix)


@HOSTILE
@given(st.data())
def test_damaged_files_decode_or_are_refused_and_verify_agrees(data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(list(FORMATS)))
    file = bytearray(data.draw(st.sampled_from(VALID[suffix])))
    for _ in range(data.draw(st.integers(0, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(file[: data.draw(st.one_of(st.just(len(file)), st.integers(0, len(file))))])
    assert outcome(decode_image, damaged, suffix) == outcome(verify_image, damaged, suffix)
    outcome(decode_mask, damaged, suffix)


def test_a_lack_of_memory_refuses_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(_: Image.Image) -> None:
        raise OSError("out of memory error when reading image file")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lack)
    for function in (decode_image, decode_mask, verify_image):
        with pytest.raises(MemoryError):
            function(example("png"), "png")


def test_no_warning_of_pillow_leaks() -> None:
    program = (
        "import io, numpy as np\n"
        "from PIL import Image\n"
        "from shardmill.images import decode_image\n"
        "Image.MAX_IMAGE_PIXELS = 10\n"
        "file = io.BytesIO()\n"
        "exif = Image.Exif(); exif[0x0112] = 6\n"
        "Image.new('RGB', (8, 8)).save(file, 'JPEG', exif=exif)\n"
        "data = file.getvalue()\n"
        "assert decode_image(data, 'jpg').shape == (8, 8, 3)\n"
        "at = data.index(b'Exif')\n"
        "decode_image(data[:at + 20] + bytes([255] * 8) + data[at + 28:], 'jpg')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_threads_do_not_disturb_each_other() -> None:
    files = [(name, data) for name, versions in VALID.items() for data in versions] * 5
    alone = [decode_image(data, name) for name, data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda pair: decode_image(pair[1], pair[0]), files))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_images_encode_to_the_same_bytes_and_back() -> None:
    for suffix in ("png", "tif", "bmp"):
        data = encode_image(PIXELS, suffix)
        assert data == encode_image(PIXELS.copy(), suffix)
        assert np.array_equal(decode_image(data, suffix), PIXELS)
    for suffix in ("jpg", "webp", "gif"):
        data = encode_image(PIXELS, suffix)
        assert data == encode_image(np.asfortranarray(PIXELS), suffix)
        assert np.abs(decode_image(data, suffix).astype(int) - PIXELS).mean() < 6
    assert len(encode_image(PIXELS, "jpg", quality=30)) < len(encode_image(PIXELS, "jpg"))
    assert Image.open(io.BytesIO(encode_image(PIXELS[:, :, :1], "jpg"))).mode == "L"
    assert JpegImagePlugin.get_sampling(Image.open(io.BytesIO(encode_image(PIXELS, "jpg")))) == 2, "it is not 4:2:0"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_survive_encoding(dtype: type) -> None:
    labels = np.array([[0, 1, 255], [3, np.iinfo(dtype).max, 7]], dtype=dtype)
    for component in ("mask.png", "mask.tif"):
        back = decode_mask(encode_image(labels, component), component)
        assert back.dtype == dtype
        assert np.array_equal(back, labels)
    for component in ("mask.jpg", "mask.webp", "mask.gif"):
        with pytest.raises(ConfigurationError, match=r"mask\.png"):
            encode_image(labels, component)


def test_what_cannot_be_encoded_is_refused() -> None:
    for array in (PIXELS.astype(np.float32), PIXELS[:, :, :2], PIXELS[0, 0]):
        with pytest.raises(ConfigurationError, match=r"an image is uint8"):
            encode_image(array, "jpg")
    with pytest.raises(ConfigurationError, match="cls"):
        encode_image(PIXELS, "cls")
    assert reason_of(encode_image, np.zeros((0, 5, 3), np.uint8), "jpg") == reasons.NOT_ENCODABLE
    assert reason_of(encode_image, np.zeros((1, 17000, 3), np.uint8), "webp") == reasons.NOT_ENCODABLE
    assert reason_of(encode_image, np.zeros((1, 70000, 3), np.uint8), "jpg") == reasons.NOT_ENCODABLE
