"""Which format a file has, by its first bytes; and which formats are read."""

from typing import TYPE_CHECKING

from shardmill.errors import Rejected
from shardmill.images import reasons

if TYPE_CHECKING:
    from PIL import ImageFile

LONGEST_HEAD = 64
"""Bytes that are enough to tell a format."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"\xff\x0a", "JXL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xffO\xffQ", "JPEG 2000"),
    (b"\xff\xd8\xf7", "JPEG-LS"),
    (b"8BPS", "PSD"),
    (b"%PDF-", "PDF"),
    (b"qoif", "QOI"),
    (b"\0\0\x01\0", "ICO"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"DDS ", "DDS"),
    *((b"P%d%c" % (number, end), "Netpbm") for number in range(1, 8) for end in b"\n \t\r"),
)
_BRANDS: dict[bytes, str] = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"),
}
_EXTRAS = {"HEIF": ("HEIC", "heif"), "JXL": ("JPEG XL", "jxl")}
_READ = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", *_EXTRAS)


def check_format(data: bytes, component: str, wanted: str) -> None:
    """Check that a file begins as one of the format that its name says. `LONGEST_HEAD` bytes are enough.

    Raises:
        Rejected: It is empty, no image, of another format, or of one that is not read here.
    """
    if not data:
        raise Rejected(reasons.EMPTY_FILE, f"{component} has no bytes")
    suffix = component.rpartition(".")[2]
    found = _sniff(data)
    if found is None:
        raise Rejected(reasons.NOT_AN_IMAGE, f"named .{suffix}, begins with {bytes(data[:12])!r}")
    if found != wanted:
        reason = reasons.WRONG_EXTENSION if found in _READ else reasons.UNSUPPORTED_FORMAT
        raise Rejected(reason, f"named .{suffix}, but the bytes are {_EXTRAS.get(found, (found,))[0]}")


def plugin(name: str) -> "type[ImageFile.ImageFile]":
    """The class of Pillow's that reads HEIF or JXL.

    Raises:
        Rejected: The extra that brings it is not installed.
    """
    try:
        if name == "HEIF":
            from pillow_heif import HeifImageFile

            return HeifImageFile
        from pillow_jxl.JpegXLImagePlugin import JXLImageFile

        return JXLImageFile
    except ImportError:
        format, extra = _EXTRAS[name]
        detail = f"{format} needs the extra {extra}: pip install 'shardmill[{extra}]'"
        raise Rejected(reasons.UNSUPPORTED_FORMAT, detail) from None


def _sniff(data: bytes) -> str | None:
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        length = min(int.from_bytes(data[:4], "big"), LONGEST_HEAD)
        brands = [data[8:12], *(data[at : at + 4] for at in range(16, length - 3, 4))]
        found = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return "AVIF" if "AVIF" in found else found[0] if found else None
    return None
