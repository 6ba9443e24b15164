import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from numpy.typing import NDArray

from shardmill.embedders.protocol import Embedder
from shardmill.embedders.runtimes import available_runtimes, build_runtime, choice
from shardmill.embedders.runtimes.base import Runtime
from shardmill.embedders.runtimes.torch_cuda import CudaRuntime
from shardmill.embedders.spec import EmbedderSpec
from shardmill.errors import ConfigurationError

BATCH = 4


@pytest.fixture(scope="module", params=[*available_runtimes(), "cuda-path-on-cpu"])
def runtime(request, embedder: Embedder) -> Iterator[Runtime]:
    if request.param == "cuda-path-on-cpu":
        built: Runtime = CudaRuntime(embedder, bfloat16=False, batch_size=BATCH, device="cpu")
    else:
        built = build_runtime(embedder, EmbedderSpec(runtime=request.param, batch_size=BATCH), threads=2)
    with built:
        yield built


def embed(runtime: Runtime, images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return np.stack(list(runtime.embed(images)))


def test_a_vector_does_not_depend_on_its_neighbours(runtime: Runtime, inputs):
    whole = embed(runtime, inputs)
    for count in range(1, len(inputs) + 1):
        assert embed(runtime, inputs[-count:]).tobytes() == whole[-count:].tobytes()
    order = np.random.default_rng(0).permutation(len(inputs))
    assert embed(runtime, inputs[order]).tobytes() == whole[order].tobytes()


@pytest.mark.parametrize("name", [name for name in available_runtimes() if name != "cuda"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_vector_does_not_depend_on_the_number_of_threads(name, precision, embedder, inputs):
    spec = EmbedderSpec(runtime=name, precision=precision)
    results = []
    for threads in (1, 4):
        try:
            running = build_runtime(embedder, spec, threads)
        except ConfigurationError as error:
            pytest.skip(str(error))
        with running:
            results.append(embed(running, [*inputs, *inputs]).tobytes())
    assert results[0] == results[1]


def test_vectors_come_one_for_one_in_order(runtime: Runtime, inputs):
    """Also where there are more images than it holds, and each is of memory that is soon another's."""
    once = embed(runtime, inputs)
    numbers = np.arange(3 * runtime.ahead + 1) % len(inputs)
    vectors = list(runtime.embed(inputs[number].copy() for number in numbers))
    assert all(vector.shape == (1280,) and vector.dtype == np.float32 for vector in vectors)
    assert np.stack(vectors).tobytes() == once[numbers].tobytes()
    assert list(runtime.embed([])) == []


def test_work_in_flight_is_bounded(runtime: Runtime, inputs):
    taken = 0

    def produce() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        while True:
            taken += 1
            yield inputs[0]

    stream = runtime.embed(produce())
    for yielded in range(1, 5):
        next(stream)
        assert taken <= yielded + runtime.ahead
    stream.close()
    assert len(embed(runtime, inputs)) == len(inputs)


def test_an_error_of_the_producer_passes_and_the_runtime_goes_on(runtime: Runtime, inputs):
    def produce() -> Iterator[NDArray[np.uint8]]:
        yield inputs[0]
        raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        list(runtime.embed(produce()))
    assert len(embed(runtime, inputs)) == len(inputs)


def test_threads_share_a_runtime(runtime: Runtime, inputs):
    """A process keeps one; who runs two datasets in two threads has it twice."""
    images = [*inputs] * 4
    once = embed(runtime, images)
    first = runtime.embed(iter(images))  # several of its images are under way
    assert next(first).tobytes() == once[0].tobytes()
    with ThreadPoolExecutor(3) as threads:
        for vectors in threads.map(lambda _: embed(runtime, images), range(6)):
            assert vectors.tobytes() == once.tobytes()
    assert np.stack(list(first)).tobytes() == once[1:].tobytes()


def test_an_image_that_does_not_fit_leaves_the_runtime_as_it_was(runtime: Runtime, inputs):
    once = embed(runtime, inputs)
    for _ in range(runtime.ahead + 1):
        with suppress(Exception):
            embed(runtime, [inputs[0][:-1]])
    assert embed(runtime, inputs).tobytes() == once.tobytes()


def test_an_image_may_lie_in_memory_in_any_way(runtime: Runtime, inputs):
    mirrored = inputs[:3, :, ::-1]
    assert embed(runtime, mirrored).tobytes() == embed(runtime, mirrored.copy()).tobytes()


def test_close_ends_the_threads(embedder, inputs):
    before = threading.active_count()
    with build_runtime(embedder, EmbedderSpec(runtime="torch"), threads=3) as running:
        embed(running, inputs[:4])
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_a_missing_runtime_names_its_remedy(embedder, monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"shardmill\[openvino\]"):
        build_runtime(embedder, EmbedderSpec(runtime="openvino"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="torch sees no GPU"):
        build_runtime(embedder, EmbedderSpec(runtime="cuda"))
    with build_runtime(embedder, EmbedderSpec(), threads=1) as running:
        assert running.name == "torch"


def test_a_module_of_another_shape_is_refused(embedder):
    class Wrong:
        def __getattr__(self, name: str) -> object:
            return 7 if name == "dimension" else getattr(embedder, name)

    with pytest.raises(ConfigurationError, match=r"not float32 \[1, 7\]"):
        build_runtime(Wrong(), EmbedderSpec(runtime="torch"))


DROPPED_BY_ANOTHER = """
import signal, threading
from shardmill.embedders import EmbedderSpec, build_runtime, load_embedder

came = []
signal.signal(signal.SIGCHLD, lambda number, _: came.append(number))
spec = EmbedderSpec(runtime="openvino")
held = [build_runtime(load_embedder(spec), spec, 1)]
dropping = threading.Thread(target=lambda: held.pop().close())
dropping.start()
dropping.join()
signal.raise_signal(signal.SIGCHLD)
assert came == [signal.SIGCHLD]
"""


@pytest.mark.skipif("openvino" not in available_runtimes(), reason="openvino is not installed")
def test_a_signal_is_handled_whichever_thread_drops_the_model() -> None:
    """Else the process ends by SIGSEGV: on Ctrl-C, or where a child ends that somebody waits for."""
    done = subprocess.run([sys.executable, "-c", DROPPED_BY_ANOTHER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif("openvino" not in available_runtimes(), reason="openvino is not installed")
def test_openvino_reports_nothing_over_the_network(tmp_path):
    code = """
import socket, numpy as np
def refuse(*args, **kwargs): raise SystemExit("network used")
socket.socket.connect = socket.getaddrinfo = refuse
from shardmill.embedders.registry import load_embedder
from shardmill.embedders.runtimes import build_runtime
from shardmill.embedders.spec import EmbedderSpec
spec = EmbedderSpec(runtime="openvino")
with build_runtime(load_embedder(spec), spec, threads=1) as running:
    print(len(list(running.embed([np.zeros((224, 224, 3), np.uint8)]))))
"""
    environment = os.environ | {"HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "1", result.stderr
    assert not (tmp_path / "intel").exists()  # where its telemetry would keep an identity
