"""What packing accepts decodes later, whatever is wrong with a file; and only lost pixels make a reject."""

import io
import itertools
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from shardmill.errors import Rejected
from shardmill.images import decode_image, decode_mask, reasons, verify_image
from shardmill.images.scans import MAX_SCANS
from tests.pictures import ADOBE_RGB, FORMATS, chunk, grey_profile, save, smooth, with_chunks, with_segment

# pytest takes away the filter that the module sets at import.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

SMOOTH = Image.fromarray(smooth())
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)).resize((600, 400))


def outcome(function: Callable[..., Any], *args: Any) -> str | None:
    """The reason of a refusal; whatever else is raised fails the test."""
    try:
        function(*args, 1 << 18)
    except Rejected as refused:
        return refused.reason
    return None


def tiff(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def corpus() -> Mapping[str, list[bytes]]:
    """Files of every format and mode, with metadata that say something."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x8769] = {0xA001: 2}
    told: dict[str, Any] = {"exif": exif, "icc_profile": ADOBE_RGB}
    rgba = SMOOTH.copy()
    rgba.putalpha(Image.fromarray(smooth()[:, :, 0]))
    wide = Image.fromarray(smooth()[:, :, 0].astype(np.uint16) * 250)
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "a" * 200, zip=True)
    grey = grey_profile(1.8)
    files = {
        "jpg": [
            save(SMOOTH, "JPEG", **told, comment=b"hello"),
            save(SMOOTH, "JPEG", progressive=True, **told),
            save(SMOOTH, "JPEG", restart_marker_blocks=2, subsampling=0),
            save(SMOOTH.convert("L"), "JPEG", icc_profile=grey),
            save(SMOOTH.convert("CMYK"), "JPEG", exif=exif),
            imagecodecs.jpeg8_encode(smooth(), outcolorspace="RGB"),
        ],
        "png": [
            save(SMOOTH, "PNG", **told, pnginfo=info),
            save(SMOOTH.quantize(16), "PNG", transparency=3, bits=4),
            save(SMOOTH.convert("1"), "PNG"),
            save(wide, "PNG", icc_profile=grey),
            save(wide, "PNG", transparency=250),
            save(rgba, "PNG", **told),
            save(rgba.convert("LA"), "PNG"),
            save(SMOOTH, "PNG", save_all=True, append_images=[rgba]),
        ],
        "webp": [save(SMOOTH, "WEBP", **told, xmp=b"<x/>"), save(rgba, "WEBP", lossless=True, **told)],
        "gif": [
            save(SMOOTH, "GIF", comment=b"hello"),
            save(SMOOTH.quantize(8), "GIF", transparency=3, interlace=1),
            save(SMOOTH, "GIF", save_all=True, append_images=[rgba]),
        ],
        "bmp": [save(image, "BMP") for image in (SMOOTH, SMOOTH.quantize(16), rgba, SMOOTH.convert("1"))],
        "avif": [save(SMOOTH, "AVIF", speed=10, **told), save(rgba, "AVIF", speed=10)],
        "tiff": [
            save(SMOOTH, "TIFF", icc_profile=ADOBE_RGB),
            save(SMOOTH, "TIFF", compression="jpeg"),
            save(SMOOTH.convert("CMYK"), "TIFF", compression="tiff_lzw"),
            save(rgba, "TIFF", compression="packbits"),
            save(SMOOTH.quantize(16), "TIFF", compression="tiff_adobe_deflate"),
            save(SMOOTH.convert("1"), "TIFF", compression="group4"),
            save(wide, "TIFF", icc_profile=grey, big_tiff=True),
            tiff(smooth().transpose(2, 0, 1).astype(np.uint16) * 257, photometric="rgb", planarconfig="separate"),
            tiff(smooth()[:, :, 0].astype(np.uint16), photometric="miniswhite", byteorder=">"),
            tiff(np.asarray(rgba), photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16), compression="zstd"),
        ],
        "jxl": [imagecodecs.jpegxl_encode(smooth()), imagecodecs.jpegxl_encode(smooth().astype(np.uint16))],
    }  # fmt: skip
    heif = io.BytesIO()
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(SMOOTH.resize((64, 64))).save(heif, quality=60)
    return files | {"heic": [heif.getvalue()]}


CORPUS = corpus()


@pytest.mark.parametrize("suffix", CORPUS)
def test_every_file_of_the_corpus_is_accepted_by_both(suffix: str) -> None:
    for number, data in enumerate(CORPUS[suffix]):
        assert outcome(verify_image, data, suffix) is None, number
        assert outcome(decode_image, data, suffix) is None, number


@settings(max_examples=1500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_packing_accepts_decodes_and_what_it_refuses_does_not(data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(list(CORPUS)))
    file = bytearray(data.draw(st.sampled_from(CORPUS[suffix])))
    near = st.integers(0, min(400, len(file) - 1))  # headers and metadata stand in front, or at the end
    places = st.one_of(near, near.map(lambda at: len(file) - 1 - at), st.integers(0, len(file) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(places)
        file[at : at + data.draw(st.integers(1, 4))] = data.draw(st.binary(min_size=1, max_size=4))
    damaged = bytes(file[: data.draw(st.one_of(st.just(len(file)), st.integers(0, len(file))))])
    assert outcome(decode_image, damaged, suffix) == outcome(verify_image, damaged, suffix)
    outcome(decode_mask, damaged, suffix)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2] + b"\xff\xd9"


def second_half_zeroed(data: bytes) -> bytes:
    half = len(data) // 2
    return data[:half] + bytes(len(data) - half - 2) + b"\xff\xd9"


def middle_third_zeroed(data: bytes) -> bytes:
    third = len(data) // 3
    return data[:third] + bytes(third) + data[2 * third :]


def tail_zeroed(data: bytes) -> bytes:
    at = len(data) * 9 // 10
    return data[:at] + bytes(len(data) - at)


def without_its_end(data: bytes) -> bytes:
    return data[:-2]


@pytest.mark.parametrize("damage", [cut, second_half_zeroed, middle_third_zeroed, tail_zeroed, without_its_end])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_lost_pixels_is_refused(
    mode: str, options: Mapping[str, Any], damage: Callable[[bytes], bytes]
) -> None:
    data = save(NOISE.convert(mode), "JPEG", quality=90, **options)
    verify_image(data, "jpg")
    for function in (verify_image, decode_image):
        assert outcome(function, damage(data), "jpg") == reasons.CORRUPT_IMAGE


def test_a_small_jpeg_that_claims_to_be_large_is_refused() -> None:
    data = bytearray(save(Image.new("RGB", (16, 16)), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 400, 400)
    for function in (verify_image, decode_image):
        assert outcome(function, bytes(data), "jpg") == reasons.CORRUPT_IMAGE


PLAIN = save(SMOOTH, "JPEG", quality=90)
TABLES = PLAIN.index(b"\xff\xdb")
FRAME = PLAIN.index(b"\xff\xda")
HARMLESS = {
    "bytes after the end": PLAIN + b"junk" * 100,
    "a second picture after the end": PLAIN + PLAIN,
    "bytes left over before the end": PLAIN[:-2] + b"\x12\x34" + PLAIN[-2:],
    "bytes between segments": PLAIN[:TABLES] + b"\1\2\3" + PLAIN[TABLES:],
    "fill bytes": PLAIN[:TABLES] + b"\xff" * 1000 + PLAIN[TABLES:],
    "fill bytes before the end": PLAIN[:-2] + b"\xff" * 1000 + PLAIN[-2:],
    "an unknown version of JFIF": PLAIN.replace(b"JFIF\0\1\1", b"JFIF\0\x09\x09"),
    "an unknown transform of Adobe's": with_segment(PLAIN, 0xEE, b"Adobe\0d\0\0\0\0\x09"),
    "parameters of another kind of scan": PLAIN[: FRAME + 11] + b"\1\x3e\x11" + PLAIN[FRAME + 14 :],
    "EXIF that is none": with_segment(PLAIN, 0xE1, b"Exif\0\0" + b"\xff" * 40),
    "EXIF that points out of the file": with_segment(PLAIN, 0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    "a profile that is none": with_segment(PLAIN, 0xE2, b"ICC_PROFILE\0\1\1" + b"\xff" * 40),
    "a part of a profile": with_segment(PLAIN, 0xE2, b"ICC_PROFILE\0\3\1abcd"),
    "an empty segment": with_segment(PLAIN, 0xE2, b""),
    "XMP that is none": with_segment(PLAIN, 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:"),
    "Photoshop's resources cut off": with_segment(PLAIN, 0xED, b"Photoshop 3.0\x008BIM\4\4"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_jpeg_that_lost_none_is_accepted(name: str) -> None:
    wanted = decode_image(PLAIN, "jpg")
    verify_image(HARMLESS[name], "jpg")
    assert np.array_equal(decode_image(HARMLESS[name], "jpg"), wanted)


def test_a_harmless_fault_hides_no_loss() -> None:
    data = save(NOISE, "JPEG", quality=90)
    for fault in (
        lambda file: file.replace(b"JFIF\0\1\1", b"JFIF\0\x09\x09"),
        lambda file: with_segment(file, 0xEE, b"Adobe\0d\0\0\0\0\x09"),
    ):
        assert outcome(verify_image, fault(data), "jpg") is None
        for damage in (cut, second_half_zeroed, tail_zeroed):
            assert outcome(verify_image, fault(damage(data)), "jpg") == reasons.CORRUPT_IMAGE
            assert outcome(decode_image, fault(damage(data)), "jpg") == reasons.CORRUPT_IMAGE


def test_a_jpeg_of_many_scans_is_refused() -> None:
    data = save(SMOOTH, "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    there = data.count(b"\xff\xda")
    assert outcome(verify_image, data[:-2] + last * (MAX_SCANS + 1 - there) + data[-2:], "jpg") == "too many scans"
    assert there < MAX_SCANS / 4


def test_a_jpeg_of_nothing_but_empty_segments_is_refused_after_so_many_of_them() -> None:
    def steps(function: Callable[..., Any], segments: int) -> int:
        data, count = PLAIN[:2] + b"\xff\xfe\0\2" * segments + PLAIN[2:], 0

        def trace(frame: FrameType, *_: Any) -> Any:
            nonlocal count
            count += "shardmill/images" in frame.f_code.co_filename
            return trace

        tracer = sys.gettrace()
        sys.settrace(trace)
        try:
            assert outcome(function, data, "jpg") == reasons.CORRUPT_IMAGE
        finally:
            sys.settrace(tracer)
        return count

    for function in (verify_image, decode_image):
        assert steps(function, 5_000_000) == steps(function, 500_000) > 1000


BIG = np.random.default_rng(0).integers(32, 72, 1_500_000, np.uint8).tobytes()
PNG = save(SMOOTH, "PNG")
ODD_CHUNKS = {
    "a text of a megabyte, deflated": chunk(b"zTXt", b"k\0\0" + zlib.compress(BIG)),
    "an international text of a megabyte": chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(BIG)),
    "a plain text of a megabyte": chunk(b"tEXt", b"k\0" + BIG),
    "a profile of a megabyte": chunk(b"iCCP", b"x\0\0" + zlib.compress(BIG)),
    "a profile that is a bomb": chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(100 << 20))),
    "a text whose data break off": chunk(b"zTXt", b"k\0\0" + zlib.compress(BIG)[:100]),
    "a profile whose data break off": chunk(b"iCCP", b"x\0\0" + zlib.compress(ADOBE_RGB)[:100]),
    "a profile that is no zlib stream": chunk(b"iCCP", b"x\0\0abcd"),
    "a checksum that is wrong": chunk(b"iCCP", b"x\0\0" + zlib.compress(ADOBE_RGB))[:-4] + b"abcd",
    "an empty text": chunk(b"tEXt", b""),
    "an empty profile": chunk(b"iCCP", b""),
    "EXIF that is none": chunk(b"eXIf", b"\xff" * 30),
    "a size in no unit": chunk(b"pHYs", b"x"),
    "a time that is none": chunk(b"tIME", b"\xff"),
    "a gamma that is none": chunk(b"gAMA", b""),
    "an animation of no frames": chunk(b"acTL", bytes(8)),
    "a frame without data": chunk(b"fcTL", b"x"),
    "a transparent colour that is none": chunk(b"tRNS", b"x"),
    "a private chunk": chunk(b"prVt", b"x" * 100),
}


@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_the_other_chunks_of_a_png_do_no_harm(name: str) -> None:
    for data in (with_chunks(PNG, ODD_CHUNKS[name]), PNG[:-12] + ODD_CHUNKS[name] + PNG[-12:]):
        verify_image(data, "png")
        assert np.array_equal(decode_image(data, "png"), smooth())


def test_a_png_in_apples_own_format_is_unsupported() -> None:
    data = PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:]
    assert outcome(verify_image, PNG[:33] + chunk(b"ABCD", b"") + PNG[33:], "png") == reasons.UNSUPPORTED_PIXELS
    for function in (verify_image, decode_image):
        with pytest.raises(Rejected, match=r"unsupported pixel format: .*CgBI"):
            function(data, "png")


def test_bytes_after_the_end_do_no_harm() -> None:
    for suffix, name in FORMATS.items():
        data = save(SMOOTH, name)
        verify_image(data + b"junk" * 50, suffix)
        assert np.array_equal(decode_image(data + b"junk" * 50, suffix), decode_image(data, suffix))


def test_the_other_chunks_of_a_webp_do_no_harm() -> None:
    plain, told = (
        save(SMOOTH, "WEBP", lossless=True),
        save(SMOOTH, "WEBP", lossless=True, icc_profile=b"x" * 40, exif=b"y" * 30),
    )
    assert np.array_equal(decode_image(told, "webp"), smooth())
    body = plain[12:]
    for extra in (b"EXIF\xff\xff\0\0", b"XMP \x04\0\0\0<x/>", b"ICCP\x04\0\0\0abcd", b"abcd\0\0\0\0"):
        for data in (body + extra, extra + body if not extra.startswith(b"EXIF") else body + extra):
            file = b"RIFF" + struct.pack("<I", len(data) + 4) + b"WEBP" + data
            verify_image(file, "webp")
            assert np.array_equal(decode_image(file, "webp"), smooth())


def test_the_other_tags_of_a_tiff_do_no_harm() -> None:
    extra = [(tag, 1, 8, bytes(8), True) for tag in (700, 33432, 33723, 34675)]
    plain = tiff(smooth(), photometric="rgb", metadata=None, extratags=extra)
    (directory,) = struct.unpack_from("<I", plain, 4)
    (count,) = struct.unpack_from("<H", plain, directory)
    places = {struct.unpack_from("<H", plain, at)[0]: at for at in range(directory + 2, directory + 2 + 12 * count, 12)}
    others = places.keys() - {256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 339}
    assert others >= {282, 305, 700, 34675}
    for tag, kind in itertools.product(others, range(20)):
        data = bytearray(plain)
        data[places[tag] + 2 : places[tag] + 12] = struct.pack("<HII", kind, 0x7FFFFFFF, 0x7FFFFFFF)
        verify_image(bytes(data), "tif")
        assert np.array_equal(decode_image(bytes(data), "tif"), smooth())


def test_a_damaged_comment_of_a_gif_does_no_harm() -> None:
    plain = save(SMOOTH.quantize(8), "GIF")
    at = plain.index(b",\0\0\0\0")
    wanted = decode_image(plain, "gif")
    for extra in (
        b"!\xfe\x03abc\0",
        b"!\xff\x0bXMP DataXMP\x02ab\0",
        b"!\xff\x0bICCRGBG1012\x02ab\0",
        b"!\xff\0",
        b"!\x99\1x\0",
    ):
        verify_image(plain[:at] + extra + plain[at:], "gif")
        assert np.array_equal(decode_image(plain[:at] + extra + plain[at:], "gif"), wanted)


def test_a_gif_without_its_last_bytes_has_all_pixels() -> None:
    plain = save(SMOOTH.quantize(8), "GIF")
    for lost in (1, 2):
        verify_image(plain[:-lost], "gif")
        assert np.array_equal(decode_image(plain[:-lost], "gif"), decode_image(plain, "gif"))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_thin_images_keep_their_shape(size: tuple[int, int]) -> None:
    for mode, (suffix, name) in itertools.product(("L", "RGB", "CMYK"), FORMATS.items()):
        if mode == "CMYK" and suffix not in ("jpg", "tiff"):
            continue
        data = save(Image.new(mode, size), name)
        verify_image(data, suffix)
        assert decode_image(data, suffix).shape == (size[1], size[0], 3)
        if mode == "L":
            assert decode_mask(data, suffix).shape == (size[1], size[0])


def test_every_stage_takes_what_packing_took_and_nothing_else(tmp_path: Path, make_dataset, run_chain) -> None:
    """The corpus as it is, and damaged: transforming and embedding reject nothing."""
    random = np.random.default_rng(7)
    raw = tmp_path / "raw"
    raw.mkdir()
    for suffix, files in CORPUS.items():
        for number, sound in enumerate(files):
            (raw / f"{suffix}{number}.{suffix}").write_bytes(sound)
            for turn in range(3):
                damaged = bytearray(sound)
                for at in random.integers(0, len(sound), 3):
                    damaged[at] ^= 1 << int(random.integers(8))
                (raw / f"{suffix}{number}-{turn}.{suffix}").write_bytes(damaged)
    transform = {"operations": [{"operation": "Resize", "arguments": {"size": [16, 16]}}], "format": "png"}
    dataset = make_dataset(raw, tmp_path / "root", transform=transform, max_reject_ratio=1.0)
    made = run_chain(dataset, last="embeddings")
    packed = made["webdataset_shards"].commit
    assert packed.total_rejects > 10
    assert packed.total_samples >= sum(map(len, CORPUS.values()))
    for asset in ("transformed_shards", "embeddings"):
        assert (made[asset].commit.total_rejects, made[asset].commit.total_samples) == (0, packed.total_samples)
