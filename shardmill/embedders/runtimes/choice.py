"""Which runtime a spec gets here."""

from importlib.util import find_spec

from shardmill.embedders.protocol import Embedder
from shardmill.embedders.runtimes.base import Runtime
from shardmill.embedders.spec import EmbedderSpec
from shardmill.errors import ConfigurationError


def available_runtimes() -> list[str]:
    """Names of the runtimes that work here, best first."""
    import torch

    return [
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["openvino"] if find_spec("openvino") else []),
        "torch",
    ]


def choose_runtime(spec: EmbedderSpec) -> str:
    """The name of the runtime that `spec` gets here.

    Raises:
        ConfigurationError: What it asks for is not to be had.
    """
    available = available_runtimes()
    name = available[0] if spec.runtime == "auto" else spec.runtime
    if name not in available:
        remedy = {
            "openvino": "pip install 'shardmill[openvino]'",
            "cuda": "torch sees no GPU; check the driver, and that torch is a CUDA build",
        }
        raise ConfigurationError(f"the runtime {name} is not available here: {remedy[name]}")
    if spec.decode == "cuda" and name != "cuda":
        raise ConfigurationError(f"decode: cuda needs runtime: cuda; here it is {name}")
    return name


def build_runtime(embedder: Embedder, spec: EmbedderSpec, threads: int | None = None) -> Runtime:
    """A runtime for `embedder`, its model compiled. Close it, or use it as a context manager.

    Args:
        embedder: Whose module to run.
        spec: Its `runtime`, `precision` and `batch_size` are used here.
        threads: How many cores a CPU runtime takes; all that the process may use by default. Several
            processes on a machine must share them out. Results do not depend on it.

    Raises:
        ConfigurationError: The runtime or the precision asked for is not to be had here.
    """
    name = choose_runtime(spec)
    if name == "cuda":
        from shardmill.embedders.runtimes.device_images import nvjpeg
        from shardmill.embedders.runtimes.torch_cuda import CudaRuntime

        decoder = nvjpeg() if spec.decode == "cuda" else None
        return CudaRuntime(embedder, bfloat16=spec.bfloat16, batch_size=spec.batch_size, decoder=decoder)
    if name == "openvino":
        from shardmill.embedders.runtimes.openvino_cpu import OpenVinoRuntime

        return OpenVinoRuntime(embedder, bfloat16=spec.bfloat16, threads=threads)
    from shardmill.embedders.runtimes.torch_cpu import TorchRuntime

    return TorchRuntime(embedder, bfloat16=spec.bfloat16, threads=threads)
