"""torch on CUDA: batches of one shape, copies and arithmetic overlapped."""

import copy
import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from shardmill.embedders.protocol import Embedder
from shardmill.embedders.runtimes.base import Decode, Runtime
from shardmill.embedders.runtimes.device_images import Decoder, DeviceImages
from shardmill.images import MAX_PIXELS, decode_image

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_BATCHES = 3
"""Batches that there are buffers for: one is filled, one is copied to the device, one is computed."""
_launching = threading.Lock()
"""The flags of cuDNN are the process's: what one thread sets back must not be in force where another one computes."""


class CudaRuntime(Runtime):
    """bfloat16 autocast, channels_last, compiled where the compiler works.

    Every batch is padded to `batch_size`, because another shape may pick another kernel and so other low bits.
    `device="cpu"` runs the same code without a GPU, for tests.
    """

    name = "cuda"

    def __init__(
        self,
        embedder: Embedder,
        bfloat16: bool = True,
        batch_size: int = 64,
        device: str = "cuda",
        decoder: "Decoder | None" = None,
    ) -> None:
        """`decoder` decodes plain JPEGs on the device; without one, all images are decoded on the CPU.

        Raises:
            ConfigurationError: The embedder's preprocessing is not for a device.
        """
        import torch

        super().__init__(embedder)
        self._device_images = DeviceImages(embedder, decoder) if decoder is not None else None
        self.ahead = _BATCHES * batch_size
        self._device = torch.device(device)
        self._cuda = self._device.type == "cuda"
        self._bfloat16 = bfloat16
        module = copy.deepcopy(embedder.module()).to(self._device)
        # The type stubs know only the overloads without a device.
        self._module: Any = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._inputs: Any = torch.cuda.Stream(self._device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._shape = (batch_size, *embedder.input_size, 3)
        self._idle = [self._new_buffers()]
        if self._cuda:
            self._compile()

    @override
    def prepare(
        self,
        data: bytes,
        component: str,
        max_pixels: int = MAX_PIXELS,
        decode: Decode = decode_image,
        is_sound: bool = False,
    ) -> NDArray[np.uint8]:
        """Pixels, or where the device decodes them uint8 [bytes]: a JPEG that is left as it is. By the image alone."""
        if self._device_images is not None and self._device_images.takes(data, component, max_pixels, is_sound):
            return np.frombuffer(data, np.uint8)
        return super().prepare(data, component, max_pixels, decode)

    @override
    def embed(self, images: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        try:
            mine = self._idle.pop()
        except IndexError:  # another thread embeds, too
            mine = self._new_buffers()
        free, launched = deque(mine), deque[_Buffers]()
        filling: _Buffers | None = None
        try:
            for image in images:
                if filling is None:
                    if not free:
                        free.append(launched.popleft())
                        yield from free[0].vectors()
                    filling = free.popleft()
                if filling.add(image):
                    self._launch(filling)
                    launched.append(filling)
                    filling = None
            if filling is not None:
                self._launch(filling)
                launched.append(filling)
            while launched:
                yield from launched.popleft().vectors()
        finally:
            for buffers in mine:
                buffers.clear()
            self._idle.append(mine)
            if self._device_images is not None and (refused := self._device_images.take_refused()):
                logger.warning("%d JPEGs that the device would not decode were decoded on the CPU", refused)

    @override
    def close(self) -> None:
        import torch

        del self._module, self._idle, self._device_images
        if self._cuda:
            torch.cuda.empty_cache()

    def _new_buffers(self) -> "list[_Buffers]":
        import torch

        new = [_Buffers(self._shape, self.embedder.dimension, self._device) for _ in range(_BATCHES)]
        if self._cuda:  # what fills them with zeros, and what had their memory before, comes before what is copied in
            self._inputs.wait_stream(torch.cuda.current_stream(self._device))
        return new

    def _compile(self) -> None:
        import torch

        eager = self._module
        try:
            self._module = torch.compile(eager, dynamic=False)
            self._launch(self._idle[0][0])
            torch.cuda.synchronize(self._device)
        except Exception as error:  # no compiler or no Triton here: many kinds of error, one remedy
            logger.warning("torch.compile failed, running uncompiled: %s", error)
            self._module = eager

    def _launch(self, buffers: "_Buffers") -> None:
        """Queue inputs, arithmetic, vectors. The inputs of a batch are made beside the arithmetic of the one before."""
        import torch

        buffers.pad()
        casts = torch.autocast(self._device.type, torch.bfloat16) if self._bfloat16 else nullcontext()
        with (
            _launching,
            torch.inference_mode(),
            casts,
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            with torch.cuda.stream(self._inputs):  # of None: the one that is
                if self._cuda:
                    buffers.images.copy_(buffers.pixels, non_blocking=True)
                if self._device_images is not None and buffers.files:
                    self._device_images.write(buffers.files, buffers.images)
            if self._cuda:
                torch.cuda.current_stream(self._device).wait_stream(self._inputs)
            buffers.out.copy_(self._module(buffers.images), non_blocking=True)
            if buffers.done is not None:
                buffers.done.record()


class _Buffers:
    """A batch's memory: pinned on the host, so that copies need no processor, and of its own on the device.

    It is used again once its vectors were taken, which waits for the device: nothing in flight is overwritten.
    """

    def __init__(self, shape: tuple[int, ...], dimension: int, device: "torch.device") -> None:
        import torch

        cuda = device.type == "cuda"
        self.pixels = torch.zeros(shape, dtype=torch.uint8, pin_memory=cuda)
        self.images = torch.zeros(shape, dtype=torch.uint8, device=device) if cuda else self.pixels
        self.out = torch.empty((shape[0], dimension), dtype=torch.float32, pin_memory=cuda)
        self.done: Any = torch.cuda.Event() if cuda else None  # type: ignore[no-untyped-call]
        self.files: dict[int, NDArray[np.uint8]] = {}
        """JPEGs that the device decodes, by their place."""
        self._into, self._count = self.pixels.numpy(), 0

    def add(self, image: NDArray[np.uint8]) -> bool:
        """Put an image in its place; whether it was the last that fits."""
        if image.ndim == 1:
            self.files[self._count] = image
        else:
            self._into[self._count] = image
        self._count += 1
        return self._count == len(self._into)

    def pad(self) -> None:
        """Zeros where no image is."""
        self._into[self._count :] = 0

    def vectors(self) -> NDArray[np.float32]:
        """float32 [images, dimension], when they are there; the buffers are then free."""
        self._wait()
        vectors: NDArray[np.float32] = self.out[: self._count].numpy().copy()
        self.clear()
        return vectors

    def clear(self) -> None:
        """Forget what is in it, once the device is done with it."""
        self._wait()
        self.files.clear()
        self._count = 0

    def _wait(self) -> None:
        if self.done is not None:
            self.done.synchronize()
