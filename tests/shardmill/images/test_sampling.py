"""JPEGs of every sampling factors are decoded, by a second decoder's pixels."""

import io
import struct
from itertools import product

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from shardmill.errors import Rejected
from shardmill.images import decode_image, reasons, verify_image
from tests.pictures import save, with_segment

RNG = np.random.default_rng(0)
CODES = (0b00, 0b010, 0b011, 0b100, 0b101, 0b110)
"""Of the differences' categories 0 to 5, in the standard's table of luminance; the first has two bits, others three."""
FACTORS = (
    *("11 11 11", "21 11 11", "12 11 11", "22 11 11", "41 11 11"),  # that have a name
    *("42 11 11", "31 11 11", "11 22 22", "22 11 21", "13 11 11", "22 21 12", "21 21 11", "14 11 11"),
    *("11 11 11 11", "22 11 11 22", "21 11 11 11"),
)


def jpeg(factors: str) -> bytes:
    """A picture of blocks of one colour, with these sampling factors: `22 11 11` is what most files have."""
    plain = save(Image.new("L", (8, 8)), "JPEG")  # for its tables
    tables = (
        plain[plain.index(b"\xff\xdb") : plain.index(b"\xff\xc0")],
        plain[plain.index(b"\xff\xc4") : plain.index(b"\xff\xda")],
    )
    components = [(int(pair[0]), int(pair[1])) for pair in factors.split()]
    across, down = max(h for h, _ in components), max(v for _, v in components)
    bits, last = "", [0] * len(components)
    units = 5
    for _ in range(units * units):
        for number, (h, v) in enumerate(components):
            for _ in range(h * v):
                value = int(RNG.integers(-12, 13))
                difference = value - last[number]
                last[number] = value
                size = abs(difference).bit_length()
                bits += f"{CODES[size]:0{3 if size else 2}b}"
                if size:
                    bits += f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}"
                bits += "1010"  # nothing but the average
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = struct.pack(">BHHB", 8, 8 * down * units - 3, 8 * across * units - 5, len(components))
    frame += b"".join(bytes([n + 1, h << 4 | v, 0]) for n, (h, v) in enumerate(components))
    scan = bytes([len(components)]) + b"".join(bytes([n + 1, 0]) for n in range(len(components))) + b"\0\x3f\0"
    segments = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content
        for marker, content in ((0xC0, frame), (0xDA, scan))
    )
    at = len(frame) + 4
    return b"\xff\xd8" + tables[0] + segments[:at] + tables[1] + segments[at:] + data + b"\xff\xd9"


@pytest.mark.parametrize("factors", FACTORS)
def test_jpegs_of_any_sampling_are_decoded(factors: str) -> None:
    data = jpeg(factors)
    if factors.count(" ") == 3:
        inks = imagecodecs.jpeg8_decode(data).astype(float)
        wanted = inks[..., :3] * inks[..., 3:] / 255
    else:
        wanted = imagecodecs.jpeg8_decode(data)
    assert wanted.std() > 4
    for file in (data, with_segment(data, 0xE1, b"Exif\0\0II*\0\xff\xff"), data + bytes(100)):
        verify_image(file, "jpg")
        assert np.abs(decode_image(file, "jpg") - wanted.astype(float)).max() <= 3


@pytest.mark.parametrize("factors", FACTORS)
def test_a_cut_jpeg_of_any_sampling_is_refused(factors: str) -> None:
    data = jpeg(factors)
    for function, lost in product((verify_image, decode_image), (1, 2, 5, 50)):
        with pytest.raises(Rejected, match=reasons.CORRUPT_IMAGE):
            function(data[:-lost], "jpg")
    assert Image.open(io.BytesIO(data)).size == decode_image(data, "jpg").shape[1::-1]
