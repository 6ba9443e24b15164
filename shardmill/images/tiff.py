"""TIFF: its first directory is read here; Pillow is given a directory of the tags that concern pixels.

Planes that are stored one after the other are read one by one, as grey images, because Pillow misreads some of them.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO

import numpy as np
from PIL import Image, TiffImagePlugin

from shardmill.errors import Rejected
from shardmill.images import reasons
from shardmill.images.directory import Directory, read_directory
from shardmill.images.jpeg import open_jpeg
from shardmill.images.opened import Opened, corrupt
from shardmill.images.pieces import Pieces, find_pieces
from shardmill.images.scale import eight_bits

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_FILL_ORDER, _STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS = 266, 273, 274, 277, 278
_STRIP_BYTES, _PLANAR, _PREDICTOR, _COLOUR_MAP = 279, 284, 317, 320
_TILE_OFFSETS, _TILE_BYTES, _EXTRA, _FORMAT, _SUBSAMPLING, _ICC = 324, 325, 338, 339, 530, 34675
_JPEG_TABLES = 347
_OF_PIXELS = {
    _JPEG_TABLES,
    *(_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIP_OFFSETS, _SAMPLES, _ROWS),
    *(_STRIP_BYTES, _PLANAR, _PREDICTOR, _COLOUR_MAP, _TILE_OFFSETS, _TILE_BYTES, _EXTRA, _FORMAT, _SUBSAMPLING),
    *(292, 293, 322, 323, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 531, 532),
}
_LONG, _VERSION = 4, 42
_NO_INTEGERS = {_JPEG_TABLES, 529, 532}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_NAMES = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIELAB", 32803: "raw"}
_KINDS = {2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex floats"}
_RAW, _JPEG = 1, 7
_READ = {1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34925, 50000}
_UNREAD = {6: "old-style JPEG", 34712: "JPEG 2000", 34892: "lossy JPEG", 50001: "WebP", 50002: "JPEG XL", 34887: "LERC"}


def open_tiff(data: bytes) -> Opened:
    """Read the first directory.

    Raises:
        Rejected: It is damaged, or its pixels are of a kind that is not read here.
    """
    directory = _read_directory(data)
    width, height = directory.value(_WIDTH, 0), directory.value(_LENGTH, 0)
    orientation = directory.value(_ORIENTATION, 1)
    samples = directory.value(_SAMPLES, 1)
    bits = directory.values(_BITS, (1,))[:samples]
    photometric = directory.value(_PHOTOMETRIC, _WHITE_IS_ZERO)
    _check(directory, photometric, samples, bits)
    planar = directory.value(_PLANAR, 1) == 2 and samples > 1
    if planar:
        load = partial(_load_planes, directory, samples, photometric)
    else:
        load = partial(_load, directory, photometric, bits)
    if not 1 <= orientation <= 8:
        orientation = 1
    return Opened(width, height, load, orientation, directory.raw(_ICC), bits[0])


def _read_directory(data: bytes) -> Directory:
    try:
        directory = read_directory(data)
    except ValueError as error:
        raise Rejected(reasons.CORRUPT_IMAGE, "the TIFF's directory is not in the file") from error
    if not directory.is_whole:
        raise Rejected(reasons.CORRUPT_IMAGE, "the TIFF's directory is cut off")
    for tag in sorted(_OF_PIXELS & directory.tags.keys()):
        if not (directory.raw(tag) if tag in _NO_INTEGERS else directory.has_integers(tag)):
            raise Rejected(reasons.CORRUPT_IMAGE, f"tag {tag} of the TIFF's directory is damaged or cut off")
    if not directory.values(_WIDTH) or not directory.values(_LENGTH):
        raise Rejected(reasons.CORRUPT_IMAGE, "the TIFF's directory names no size")
    return directory


def _check(directory: Directory, photometric: int, samples: int, bits: tuple[int, ...]) -> None:
    name = _NAMES.get(photometric, f"photometric {photometric}")
    compression = directory.value(_COMPRESSION, 1)
    kinds = set(directory.values(_FORMAT, (1,)))
    problem = None
    if compression not in _READ:
        problem = f"{_UNREAD.get(compression, f'compression {compression}')} in TIFF"
    elif kinds - {1, 4}:
        problem = f"{max(bits)}-bit {_KINDS.get(max(kinds), f'samples of kind {max(kinds)}')}, {name} TIFF"
    elif compression == _JPEG and max(bits) != 8:
        problem = f"{max(bits)}-bit JPEG in TIFF"
    elif max(bits) > 16 or len(set(bits)) > 1:
        problem = f"{' + '.join(map(str, bits[:8]))}-bit {name} TIFF"
    elif photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR):
        problem = f"{name} TIFF"
    elif (
        photometric == _YCBCR
        and compression != _JPEG
        and (directory.values(_SUBSAMPLING, (2, 2)) != (1, 1) or compression != _RAW)
    ):
        problem = "YCbCr TIFF that is no JPEG"
    if problem:
        raise Rejected(reasons.UNSUPPORTED_PIXELS, problem)
    if samples > 8:
        raise Rejected(reasons.UNSUPPORTED_PIXELS, f"{samples} bands")


def _load(directory: Directory, photometric: int, bits: tuple[int, ...]) -> Image.Image:
    pieces = find_pieces(directory)
    _check_jpegs(directory, pieces)
    changes = dict(pieces.tags)
    inverted = photometric == _WHITE_IS_ZERO and bits == (16,)
    if inverted:
        changes[_PHOTOMETRIC] = [_BLACK_IS_ZERO]
    plain = photometric == _YCBCR and bits == (8, 8, 8) and directory.value(_COMPRESSION, _RAW) == _RAW
    if plain:  # Pillow 12 takes its strips for ones of four bytes a pixel
        changes[_PHOTOMETRIC] = [_RGB]
    colours = directory.values(_COLOUR_MAP)
    if photometric == _PALETTE and colours and max(colours) < 256:  # as some write that take 8 bits for 16
        changes[_COLOUR_MAP] = [257 * value for value in colours]
    image = _read(directory, changes, bits)
    if plain:
        return Image.merge("YCbCr", image.split())
    return Image.fromarray(np.invert(np.array(image).astype(np.uint16))) if inverted else image


def _check_jpegs(directory: Directory, pieces: Pieces) -> None:
    """Look for lost pixels in each strip or tile that is a JPEG: libtiff passes over what libjpeg warns of."""
    if directory.value(_COMPRESSION, _RAW) != _JPEG:
        return
    tables = (directory.raw(_JPEG_TABLES) or b"").removesuffix(b"\xff\xd9")
    for at, count in zip(pieces.offsets, pieces.counts, strict=True):
        piece = directory.data[at : at + count]
        check = open_jpeg(tables + piece[2:] if tables else piece).check
        assert check is not None
        check()


def _read(directory: Directory, changes: Mapping[int, Sequence[int] | None], bits: tuple[int, ...]) -> Image.Image:
    data = _rewritten(directory, changes)
    with corrupt():
        try:
            image = TiffImagePlugin.TiffImageFile(BytesIO(data))
        except SyntaxError as error:
            name = _NAMES.get(directory.value(_PHOTOMETRIC, 0), "")
            extra = len(directory.values(_EXTRA))
            detail = f"{len(bits)} x {bits[0]}-bit {name} TIFF" + (f", {extra} of them extra" if extra else "")
            raise Rejected(reasons.UNSUPPORTED_PIXELS, f"{detail} ({error})") from error
        image.load()
        return image


def _load_planes(directory: Directory, samples: int, photometric: int) -> Image.Image:
    """Read each plane as a grey image, and put them together with 8 bits each."""
    extra = directory.values(_EXTRA)
    colours = {_RGB: 3, _CMYK: 4}.get(photometric, 1)
    name = f"{samples} planes of {_NAMES.get(photometric, photometric)} TIFF"
    if photometric in (_PALETTE, _YCBCR) or samples < colours:
        raise Rejected(reasons.UNSUPPORTED_PIXELS, name)
    has_alpha = samples > colours and (extra[:1] in ((1,), (2,)) or (not extra and samples == colours + 1))
    associated = extra[:1] == (1,)
    if has_alpha and (photometric == _CMYK or (photometric == _WHITE_IS_ZERO and associated)):
        raise Rejected(reasons.UNSUPPORTED_PIXELS, f"{name} with transparency")
    pieces = find_pieces(directory)
    _check_jpegs(directory, pieces)
    planes = [_plane(directory, pieces, number) for number in range(colours + has_alpha)]
    if photometric == _WHITE_IS_ZERO:
        planes[0] = planes[0].point(lambda value: 255 - value)
    if not has_alpha:
        return Image.merge({1: "L", 3: "RGB", 4: "CMYK"}[colours], planes) if colours > 1 else planes[0]
    if colours == 1:
        return Image.merge("La" if associated else "LA", planes)
    return Image.merge("RGBa" if associated else "RGBA", planes)


def _plane(directory: Directory, pieces: Pieces, number: int) -> Image.Image:
    bits = (directory.values(_BITS, (1,)) * pieces.planes)[number]
    changes: dict[int, Sequence[int] | None] = {
        **pieces.plane(number).tags,
        _SAMPLES: [1],
        _BITS: [bits],
        _PHOTOMETRIC: [_BLACK_IS_ZERO],
        _PLANAR: [1],
        _EXTRA: None,
        _FORMAT: None,
    }
    return eight_bits(_read(directory, changes, (bits,)), bits)


def _rewritten(file: Directory, changes: Mapping[int, Sequence[int] | None]) -> bytes:
    """The file with a directory of the tags of pixels alone, some of them changed or left out; a BigTIFF as a TIFF."""
    tags: dict[int, tuple[int, int, bytes]] = {}
    for tag in _OF_PIXELS & (file.tags.keys() | changes.keys()):
        values = changes.get(tag) if tag in changes else None if tag in _NO_INTEGERS else file.values(tag)
        if values is not None:
            if max(values) >= 1 << 32:
                raise Rejected(reasons.UNSUPPORTED_PIXELS, "a BigTIFF that needs 64 bits")
            tags[tag] = (_LONG, len(values), struct.pack(f"{file.order}{len(values)}I", *values))
        elif tag not in changes:
            tags[tag] = (file.tags[tag].type, file.tags[tag].length, file.raw(tag) or b"")
    start = len(file.data) + len(file.data) % 2
    at = start + 2 + 12 * len(tags) + 4
    directory, behind = [struct.pack(file.order + "H", len(tags))], b""
    for tag, (code, length, content) in sorted(tags.items()):
        if len(content) > 4:
            place = struct.pack(file.order + "I", at + len(behind))
            behind += content + bytes(len(content) % 2)
            content = place
        directory.append(struct.pack(file.order + "HHI", tag, code, length) + content.ljust(4, b"\0"))
    head = file.data[:2] + struct.pack(file.order + "HI", _VERSION, start)
    rest = memoryview(file.data)[len(head) :]
    return b"".join([head, rest, bytes(start - len(file.data)), *directory, bytes(4), behind])
