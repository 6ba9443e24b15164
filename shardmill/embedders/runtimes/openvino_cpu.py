"""OpenVINO on a CPU: the fastest there."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from shardmill.concurrency import usable_cores
from shardmill.embedders.protocol import Embedder
from shardmill.embedders.runtimes.base import trace
from shardmill.embedders.runtimes.images import Finish, ImageRuntime
from shardmill.errors import ConfigurationError
from shardmill.library_threads import limit_this_thread

_import_lock = threading.Lock()


class OpenVinoRuntime(ImageRuntime):
    """One stream, of one thread, a core."""

    name = "openvino"

    def __init__(self, embedder: Embedder, bfloat16: bool = False, threads: int | None = None) -> None:
        openvino = import_openvino()
        threads = threads or usable_cores()
        super().__init__(embedder, threads)
        settings = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": str(threads),
            "INFERENCE_NUM_THREADS": str(threads),
            # The default is bfloat16 where the CPU has it: other vectors on other machines.
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            # Two processes on a machine would be pinned to the same cores.
            "ENABLE_CPU_PINNING": "NO",
        }
        with ThreadPoolExecutor(1, initializer=limit_this_thread) as passing:  # see _compiled
            self._compiled = passing.submit(_compiled, _convert(embedder), bfloat16, settings).result()
        self._idle: list[Any] = []
        self._tensor = openvino.Tensor

    @override
    def start(self, image: NDArray[np.uint8]) -> Finish:
        try:
            request = self._idle.pop()
        except IndexError:  # until there are `ahead`; more where several threads embed at once
            request = self._compiled.create_infer_request()
        request.set_input_tensor(self._tensor(image[None], shared_memory=True))
        request.start_async()

        def finish(_: object = image) -> NDArray[np.float32]:  # which OpenVINO does not hold
            try:
                request.wait()
                vector: NDArray[np.float32] = request.get_output_tensor().data[0].copy()
                return vector
            finally:
                self._idle.append(request)

        return finish

    @override
    def close(self) -> None:
        del self._compiled, self._idle


def import_openvino() -> ModuleType:
    """Import openvino with its telemetry absent, and return it.

    Its import alone writes an identity into the home directory and reports to the network, unless the user
    has opted out; without the package openvino_telemetry it does neither. An earlier import by others stands.
    """
    name = "openvino_telemetry"
    with _import_lock:
        absent = name not in sys.modules
        if absent:
            sys.modules[name] = None  # type: ignore[assignment]  # importing it now fails
        try:
            import openvino
        finally:
            if absent:
                del sys.modules[name]
    module: ModuleType = openvino
    return module


def _compiled(model: Any, bfloat16: bool, settings: dict[str, str]) -> Any:
    """The model for the CPU. To be called in a thread that ends soon.

    OpenVINO gives the thread in which its CPU plugin is loaded a stack for signals, and frees that with the last model,
    in whatever thread that happens: in a thread that is still there, the next signal with a handler would end the
    process.
    """
    core = import_openvino().Core()
    if bfloat16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ConfigurationError("this CPU has no bfloat16; set precision: float32")
    return core.compile_model(model, "CPU", settings)


def _convert(embedder: Embedder) -> Any:
    """The embedder's module as an OpenVINO model for one image.

    By the frontend itself: `openvino.convert_model` checks the trace, which takes five times as long.
    """
    from openvino import Type
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(trace(embedder))  # must outlive the conversion
    model = frontend.convert(frontend.load(decoder))
    model.input(0).get_node().set_element_type(Type.u8)  # a frozen trace does not tell
    model.reshape([1, *embedder.input_size, 3])
    return model
