"""A file is of the format that its name says, in any of its spellings; what cannot be read is called by its name."""

import builtins
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from shardmill.errors import ConfigurationError, Rejected
from shardmill.images import LONGEST_HEAD, decode_image, encode_image, reasons, verify_head, verify_image
from shardmill.samples import IMAGE_FORMATS, SUFFIX_ALIASES, canonical_suffix, image_format
from tests.pictures import FORMATS, save, smooth

SMOOTH = Image.fromarray(smooth())


def heic() -> bytes:
    file = io.BytesIO()
    pytest.importorskip("pillow_heif").from_pillow(SMOOTH).save(file, quality=90)
    return file.getvalue()


def jxl() -> bytes:
    return imagecodecs.jpegxl_encode(smooth(), lossless=True)


@pytest.mark.parametrize("suffix", [*IMAGE_FORMATS, *SUFFIX_ALIASES])
def test_every_accepted_suffix_decodes(suffix: str) -> None:
    name = canonical_suffix(suffix)
    data = {"heic": heic, "jxl": jxl}[name]() if name in ("heic", "jxl") else save(SMOOTH, FORMATS[name])
    verify_image(data, suffix)
    verify_head(data[:LONGEST_HEAD], f"image.{suffix}")
    assert np.abs(decode_image(data, f"image.{suffix}").astype(int) - smooth()).max() <= 25


def test_a_suffix_has_one_spelling() -> None:
    assert {canonical_suffix(alias) for alias in ("JPG", "jpeg", "JPE", "jfif", "Jpeg")} == {"jpg"}
    assert canonical_suffix("TIF") == "tiff"
    assert canonical_suffix("apng") == "png"
    assert canonical_suffix("txt") == "txt"
    assert SUFFIX_ALIASES.keys().isdisjoint(IMAGE_FORMATS)
    assert set(SUFFIX_ALIASES.values()) <= IMAGE_FORMATS.keys()
    assert image_format("left.JFIF") == "JPEG"
    assert image_format("cls") is None


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (imagecodecs.jpeg2k_encode(smooth()), "JPEG 2000"),
        (b"8BPS\0\1", "PSD"),
        (b"%PDF-1.7", "PDF"),
        (b"P6\n1 1\n255\n", "Netpbm"),
        (b"qoif\0\0\0\1", "QOI"),
        (b"v/1\x01", "OpenEXR"),
        (b"II\xbc\x01", "JPEG XR"),
    ],
)
def test_a_format_that_is_not_read_is_called_by_its_name(data: bytes, name: str) -> None:
    for function in (verify_image, decode_image, verify_head):
        with pytest.raises(Rejected, match=f"unsupported format: named .jpg, but the bytes are {name}"):
            function(data, "jpg")


def test_another_format_that_is_read_is_a_wrong_extension() -> None:
    for data, name in (
        (heic(), "HEIC"),
        (jxl(), "JPEG XL"),
        (save(SMOOTH, "AVIF"), "AVIF"),
        (save(SMOOTH, "PNG"), "PNG"),
    ):
        for function in (verify_image, decode_image, verify_head):
            with pytest.raises(Rejected) as caught:
                function(data, "jpg")
            assert (caught.value.reason, caught.value.detail) == (
                reasons.WRONG_EXTENSION,
                f"named .jpg, but the bytes are {name}",
            )


@pytest.mark.parametrize(
    ("make", "suffix", "package", "said"),
    [
        (heic, "heic", "pillow_heif", "HEIC needs the extra heif: pip install 'shardmill[heif]'"),
        (jxl, "jxl", "pillow_jxl", "JPEG XL needs the extra jxl: pip install 'shardmill[jxl]'"),
    ],
)
def test_without_its_extra_a_format_is_refused_by_the_extras_name(
    make: Callable[[], bytes], suffix: str, package: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = make(), builtins.__import__

    def lack(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", lack)
    for function in (verify_image, decode_image):
        with pytest.raises(Rejected) as caught:
            function(data, suffix)
        assert (caught.value.reason, caught.value.detail) == (reasons.UNSUPPORTED_FORMAT, said)


@pytest.mark.parametrize("suffix", ["heic", "jxl"])
def test_formats_that_are_only_read_are_not_written(suffix: str) -> None:
    with pytest.raises(ConfigurationError, match="is read, and not written"):
        encode_image(smooth(), suffix)


def test_a_jpeg_xl_is_refused_by_its_header() -> None:
    for shape in ((9, 17), (64, 64), (256, 300), (480, 640), (5, 3000)):
        data = imagecodecs.jpegxl_encode(np.zeros((*shape, 3), np.uint8))
        with pytest.raises(Rejected, match=f"too many pixels: {shape[1]} x {shape[0]}, the limit is 10"):
            verify_image(data, "jxl", 10)


def test_orientation_is_applied_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = exif.tobytes()
    upright = np.rot90(smooth(), -1)
    assert np.abs(decode_image(save(SMOOTH, "AVIF", exif=turned, quality=90), "avif").astype(int) - upright).max() <= 25
    file = io.BytesIO()
    pytest.importorskip("pillow_heif").from_pillow(SMOOTH).save(file, quality=90, exif=turned)
    assert np.abs(decode_image(file.getvalue(), "heic").astype(int) - upright).max() <= 25
    pytest.importorskip("pillow_jxl")
    from pillow_jxl import JpegXLImagePlugin  # noqa: F401

    (tmp_path / "a.jpg").write_bytes(save(SMOOTH, "JPEG", exif=turned))
    file_of_it = Image.open(tmp_path / "a.jpg")  # the plug-in recompresses files alone
    assert np.abs(decode_image(save(file_of_it, "JXL", lossless_jpeg=True), "jxl").astype(int) - upright).max() <= 25
