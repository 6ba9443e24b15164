import base64
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFont

from shardmill.images.contact_sheet import _shortened, colour_labels, data_uri, draw_contact_sheet

Pixels = NDArray[np.uint8]


def picture(height: int = 300, width: int = 400, seed: int = 0) -> Pixels:
    """As busy as a photograph: smooth at large, grainy at small."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = generator.normal(0, 25, (height, width, 1))
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)


def opened(sheet: bytes) -> Image.Image:
    image = Image.open(BytesIO(sheet))
    image.load()
    return image


def test_24_tiles_stay_below_60_kb() -> None:
    sheet = draw_contact_sheet([(f"key_{seed}", picture(seed=seed)) for seed in range(24)])
    assert len(sheet) < 60_000
    assert opened(sheet).format == "JPEG"


def test_flat_colours_come_as_png() -> None:
    flat = np.zeros((40, 60, 3), np.uint8)
    assert opened(draw_contact_sheet([("a", flat), ("b", flat)])).format == "PNG"


def test_rows_are_filled_in_reading_order() -> None:
    red, blue = np.zeros((2, 50, 50, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = np.asarray(opened(draw_contact_sheet([("r", red), ("r", red), ("b", blue)], columns=2, tile=50)))
    height, width, _ = sheet.shape
    assert sheet[30, width // 4].argmax() == sheet[30, width * 3 // 4].argmax() == 0
    assert sheet[30 + height // 2, width // 4].argmax() == 2


def test_few_images_make_a_narrow_sheet() -> None:
    image = picture()
    one, two = (opened(draw_contact_sheet([("key", image)] * count)) for count in (1, 2))
    assert one.width < two.width
    assert one.height == two.height


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (3, 3), (900, 20)])
def test_any_shape_fits_its_tile(shape: tuple[int, int]) -> None:
    usual = opened(draw_contact_sheet([("key", picture())]))
    assert opened(draw_contact_sheet([("key", picture(*shape))])).size == usual.size


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "日本語の鍵",
        "naïve_café",
        "a\nb\tc\0",
        "name\udcff",
        "\u202ertl",
        "🙂" * 50,
        "k/" * 5000,
        "e\u0301",
    ],
)
def test_any_caption_can_be_drawn(caption: str) -> None:
    image = picture()
    assert opened(draw_contact_sheet([(caption, image)])).size == opened(draw_contact_sheet([("", image)])).size


def test_a_long_caption_keeps_its_beginning_and_its_end() -> None:
    font = ImageFont.load_default(10)
    short = _shortened("2026/01/some/long/prefix/photographer_012", font, 112)
    assert font.getlength(short) <= 112
    assert short.startswith("2026/01")
    assert "…" in short
    assert short.endswith("_012")
    assert _shortened("cat_001", font, 112) == "cat_001"


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        draw_contact_sheet([])


def test_the_same_images_give_the_same_sheet() -> None:
    images = [(f"key_{seed}", picture(seed=seed)) for seed in range(3)]
    assert draw_contact_sheet(images) == draw_contact_sheet(images)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_labels_have_fixed_and_different_colours(dtype: type[np.integer]) -> None:
    coloured = colour_labels(np.array([[0, 1, 2], [3, 4, 255]], dtype=dtype))
    assert coloured.shape == (2, 3, 3)
    assert coloured.dtype == np.uint8
    assert len({tuple(colour) for colour in coloured.reshape(-1, 3).tolist()}) == 6
    alone = colour_labels(np.array([[3]], dtype=dtype))
    assert (alone[0, 0] == coloured[1, 0]).all()


def test_colours_begin_again_without_the_background() -> None:
    coloured = colour_labels(np.arange(255, dtype=np.uint8)[np.newaxis])[0]
    assert (coloured[1:11] == coloured[11:21]).all()
    assert not (coloured[1:] == coloured[0]).all(axis=-1).any()


def test_negative_labels_are_void() -> None:
    assert (colour_labels(np.array([[-1]])) == colour_labels(np.array([[255]]))).all()


def test_a_data_uri_says_what_it_holds() -> None:
    flat = draw_contact_sheet([("a", np.zeros((40, 60, 3), np.uint8))])
    busy = draw_contact_sheet([("a", picture())])
    for sheet, kind in [(flat, "png"), (busy, "jpeg")]:
        head, _, body = data_uri(sheet).partition(",")
        assert head == f"data:image/{kind};base64"
        assert base64.b64decode(body) == sheet
