"""What takes the place of a device's JPEG decoder in tests."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image


class CpuDecoder:
    """Decodes on the CPU. Refuses a call with any of `refused`, as nvJPEG does."""

    def __init__(self, refused: Sequence[bytes] = ()) -> None:
        self.refused = refused
        self.calls: list[list[bytes]] = []

    def __call__(self, files: Sequence[Any]) -> list[Any]:
        self.calls.append([bytes(file.numpy()) for file in files])
        if any(file in self.refused for file in self.calls[-1]):
            raise RuntimeError("nvjpegDecode failed: 5")
        import torch

        images = [Image.open(io.BytesIO(file)).convert("RGB") for file in self.calls[-1]]
        return [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
