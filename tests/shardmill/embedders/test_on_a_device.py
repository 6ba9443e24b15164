"""What stands on a CUDA device: everywhere else these are left out.

Elsewhere the same code runs on the CPU: `test_runtimes.py`, `test_device_images.py`. These need the library, torch
for CUDA and pytest alone: on a bare machine `pytest --noconftest` runs them.
"""

import hashlib
import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shardmill import Dataset, DatasetSpec, LocalEngine, ShardSet, Storage, run
from shardmill.devices import VISIBLE
from shardmill.embedders import Embedder, EmbedderSpec, Runtime, build_runtime, load_embedder
from shardmill.errors import ShardmillError
from shardmill.images import decode_image
from tests.pictures import save, smooth

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

BATCH = 16
DAMAGED = ("cut off", "progressive", "turned", "grey", "CMYK", "png")


def picture(number: int) -> NDArray[np.uint8]:
    """Smooth colours with edges and some noise, of one of ten sizes."""
    dice = np.random.default_rng(number)
    height, width = np.random.default_rng(number % 10).integers(120, 520, 2)
    pixels = smooth(int(height), int(width)).astype(int) + dice.normal(0, 6, (height, width, 3))
    for _ in range(6):
        y, x = dice.integers(0, height - 20), dice.integers(0, width - 20)
        pixels[y : y + int(dice.integers(10, 200)), x : x + int(dice.integers(10, 200))] = dice.integers(0, 256, 3)
    return pixels.clip(0, 255).astype(np.uint8)


def odd(kind: str) -> bytes:
    image = Image.fromarray(picture(1000))
    if kind == "cut off":
        return save(image, "JPEG")[:-2000]
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        return save(image, "JPEG", exif=exif)
    if kind == "png":
        return save(image, "PNG", compress_level=1)
    if kind in ("grey", "CMYK"):
        return save(image.convert("L" if kind == "grey" else kind), "JPEG")
    return save(image, "JPEG", progressive=True)


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return [save(Image.fromarray(picture(number)), "JPEG", quality=90) for number in range(3 * BATCH + 5)]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder(EmbedderSpec())


@pytest.fixture(scope="module")
def reference(embedder: Embedder, files) -> NDArray[np.float32]:
    """torch's own float32 on the CPU."""
    with build_runtime(embedder, EmbedderSpec(runtime="torch", precision="float32")) as runtime:
        return embed(runtime, files)


@pytest.fixture(scope="module", params=["float32", "bfloat16", "bfloat16, nvJPEG"])
def runtime(request, embedder: Embedder) -> Iterator[Runtime]:
    precision, _, decode = request.param.partition(", ")
    spec = EmbedderSpec(
        runtime="cuda", precision=precision, batch_size=BATCH, decode="cuda" if decode else "cpu"
    )  # fmt: skip
    with build_runtime(embedder, spec) as built:
        yield built


def embed(runtime: Runtime, files: Iterable[bytes]) -> NDArray[np.float32]:
    return np.stack(list(runtime.embed(runtime.prepare(data, "jpg") for data in files)))


