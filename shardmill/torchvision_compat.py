"""The one way to import torchvision: also beside a CPU build of torch.

PyPI's torchvision wheel is built against CUDA's torch. Beside a CPU torch its compiled extension cannot load,
and `import torchvision` stops at the fake kernels it registers for operators that the extension would have
defined.
"""

import importlib.util
import threading
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library

from shardmill.errors import ConfigurationError

_lock = threading.Lock()
_library: "Library | None" = None  # the definitions go when this object goes


def import_torchvision() -> ModuleType:
    """Import torchvision and return it.

    Where the extension loads, this is a plain import. Elsewhere `nms` and `qnms` get a schema and no kernel:
    transforms v2 and the models work, detection operators and `torchvision.io` do not. Safe to call from
    several threads.

    Raises:
        ConfigurationError: torchvision is not installed.
    """
    global _library
    with _lock:
        if _library is None and not _extension_loads():
            import torch

            library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            for operator in ("nms", "qnms"):
                schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                library.define(schema)  # type: ignore[no-untyped-call]
            _library = library
        import torchvision
        import torchvision.tv_tensors  # which torchvision itself does not import

        module: ModuleType = torchvision
        return module


def _extension_loads() -> bool:
    """Load torchvision's extension as its `__init__` would; loading it twice is harmless."""
    import torch

    if hasattr(torch.ops.torchvision, "nms"):
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        raise ConfigurationError("torchvision is not installed; install it beside torch: pip install torchvision")
    for folder in spec.submodule_search_locations or []:
        for suffix in EXTENSION_SUFFIXES:
            extension = Path(folder) / f"_C{suffix}"
            if extension.is_file():
                try:
                    torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]
                except OSError:
                    return False
                return True
    return False
