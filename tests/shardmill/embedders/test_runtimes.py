import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from shardmill.embedders.protocol import Embedder
from shardmill.embedders.runtimes import available_runtimes, build_runtime, choice
from shardmill.embedders.runtimes.base import IN_FLIGHT, Runtime
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


def cut(inputs: NDArray[np.uint8], *lengths: int) -> list[NDArray[np.uint8]]:
    return np.split(inputs, np.cumsum(lengths)[:-1])


def test_a_vector_does_not_depend_on_its_neighbours(runtime: Runtime, inputs):
    whole = np.concatenate(list(runtime.embed([inputs])))
    for lengths in [(1,) * 7, (3, 4), (5, 2)]:
        assert np.concatenate(list(runtime.embed(cut(inputs, *lengths)))).tobytes() == whole.tobytes()
    order = np.random.default_rng(0).permutation(len(inputs))
    (shuffled,) = runtime.embed([inputs[order]])
    assert shuffled.tobytes() == whole[order].tobytes()


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
            results.append(np.concatenate(list(running.embed([inputs, inputs]))).tobytes())
    assert results[0] == results[1]


def test_batches_come_one_for_one_in_order(runtime: Runtime, inputs):
    vectors = list(runtime.embed(cut(inputs, 2, 0, 4, 1)))
    assert [len(batch) for batch in vectors] == [2, 0, 4, 1]
    assert all(batch.shape[1] == 1280 and batch.dtype == np.float32 for batch in vectors)
    assert list(runtime.embed([])) == []


def test_work_in_flight_is_bounded(runtime: Runtime, inputs):
    taken = 0

    def produce() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        while True:
            taken += 1
            yield inputs[:1]

    stream = runtime.embed(produce())
    for yielded in range(1, 5):
        next(stream)
        assert taken <= yielded + IN_FLIGHT
    stream.close()


def test_an_error_of_the_producer_passes_and_the_runtime_goes_on(runtime: Runtime, inputs):
    def produce() -> Iterator[NDArray[np.uint8]]:
        yield inputs[:1]
        raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        list(runtime.embed(produce()))
    assert len(list(runtime.embed([inputs[:1]]))) == 1


@pytest.mark.parametrize("name", [name for name in available_runtimes() if name != "cuda"])
def test_close_ends_the_threads(name, embedder, inputs):
    before = threading.active_count()
    with build_runtime(embedder, EmbedderSpec(runtime=name), threads=3) as running:
        list(running.embed([inputs[:4]]))
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
    print(len(list(running.embed([np.zeros((1, 224, 224, 3), np.uint8)]))))
"""
    environment = os.environ | {"HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "1", result.stderr
    assert not (tmp_path / "intel").exists()  # where its telemetry would keep an identity
