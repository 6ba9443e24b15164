"""From the numbers of a file to sRGB, 8 bits: what the ICC profile says, transparency over white.

A profile that cannot be used (damaged, of another colour space than the pixels, no space of a device) is as none.
Relative colorimetric, by littleCMS. A profile that changes no colour by more than one step in 255 costs nothing.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from shardmill.images.opened import corrupt
from shardmill.images.scale import scaled, wide_values, widened
from shardmill.memory import lacks_memory

MAX_PROFILE = 16 << 20
"""Bytes above which a profile is ignored."""

_STRIP = 1 << 20
"""Pixels that are converted at a time: memory on top of the image and the result."""
_SPACES = {"L": "GRAY", "I;16": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}
_OF_DEVICES = {"scnr", "mntr", "prtr", "spac"}
_CACHED = 64

_Convert = Callable[[Image.Image], Image.Image]


def to_rgb(image: Image.Image, profile: bytes | None, bits: int) -> npt.NDArray[np.uint8]:
    """A loaded image to uint8 [height, width, 3], writable.

    Args:
        image: Of any mode that a file gives; more than 8 bits as `I;16`.
        profile: Its ICC profile.
        bits: Of a stored value.
    """
    width, height = image.size
    rows = max(1, _STRIP // width)
    with corrupt():
        if rows >= height:
            return np.array(_strip_to_rgb(image, profile, bits))
        pixels = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows):
            bottom = min(height, top + rows)
            strip = image.crop((0, top, width, bottom))
            pixels[top:bottom] = np.asarray(_strip_to_rgb(strip, profile, bits))
    return pixels


def convert_pixels(pixels: npt.NDArray[np.uint8], profile: bytes | None, grey: bool) -> None:
    """Convert pixels to sRGB in place: uint8 [height, width, 3], of an image in RGB, or in `grey`."""
    convert = _conversion(profile, "L" if grey else "RGB")
    if convert is None or not pixels.size:
        return
    rows = max(1, _STRIP // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        strip = pixels[top : top + rows, :, 0] if grey else pixels[top : top + rows]
        with corrupt():
            pixels[top : top + rows] = np.asarray(convert(Image.fromarray(np.ascontiguousarray(strip))))


def is_srgb(profile: bytes | None) -> bool:
    """Whether colours in this profile are those of sRGB, or count as such."""
    mode = {b"GRAY": "L", b"RGB ": "RGB"}.get((profile or b"")[16:20])
    return mode is None or _conversion(profile, mode) is None


def _strip_to_rgb(image: Image.Image, profile: bytes | None, bits: int) -> Image.Image:
    transparent = image.info.get("transparency")
    alpha = None
    if image.mode.startswith("I"):
        values = wide_values(image)
        image = widened(values, bits) if _conversion(profile, "I;16") else scaled(values, bits)
        if isinstance(transparent, int):
            alpha = Image.fromarray((values != transparent).astype(np.uint8) * 255)
    elif image.has_transparency_data:
        if image.mode in ("1", "L") and isinstance(transparent, int):
            value = 255 * bool(transparent) if image.mode == "1" else transparent * 255 // ((1 << bits) - 1)
            alpha = Image.fromarray((np.asarray(image.convert("L")) != value).astype(np.uint8) * 255)
        else:
            image = image.convert("LA" if image.mode in ("La", "LA") else "RGBA")
            alpha = image.getchannel("A")
    if image.mode not in _SPACES:
        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
    convert = _conversion(profile, image.mode)
    image = convert(image) if convert else image.convert("RGB")
    if alpha is not None:
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        return white
    return image


_conversions: OrderedDict[tuple[bytes, str], _Convert | None] = OrderedDict()
_lock = threading.Lock()


def _conversion(profile: bytes | None, mode: str) -> _Convert | None:
    """How an image of a mode of `_SPACES` becomes sRGB; None where it already is, or nothing is known.

    Made once for each profile. Threads share it: littleCMS writes to no transform while it is applied.
    """
    if not profile or len(profile) > MAX_PROFILE or profile[16:20].decode("latin-1") != _SPACES[mode]:
        return None
    key = (hashlib.sha256(profile).digest(), mode)
    with _lock:
        if key not in _conversions:
            _conversions[key] = _build(profile, mode)
            while len(_conversions) > _CACHED:
                _conversions.popitem(last=False)
        _conversions.move_to_end(key)
        return _conversions[key]


def _build(profile: bytes, mode: str) -> _Convert | None:
    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        if opened.profile.device_class.strip() not in _OF_DEVICES:
            return None
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        is_grey = _SPACES[mode] == "GRAY"
        # Its short cut for greys is off by up to ten steps in the dark.
        flags = ImageCms.Flags.NOOPTIMIZE if is_grey else ImageCms.Flags.NONE
        apply: _Convert = ImageCms.ImageCmsTransform(opened, _srgb(), mode, "RGB", intent, flags=flags).apply
        convert = (lambda image: Image.merge("RGB", [apply(image).getchannel("G")] * 3)) if is_grey else apply
        probe = _probe(mode)
        if probe is None:
            return convert
        changed = np.asarray(convert(probe), int) - np.asarray(probe.convert("RGB"), int)
    except Exception as error:  # littleCMS refuses damaged profiles by errors of several types
        if lacks_memory(error):
            raise
        return None
    return convert if np.abs(changed).max() > 1 else None


def _probe(mode: str) -> Image.Image | None:
    """Colours of all over the space, and all greys; None where a conversion is always needed."""
    if mode in ("CMYK", "I;16"):
        return None
    ramp = np.arange(256, dtype=np.uint8)
    if mode == "L":
        return Image.fromarray(ramp[None])
    steps = np.append(ramp[::17], 255)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    return Image.fromarray(np.concatenate([cube, np.repeat(ramp[:, None], 3, axis=1)]).astype(np.uint8)[None])


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
