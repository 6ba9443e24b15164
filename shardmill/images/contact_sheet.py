"""Contact sheets: many small pictures in one, for a page of metadata. Also colours for label maps."""

import base64
from collections.abc import Sequence
from io import BytesIO
from unicodedata import combining, normalize

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_BYTES_A_TILE = 2500  # 24 tiles stay below 60 kB: sheets stand in the event log, as base64
_QUALITIES = (85, 75, 65, 55, 45, 35)
_GAP = 6
_CAPTION = 15
_FONT_SIZE = 10
# A dark card of its own, so that it looks the same on a light page and on a dark one.
_CARD, _TILE, _INK = (30, 34, 43), (42, 47, 58), (214, 219, 228)

_VOID = 255
_PALETTE = np.array(
    [
        (52, 58, 72),  # 0, the background
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (204, 121, 167),
        (213, 94, 0),
        (0, 114, 178),
        (148, 103, 189),
        (188, 189, 34),
        (23, 190, 207),
        (255, 255, 255),  # void
    ],
    dtype=np.uint8,
)
"""The background, Okabe and Ito's colours, which the colour-blind can tell apart, a few more, and void."""


def draw_contact_sheet(images: Sequence[tuple[str, NDArray[np.uint8]]], columns: int = 8, tile: int = 112) -> bytes:
    """Draw captioned thumbnails in rows; a JPEG or a PNG, whichever is smaller.

    Args:
        images: (caption, pixels `[H, W, 3]`), in reading order. A picture keeps its aspect; a caption too
            long for its tile is shortened in the middle, and drawn in ASCII.
        columns: Tiles a row, at most.
        tile: Side of a tile in pixels.

    Raises:
        ValueError: There are no images.
    """
    if not images:
        raise ValueError("A contact sheet needs at least one image.")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    step_x, step_y = tile + _GAP, tile + _CAPTION + _GAP
    sheet = Image.new("RGB", (_GAP + columns * step_x, _GAP + rows * step_y), _CARD)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT_SIZE)
    for index, (caption, pixels) in enumerate(images):
        left, top = _GAP + index % columns * step_x, _GAP + index // columns * step_y
        thumbnail = _fitted(Image.fromarray(pixels), tile)
        draw.rectangle((left, top, left + tile - 1, top + tile - 1), fill=_TILE)
        sheet.paste(thumbnail, (left + (tile - thumbnail.width) // 2, top + (tile - thumbnail.height) // 2))
        text = _shortened(caption, font, tile)
        draw.text((left + tile / 2, top + tile + _CAPTION / 2), text, _INK, font, anchor="mm")
    return _smallest(sheet, _BYTES_A_TILE * len(images))


def colour_labels(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Colour a label map `[H, W]` for display: `[H, W, 3]`.

    A label has the same colour in every map: 0 is dark, 255 and negative labels (void) are white, and
    past the tenth colour they begin again.
    """
    wide = labels.astype(np.int64)
    colours = len(_PALETTE) - 2
    index = np.where(wide > 0, 1 + (wide - 1) % colours, 0)
    index[(wide < 0) | (wide == _VOID)] = len(_PALETTE) - 1
    return _PALETTE[index]


def data_uri(picture: bytes) -> str:
    """A JPEG or PNG as a `data:` URI, which Markdown shows: `![](data:image/png;base64,…)`."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _fitted(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _shortened(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The caption, or its beginning and its end around `…`, so that it fits into `width` pixels."""
    caption = _plain(caption)
    kept = min(len(caption), width)  # no glyph is narrower than a pixel
    text = caption if kept == len(caption) else _middle_cut(caption, kept)
    while kept > 1 and font.getlength(text) > width:
        kept -= 1
        text = _middle_cut(caption, kept)
    return text


def _plain(text: str) -> str:
    """ASCII, which is all that Pillow's bundled font draws: accents are dropped, the rest becomes `?`."""
    bare = "".join(each for each in normalize("NFKD", text) if not combining(each))
    return "".join(each if each.isascii() and each.isprintable() else "?" for each in bare)


def _middle_cut(text: str, kept: int) -> str:
    tail = kept // 2
    return f"{text[: kept - tail]}…{text[len(text) - tail :]}"


def _smallest(sheet: Image.Image, budget: int) -> bytes:
    """As PNG if that is smaller than JPEG; else the best JPEG within `budget` bytes, or the worst of all."""
    jpeg = b""
    for quality in _QUALITIES:
        jpeg = _encode(sheet, "JPEG", quality=quality, optimize=True)
        if len(jpeg) <= budget:
            break
    return min(jpeg, _encode(sheet, "PNG", optimize=True), key=len)


def _encode(sheet: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = BytesIO()
    sheet.save(buffer, file_format, **options)
    return buffer.getvalue()
