"""TIFF: its first directory is read here; Pillow is given a directory of the tags that concern pixels.

Planes that are stored one after the other are read one by one, as grey images, because Pillow misreads some of them.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

from shardmill.errors import Rejected
from shardmill.images import reasons
from shardmill.images.opened import Opened, corrupt
from shardmill.images.scale import eight_bits

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_FILL_ORDER, _STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS = 266, 273, 274, 277, 278
_STRIP_BYTES, _PLANAR, _PREDICTOR, _COLOUR_MAP = 279, 284, 317, 320
_TILE_OFFSETS, _TILE_BYTES, _EXTRA, _FORMAT, _SUBSAMPLING, _ICC = 324, 325, 338, 339, 530, 34675
_OF_PIXELS = {
    *(_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIP_OFFSETS, _SAMPLES, _ROWS),
    *(_STRIP_BYTES, _PLANAR, _PREDICTOR, _COLOUR_MAP, _TILE_OFFSETS, _TILE_BYTES, _EXTRA, _FORMAT, _SUBSAMPLING),
    *(292, 293, 322, 323, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 531, 532),
}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_NAMES = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIELAB", 32803: "raw"}
_KINDS = {2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex floats"}
_RAW, _JPEG = 1, 7
_READ = {1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34925, 50000}
_UNREAD = {6: "old-style JPEG", 34712: "JPEG 2000", 34892: "lossy JPEG", 50001: "WebP", 50002: "JPEG XL", 34887: "LERC"}


class _Tag(NamedTuple):
    type: int
    length: int
    """Number of values."""
    value: bytes
    """As it stands in the entry: the values, or where they are."""


@dataclass(frozen=True)
class _Directory:
    data: bytes
    order: str
    """`<` or `>`, as struct writes it."""
    big: bool
    tags: Mapping[int, _Tag] = field(default_factory=dict)

    def values(self, tag: int, default: Sequence[int] = ()) -> tuple[int, ...]:
        """The integers of a tag; the default where it is missing or damaged."""
        raw, found = self.raw(tag), self.tags.get(tag)
        if raw is None or found is None or found.type not in _CODES or not found.length:
            return tuple(default)
        return struct.unpack(f"{self.order}{found.length}{_CODES[found.type]}", raw)

    def value(self, tag: int, default: int) -> int:
        return self.values(tag, (default,))[0]

    def raw(self, tag: int) -> bytes | None:
        found = self.tags.get(tag)
        if found is None or found.type not in _SIZES:
            return None
        size = found.length * _SIZES[found.type]
        if size <= len(found.value):
            return found.value[:size]
        at = int.from_bytes(found.value, "little" if self.order == "<" else "big")
        return self.data[at : at + size] if at + size <= len(self.data) else None

    def rewritten(self, changes: Mapping[int, Sequence[int] | None]) -> bytes:
        """The file with a directory of the tags of pixels alone, some of them changed or left out."""
        word, width, code = ("Q", 8, 16) if self.big else ("I", 4, 4)
        entries = {tag: entry for tag, entry in self.tags.items() if tag in _OF_PIXELS and tag not in changes}
        start = len(self.data) + len(self.data) % 2
        count = len(entries) + sum(values is not None for values in changes.values())
        at = start + (8 + 20 * count + 8 if self.big else 2 + 12 * count + 4)
        behind = b""
        for tag, values in changes.items():
            if values is not None:
                packed = struct.pack(f"{self.order}{len(values)}{word}", *values)
                if len(packed) > width:
                    place = struct.pack(self.order + word, at + len(behind))
                    behind += packed
                    packed = place
                entries[tag] = _Tag(code, len(values), packed)
        directory = struct.pack(self.order + ("Q" if self.big else "H"), count)
        for tag, entry in sorted(entries.items()):
            directory += struct.pack(f"{self.order}HH{word}", tag, entry.type, entry.length) + entry.value.ljust(
                width, b"\0"
            )
        place = struct.pack(self.order + word, start)
        head = self.data[:8] + place if self.big else self.data[:4] + place
        rest = memoryview(self.data)[len(head) :]
        return b"".join([head, rest, bytes(start - len(self.data)), directory, bytes(width), behind])


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


def _read_directory(data: bytes) -> _Directory:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    tags: dict[int, _Tag] = {}
    try:
        if big:
            (at,) = struct.unpack_from(order + "Q", data, 8)
            (count,) = struct.unpack_from(order + "Q", data, at)
            at, entry, wide = at + 8, order + "HHQ8s", 20
        else:
            (at,) = struct.unpack_from(order + "I", data, 4)
            (count,) = struct.unpack_from(order + "H", data, at)
            at, entry, wide = at + 2, order + "HHI4s", 12
        if count > (len(data) - at) // wide:
            raise Rejected(reasons.CORRUPT_IMAGE, "the TIFF's directory does not end")
        for number in range(count):
            tag, kind, values, value = struct.unpack_from(entry, data, at + wide * number)
            tags.setdefault(tag, _Tag(kind, values, value))
    except (struct.error, OverflowError) as error:
        raise Rejected(reasons.CORRUPT_IMAGE, "the TIFF's directory is not in the file") from error
    directory = _Directory(data, order, big, tags)
    if not directory.values(_WIDTH) or not directory.values(_LENGTH):
        raise Rejected(reasons.CORRUPT_IMAGE, "the TIFF's directory names no size")
    return directory


def _check(directory: _Directory, photometric: int, samples: int, bits: tuple[int, ...]) -> None:
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


def _load(directory: _Directory, photometric: int, bits: tuple[int, ...]) -> Image.Image:
    changes: dict[int, Sequence[int] | None] = {}
    inverted = photometric == _WHITE_IS_ZERO and bits == (16,)
    if inverted:
        changes[_PHOTOMETRIC] = [_BLACK_IS_ZERO]
    colours = directory.values(_COLOUR_MAP)
    if photometric == _PALETTE and colours and max(colours) < 256:  # as some write that take 8 bits for 16
        changes[_COLOUR_MAP] = [257 * value for value in colours]
    image = _read(directory, changes, bits)
    return Image.fromarray(np.invert(np.array(image).astype(np.uint16))) if inverted else image


def _read(directory: _Directory, changes: Mapping[int, Sequence[int] | None], bits: tuple[int, ...]) -> Image.Image:
    data = directory.rewritten(changes)
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


def _load_planes(directory: _Directory, samples: int, photometric: int) -> Image.Image:
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
    planes = [_plane(directory, number, samples) for number in range(colours + has_alpha)]
    if photometric == _WHITE_IS_ZERO:
        planes[0] = planes[0].point(lambda value: 255 - value)
    if not has_alpha:
        return Image.merge({1: "L", 3: "RGB", 4: "CMYK"}[colours], planes) if colours > 1 else planes[0]
    if colours == 1:
        return Image.merge("La" if associated else "LA", planes)
    return Image.merge("RGBa" if associated else "RGBA", planes)


def _plane(directory: _Directory, number: int, samples: int) -> Image.Image:
    bits = (directory.values(_BITS, (1,)) * samples)[number]
    offsets, counts = (
        (_STRIP_OFFSETS, _STRIP_BYTES) if _STRIP_OFFSETS in directory.tags else (_TILE_OFFSETS, _TILE_BYTES)
    )
    changes: dict[int, Sequence[int] | None] = {
        _SAMPLES: [1], _BITS: [bits], _PHOTOMETRIC: [_BLACK_IS_ZERO], _PLANAR: [1], _EXTRA: None, _FORMAT: None
    }  # fmt: skip
    for tag in (offsets, counts):
        values = directory.values(tag)
        pieces = len(values) // samples
        if not pieces:
            raise Rejected(reasons.CORRUPT_IMAGE, "the TIFF's directory does not say where each plane is")
        changes[tag] = values[number * pieces : (number + 1) * pieces]
    return eight_bits(_read(directory, changes, (bits,)), bits)
