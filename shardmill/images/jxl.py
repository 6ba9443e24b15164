"""The size of a JPEG XL, which its plug-in tells only after it has decoded all pixels."""

from shardmill.errors import Rejected
from shardmill.images import reasons

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_WIDTHS = (9, 13, 18, 30)


def jxl_size(data: bytes) -> tuple[int, int]:
    """Width and height by the header of the codestream, bare or in a container.

    Raises:
        Rejected: There is none.
    """
    start = _codestream(data)
    bits = int.from_bytes(data[start + 2 : start + 18], "little")
    if data[start : start + 2] != b"\xff\x0a" or len(data) < start + 8:
        raise Rejected(reasons.CORRUPT_IMAGE, "a JPEG XL without its header")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    is_small = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if is_small else 1 + take(_WIDTHS[take(2)])

    height = side()
    ratio = _RATIOS.get(take(3))
    return (height * ratio[0] // ratio[1] if ratio else side()), height


def _codestream(data: bytes) -> int:
    at = 0
    if data[:2] == b"\xff\x0a":
        return at
    while at + 8 <= len(data):
        length, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if kind == b"jxlc":
            return at + head
        if kind == b"jxlp":
            return at + head + 4
        if length < head:
            break
        at += length
    raise Rejected(reasons.CORRUPT_IMAGE, "a JPEG XL without a codestream")
