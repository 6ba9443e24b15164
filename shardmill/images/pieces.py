"""Where a TIFF's pixels stand: every strip or tile has to be in the file, or pixels were lost."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from shardmill.errors import Rejected
from shardmill.images import reasons
from shardmill.images.directory import Directory

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _SAMPLES, _ROWS, _PLANAR = 256, 257, 258, 259, 277, 278, 284
_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES, _TILE_WIDTH, _TILE_LENGTH = 273, 279, 324, 325, 322, 323
_RAW = 1
_FAX = (2, 3, 4)
_HEADER = 8


class Pieces(NamedTuple):
    """The strips or tiles of all planes, one plane after the other."""

    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    """Bytes of each, all of them in the file."""
    planes: int
    tiled: bool

    def plane(self, number: int) -> "Pieces":
        """Those of one plane."""
        size = len(self.offsets) // self.planes
        some = slice(number * size, (number + 1) * size)
        return Pieces(self.offsets[some], self.counts[some], 1, self.tiled)

    @property
    def tags(self) -> Mapping[int, Sequence[int] | None]:
        """What a directory has to say of them, and has to leave out."""
        if self.tiled:
            return {_TILE_OFFSETS: self.offsets, _TILE_BYTES: self.counts}
        tiles = dict.fromkeys((_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTES))
        return {_STRIP_OFFSETS: self.offsets, _STRIP_BYTES: self.counts, **tiles}


def find_pieces(directory: Directory) -> Pieces:
    """Find the pixels of a directory.

    Uncompressed ones are as long as their rows need, whatever counts the directory tells. Compressed ones without a
    count reach to whatever stands next in the file.

    Raises:
        Rejected: Some are missing, or not in the file.
    """
    tiled = _STRIP_OFFSETS not in directory.tags
    offsets_tag, counts_tag = (_TILE_OFFSETS, _TILE_BYTES) if tiled else (_STRIP_OFFSETS, _STRIP_BYTES)
    offsets, counts = directory.values(offsets_tag), directory.values(counts_tag)
    samples = directory.value(_SAMPLES, 1)
    planes = samples if directory.value(_PLANAR, 1) == 2 else 1
    width, height = directory.value(_WIDTH, 0), directory.value(_LENGTH, 0)
    wide = directory.value(_TILE_WIDTH, 0) if tiled else width
    high = directory.value(_TILE_LENGTH, 0) if tiled else min(directory.value(_ROWS, height), height)
    if not wide or not high:
        raise Rejected(reasons.CORRUPT_IMAGE, "the TIFF's strips or tiles have no size")
    columns, rows = -(-width // wide), -(-height // high)
    wanted = columns * rows * planes
    if len(offsets) < wanted:
        raise Rejected(reasons.CORRUPT_IMAGE, f"the TIFF's directory names {len(offsets)} of {wanted} strips or tiles")
    offsets = offsets[:wanted]
    size, compression = len(directory.data), directory.value(_COMPRESSION, _RAW)
    starts = sorted({*offsets, directory.place, size})
    following = dict(pairwise(starts))
    if compression == _RAW:
        row = -(-wide * directory.value(_BITS, 1) * (samples if planes == 1 else 1) // 8)
        heights = [min(high, height - high * (number // columns)) for number in range(columns * rows)]
        counts = tuple(row * each for each in heights) * planes
    else:
        if len(counts) < wanted and compression in _FAX:  # its decoder takes what is missing for white
            raise Rejected(reasons.CORRUPT_IMAGE, "the TIFF's directory does not say how long its strips are")
        told = (*counts, *[0] * wanted)[:wanted]
        counts = tuple(n or following.get(at, at) - at for at, n in zip(offsets, told, strict=True))
    for number, (at, count) in enumerate(zip(offsets, counts, strict=True)):
        if at < _HEADER or at + count > size or not count:
            raise Rejected(reasons.CORRUPT_IMAGE, f"strip or tile {number} of the TIFF is not in the file")
        if compression == _RAW and (at == directory.place or at + count > following[at]):
            raise Rejected(reasons.CORRUPT_IMAGE, f"strip or tile {number} of the TIFF reaches into what follows it")
    return Pieces(offsets, counts, planes, tiled)
