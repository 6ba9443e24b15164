"""JPEGs of which every decoder, one in hardware too, makes the same picture but for rounding."""

from shardmill.images.segments import SOS, segments

_BASELINE, _JFIF, _ADOBE = 0xC0, 0xE0, 0xEE
_SAMPLINGS = {bytes([0x11]), *(bytes([first, 0x11, 0x11]) for first in (0x11, 0x21, 0x12, 0x22))}
"""Grey, 4:4:4, 4:2:2, 4:4:0, 4:2:0: a byte a component."""


def is_baseline(data: bytes) -> bool:
    """Whether a JPEG is of 8 bits, sequential, Huffman-coded, in one scan; grey or YCbCr, in a usual sampling.

    Raises:
        Rejected: Its segments have no end.
    """
    frame, ycc = b"", False
    for marker, start, end in segments(data):
        if marker == _JFIF and data.startswith(b"JFIF\0", start, end):
            ycc = True
        elif marker == _ADOBE and data.startswith(b"Adobe", start, end):
            if end < start + 12 or data[start + 11] != 1:
                return False
            ycc = True
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame or marker != _BASELINE:
                return False
            frame = data[start:end]
        elif marker == SOS:
            components = frame[5] if len(frame) > 5 else 0
            sampling = frame[7::3][:components]
            if components == 3 and not ycc and frame[6::3][:3] != b"\1\2\3":
                return False  # decoders differ in what they take such names for
            if data.find(b"\xff\xda", end) >= 0:
                return False  # another scan, or metadata after this one
            return frame[0] == 8 and components in (1, 3) and data[start] == components and sampling in _SAMPLINGS
    return False
