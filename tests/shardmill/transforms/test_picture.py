"""Pictures and tensors are one memory; what no picture can be stays a tensor."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shardmill.images import StoredImage, decode, decode_image, open_image
from shardmill.torchvision_compat import import_torchvision
from shardmill.transforms.picture import Picture, StoredPicture, as_picture, as_tensor
from tests.pictures import save, smooth

tv_tensors = import_torchvision().tv_tensors
PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
LABELS = np.arange(20, dtype=np.int32).reshape(4, 5)


@pytest.mark.parametrize("pixels", [PIXELS, LABELS, PIXELS[1:, 2:]])
def test_a_picture_and_its_tensor_are_one_memory(pixels: np.typing.NDArray[np.uint8]) -> None:
    picture = Picture(pixels)
    tensor = as_tensor(picture)
    assert isinstance(tensor, tv_tensors.Mask if picture.is_mask else tv_tensors.Image)
    assert tensor.shape[-2:] == picture.size
    back = as_picture(tensor)
    assert back is not None
    assert np.array_equal(back.pixels, pixels)
    assert np.shares_memory(back.pixels, pixels)


@pytest.mark.parametrize(
    "tensor",
    [
        tv_tensors.Image(torch.zeros(3, 4, 5)),
        tv_tensors.Image(torch.zeros(1, 4, 5, dtype=torch.uint8)),
        tv_tensors.Mask(torch.zeros(4, 5, dtype=torch.int64)),
        tv_tensors.Mask(torch.zeros(1, 4, 5, dtype=torch.uint8)),
        tv_tensors.Image(torch.zeros(3, 4, 5, dtype=torch.uint8, device="meta")),
    ],
    ids=["floats", "grey", "wide labels", "three dimensions", "another device"],
)
def test_what_has_another_form_is_no_picture(tensor: torch.Tensor) -> None:
    assert as_picture(tensor) is None


def test_only_what_a_crop_leaves_is_converted_and_once() -> None:
    converted = list[tuple[int, ...]]()

    def convert(pixels: np.typing.NDArray[np.uint8]) -> None:
        converted.append(pixels.shape)
        pixels += 1

    whole = Picture(PIXELS.copy(), convert)
    part = whole.crop(1, 2, 2, 3)
    assert np.array_equal(part.pixels, PIXELS[1:3, 2:5] + 1)
    assert np.array_equal(part.pixels, PIXELS[1:3, 2:5] + 1)
    assert converted == [(2, 3, 3)]
    assert np.array_equal(whole.pixels, PIXELS + 1), "a part shares no memory that is converted in place"


def test_a_stored_picture_is_decoded_once_and_of_a_crop_that_part_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = list[tuple[int, ...]]()

    class Counted(StoredImage):
        def decode(self, *box: int) -> Any:
            decoded.append(box)
            return super().decode(*box)

    data = save(Image.fromarray(smooth(64, 48)), "JPEG")
    whole = decode_image(data, "jpg")
    monkeypatch.setattr(decode, "StoredImage", Counted)
    picture = StoredPicture(open_image(data, "jpg"), True)
    assert (picture.size, picture.is_mask, picture.crop(0, 0, 64, 48)) == ((64, 48), False, picture)
    assert decoded == []
    assert np.array_equal(picture.crop(2, 3, 10, 20).pixels, whole[2:12, 3:23])
    assert decoded == [(2, 3, 10, 20)]
    for _ in range(2):
        assert np.array_equal(picture.pixels, whole)
    assert np.array_equal(picture.crop(2, 3, 10, 20).pixels, whole[2:12, 3:23])
    assert decoded[1:] == [(0, 0, 64, 48)]
