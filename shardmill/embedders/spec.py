"""What a dataset file says about its embeddings. Light to import: no model, no torch."""

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, PositiveInt

from shardmill.sources.names import checked_component
from shardmill.spec import Spec


class EmbedderSpec(Spec):
    """An embedder and how to run it."""

    model: str = "efficientnet-lite0"
    """`efficientnet-lite0`, whose weights come with the installation, `torchvision/<name>`, `timm/<name>`,
    `open_clip/<arch>`, or a function `load(spec, storage)` of your own as `package.module:load`."""
    weights: str | None = None
    """URI of a state dict (`.pt`, `.pth`, `.safetensors`), or the name of published weights: torchvision's
    (`IMAGENET1K_V1`), open_clip's tag (`laion2b_s34b_b79k`). None: the model's default weights."""
    runtime: Literal["auto", "openvino", "cuda", "torch"] = "auto"
    """`auto`: CUDA where there is one, else OpenVINO where it is installed, else torch on the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the arithmetic. `auto`: bfloat16 where `runtime: cuda` is declared, else float32, whatever it runs on."""
    decode: Literal["cpu", "cuda"] = "cpu"
    """Where plain JPEGs are decoded and resized. `cuda`: on the device that computes the vectors, by nvJPEG. Its pixels
    are others by rounding, so that it is a part of what determines the vectors.
    """
    batch_size: PositiveInt = 64
    """Images that CUDA computes at once, and that every batch is padded to. A CPU takes them one by one."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the stored vectors."""
    component: Annotated[str, AfterValidator(checked_component)] | None = None
    """The image component to embed (`jpg`); `image` is `image.jpg` or `image.png`, whichever a sample has. None: the
    sample's only image that is not a mask.
    """
    normalize: bool = False
    """Scale each vector to length 1 (L2)."""

    @property
    def bfloat16(self) -> bool:
        """Whether the arithmetic is in bfloat16, `auto` resolved from what is declared and not from the machine."""
        return self.precision == "bfloat16" or (self.precision == "auto" and self.runtime == "cuda")

    def declared(self) -> dict[str, Any]:
        """What determines the vectors as far as the dataset file says it: all but the weights' bytes."""
        parameters = self.model_dump(include={"model", "weights", "dtype", "component", "normalize"})
        decode = {} if self.decode == "cpu" else {"decode": self.decode}
        return {**parameters, "precision": "bfloat16" if self.bfloat16 else "float32", **decode}

    def finish(self, vectors: NDArray[np.float32]) -> NDArray[np.float32 | np.float16]:
        """float32 [n, d] from a runtime → [n, d] as stored: normalised if asked, in `dtype`.

        Row by row: a row's result does not depend on the other rows. A zero vector stays zero.
        """
        if self.normalize:
            lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
            vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            return vectors.astype(self.dtype, copy=False)

    def is_finite(self, vector: NDArray[np.float32]) -> bool:
        """Whether a runtime's vector [d] can be stored: it holds numbers, and none too large for `dtype`."""
        return bool(np.isfinite(self.finish(vector[None])).all())