def cosines(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    some, others = some.astype(np.float64), others.astype(np.float64)
    return (some * others).sum(1) / np.linalg.norm(some, axis=1) / np.linalg.norm(others, axis=1)


def test_vectors_are_those_of_the_cpu(runtime: Runtime, files, reference, request) -> None:
    least = {"float32": 0.9999, "bfloat16": 0.98, "bfloat16, nvJPEG": 0.98}
    found = cosines(embed(runtime, files), reference)
    assert found.min() >= least[request.node.callspec.params["runtime"]], found.min()


def test_a_vector_depends_on_its_image_alone(runtime: Runtime, files) -> None:
    whole = embed(runtime, files)
    for count in (1, BATCH - 1, BATCH + 1):
        assert embed(runtime, files[-count:]).tobytes() == whole[-count:].tobytes()
    order = list(range(len(files)))
    random.Random(0).shuffle(order)
    assert embed(runtime, [files[number] for number in order]).tobytes() == whole[order].tobytes()
    with ThreadPoolExecutor(3) as pool:
        for again in pool.map(lambda _: embed(runtime, files), range(6)):
            assert again.tobytes() == whole.tobytes()


def test_batches_that_are_under_way_are_written_over_by_none(embedder: Embedder, files) -> None:
    """nvJPEG has a stream of its own, and is given memory that a batch before may still be computed in."""
    spec = EmbedderSpec(runtime="cuda", batch_size=4 * BATCH, decode="cuda")
    with build_runtime(embedder, spec) as runtime:
        prepared = [runtime.prepare(data, "jpg") for data in files]
        expected = [vector.tobytes() for vector in runtime.embed(prepared)]
        for _ in range(20):
            assert [vector.tobytes() for vector in runtime.embed(prepared * 4)] == expected * 4


def test_the_model_is_compiled(embedder: Embedder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), build_runtime(embedder, EmbedderSpec(runtime="cuda", batch_size=BATCH)):
        assert "compile" not in caplog.text


def test_memory_of_a_closed_runtime_is_free(embedder: Embedder) -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    runtime = build_runtime(embedder, EmbedderSpec(runtime="cuda", batch_size=4 * BATCH))
    assert torch.cuda.memory_allocated() > before
    runtime.close()
    del runtime
    assert torch.cuda.memory_allocated() <= before + (1 << 20)


def test_the_device_frames_what_it_decodes_as_the_cpu_does(embedder: Embedder, files) -> None:
    """Pixels that the model sees: nvJPEG rounds otherwise, by a little on average."""
    spec = EmbedderSpec(runtime="cuda", batch_size=BATCH, decode="cuda")
    with build_runtime(embedder, spec) as runtime:
        prepared = [runtime.prepare(data, "jpg") for data in files[:BATCH]]
        assert all(each.ndim == 1 for each in prepared)
        list(runtime.embed(prepared))
        images = runtime._idle[-1][0].images.cpu().numpy()  # type: ignore[attr-defined]
    for data, seen in zip(files, images, strict=False):
        expected = embedder.preprocess(decode_image(data, "jpg"))
        assert np.abs(seen.astype(int) - expected).mean() < 2


def dataset(folder: Path, **fields: object) -> Dataset:
    declared = {
        "name": "d",
        "root": str(folder / "root"),
        "source": {"uri": str(folder / "raw")},
        "partitions": ["p"],
        "gpu": True,
        "shards": {"max_samples": 20},
        "max_reject_ratio": 0.5,
    }
    return Dataset(DatasetSpec.model_validate(declared | fields), Storage())


def made(dataset: Dataset, engine: LocalEngine | None = None) -> dict[str, ShardSet]:
    return dict(run(dataset, "p", engine or LocalEngine(4)))


def digests(shards: ShardSet) -> list[str]:
    return [hashlib.sha256(shards.storage.read(url)).hexdigest() for url in shards.urls]


@pytest.fixture
def raw(tmp_path: Path, files) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for number, data in enumerate(files):
        (folder / f"{number:03d}.jpg").write_bytes(data)
    for kind in DAMAGED:
        (folder / f"odd_{kind.replace(' ', '_')}.{'png' if kind == 'png' else 'jpg'}").write_bytes(odd(kind))
    return tmp_path


def test_a_table_depends_neither_on_other_models_nor_on_how_many_processes_feed_the_device(raw: Path) -> None:
    embedders = {decode: {"decode": decode, "batch_size": BATCH} for decode in ("cpu", "cuda")}
    together = made(dataset(raw, embedders=embedders))
    packed = together["webdataset_shards"].commit
    assert packed.rejects_by_reason == {"truncated or corrupt image": 1}
    assert packed.total_samples == len(list((raw / "raw").iterdir())) - 1
    with LocalEngine(12) as engine:
        for name, embedder in embedders.items():
            alone = made(dataset(raw, embedders={name: embedder}, root=str(raw / name)), engine)
            assert alone[f"embeddings_{name}"].commit.total_samples == packed.total_samples
            assert digests(alone[f"embeddings_{name}"]) == digests(together[f"embeddings_{name}"])


def test_a_batch_that_does_not_fit_the_device_is_an_error_that_says_so(raw: Path) -> None:
    with pytest.raises(ShardmillError, match=r"(?i)memory"):
        made(dataset(raw, embedder={"batch_size": 10_000_000}))


RUN = """
import sys
from tests.shardmill.embedders.test_on_a_device import Path, dataset, made

if __name__ == "__main__":
    made(dataset(Path(sys.argv[1]), root=sys.argv[2], embedder={}))
"""


def test_two_runs_share_the_device_one_after_the_other(raw: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(RUN)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    environment.pop(VISIBLE, None)
    runs = [
        subprocess.Popen(
            [sys.executable, str(script), str(raw), str(tmp_path / name)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("one", "two")
    ]
    said = [each.communicate(timeout=300)[0] for each in runs]
    assert [each.returncode for each in runs] == [0, 0], said
    one, two = (
        dataset(raw, root=str(tmp_path / name), embedder={}).stored("embeddings", "p") for name in ("one", "two")
    )
    assert one is not None
    assert two is not None
    assert digests(one) == digests(two)
