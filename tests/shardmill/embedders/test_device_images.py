"""JPEGs decoded and framed on a device, of which the CPU and Pillow take the place here."""

import logging
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.ImageCms import ImageCmsProfile, createProfile

from shardmill.embedders.framing import Box, Framing, framed
from shardmill.embedders.protocol import Embedder
from shardmill.embedders.runtimes import torch_cuda
from shardmill.embedders.runtimes.device_images import Decoder, nvjpeg, write_framed
from shardmill.embedders.runtimes.torch_cuda import CudaRuntime
from shardmill.embedders.spec import EmbedderSpec
from shardmill.errors import ConfigurationError, Rejected
from shardmill.images import decode_image
from tests.cpu_decoder import CpuDecoder
from tests.pictures import ADOBE_RGB, save, smooth, with_segment

torch = pytest.importorskip("torch")

BATCH = 3


def runtime(embedder: Embedder, decoder: Decoder) -> CudaRuntime:
    return CudaRuntime(embedder, bfloat16=False, batch_size=BATCH, device="cpu", decoder=decoder)


def jpeg(height: int = 60, width: int = 90, **options: Any) -> bytes:
    return save(Image.fromarray(smooth(height, width)), "JPEG", **options)


@pytest.fixture(scope="module")
def files(photographs) -> list[bytes]:
    return [save(Image.fromarray(image), "JPEG", quality=quality) for image in photographs for quality in (80, 95)]


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(exif=exif)


ON_DEVICE = {
    "4:2:0": jpeg(subsampling=2),
    "4:2:2": jpeg(subsampling=1),
    "4:4:4": jpeg(subsampling=0),
    "grey": save(Image.fromarray(smooth()[:, :, 0]), "JPEG"),
    "with restarts": jpeg(restart_marker_blocks=2),
    "of one pixel": jpeg(1, 1),
    "of the usual colours": jpeg(icc_profile=ImageCmsProfile(createProfile("sRGB")).tobytes()),
    "with a comment": with_segment(jpeg(), 0xFE, b"hello"),
}
ON_CPU = {
    "progressive": jpeg(progressive=True),
    "turned": turned(),
    "of other colours": jpeg(icc_profile=ADOBE_RGB),
    "CMYK": save(Image.fromarray(smooth()).convert("CMYK"), "JPEG"),
    "RGB without YCbCr": jpeg(keep_rgb=True),
    "followed by another": jpeg() + jpeg(),
}
REFUSED = {
    "cut off": jpeg()[:-300],
    "empty": b"",
    "no JPEG": save(Image.fromarray(smooth()), "PNG"),
    "of 12 bits": jpeg().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"),
    "damaged": (lambda file: file[:700] + b"\xff\xd5" + file[702:])(jpeg(200, 200)),
    "too large": jpeg(200, 200),
}


@pytest.mark.parametrize("name", [*ON_DEVICE, *ON_CPU, *REFUSED])
def test_the_image_alone_decides_who_decodes_it_and_the_cpu_whether_it_is_refused(name: str, embedder: Embedder):
    running = runtime(embedder, CpuDecoder())
    file, most = (ON_DEVICE | ON_CPU | REFUSED)[name], 30_000
    if name in REFUSED:
        with pytest.raises(Rejected) as expected:
            decode_image(file, "jpg", most)
        with pytest.raises(Rejected) as refused:
            running.prepare(file, "jpg", most)
        assert str(refused.value) == str(expected.value)
        return
    prepared = running.prepare(file, "jpg", most)
    if name in ON_DEVICE:
        assert prepared.ndim == 1
        assert prepared.tobytes() == file
    else:
        assert np.array_equal(prepared, embedder.preprocess(decode_image(file, "jpg")))


def test_what_was_verified_is_not_looked_at_again_and_whose_it_is_stays(embedder: Embedder):
    """Damage in the compressed data shows that it is not: no such image is in a shard that was packed."""
    running = runtime(embedder, CpuDecoder())
    for name, file in {**ON_DEVICE, "cut off": REFUSED["cut off"]}.items():
        assert running.prepare(file, "jpg", is_sound=True).tobytes() == file, name
    for file in ON_CPU.values():
        assert running.prepare(file, "jpg", is_sound=True).ndim == 3
    for name in ("empty", "no JPEG", "of 12 bits", "too large"):
        with pytest.raises(Rejected):
            running.prepare(REFUSED[name], "jpg", 30_000, is_sound=True)


def test_vectors_are_those_of_the_cpu_but_for_rounding(embedder: Embedder, files):
    decoder = CpuDecoder()
    with runtime(embedder, decoder) as running:
        vectors = np.stack(list(running.embed(running.prepare(file, "jpg") for file in files)))
    assert sorted(map(len, decoder.calls)) == [2, 3, 3, 3, 3]
    with CudaRuntime(embedder, bfloat16=False, batch_size=BATCH, device="cpu") as running:
        expected = np.stack(list(running.embed(running.prepare(file, "jpg") for file in files)))
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((vectors * expected).sum(1) / lengths).min() > 0.999


def test_a_vector_does_not_depend_on_who_decodes_its_neighbours(embedder: Embedder, files):
    files = [*files, *ON_CPU.values()]
    order = np.random.default_rng(1).permutation(len(files))
    with runtime(embedder, CpuDecoder()) as running:
        alone = [next(running.embed([running.prepare(file, "jpg")])).tobytes() for file in files]
        together = running.embed(running.prepare(files[number], "jpg") for number in order)
        assert [vector.tobytes() for vector in together] == [alone[number] for number in order]


def test_what_the_device_refuses_the_cpu_decodes(embedder: Embedder, files, caplog: pytest.LogCaptureFixture):
    decoder = CpuDecoder(refused=files[1:2])
    with runtime(embedder, decoder) as running, caplog.at_level(logging.WARNING):
        vectors = list(running.embed(running.prepare(file, "jpg") for file in files[:BATCH]))
        (expected,) = running.embed([embedder.preprocess(decode_image(files[1], "jpg"))])
        others = list(running.embed(running.prepare(file, "jpg") for file in (files[0], files[2])))
    assert vectors[1].tobytes() == expected.tobytes()
    assert [vectors[0].tobytes(), vectors[2].tobytes()] == [vector.tobytes() for vector in others]
    assert decoder.calls[:4] == [files[:BATCH], files[:1], files[1:2], files[2:3]]
    assert [record.getMessage() for record in caplog.records] == [
        "1 JPEGs that the device would not decode were decoded on the CPU"
    ]


def test_a_device_without_memory_chooses_no_decoder(embedder: Embedder, files):
    """On a CUDA device these are `torch.OutOfMemoryError`, and RuntimeErrors of libraries that name an allocation."""

    def decode(_: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory")

    with runtime(embedder, decode) as running, pytest.raises(RuntimeError, match="out of memory"):
        next(running.embed([running.prepare(files[0], "jpg")]))


def test_no_buffer_is_filled_again_before_its_vectors_were_taken(
    embedder: Embedder, inputs, monkeypatch: pytest.MonkeyPatch
):
    """The device computes as late as it can: when it is waited for."""
    with runtime(embedder, CpuDecoder()) as running:
        numbers = np.arange(5 * running.ahead + 1) % len(inputs)
        expected = [vector.tobytes() for vector in running.embed(inputs[number] for number in numbers)]
        launch, wait, late = CudaRuntime._launch, torch_cuda._Buffers._wait, []
        monkeypatch.setattr(CudaRuntime, "_launch", lambda _, buffers: late.append(buffers))

        def compute_and_wait(buffers: Any) -> None:
            if buffers in late:
                launch(running, late.pop(late.index(buffers)))
            wait(buffers)

        monkeypatch.setattr(torch_cuda._Buffers, "_wait", compute_and_wait)
        found = [vector.tobytes() for vector in running.embed(inputs[number] for number in numbers)]
    assert found == expected


@pytest.mark.parametrize(
    "framing",
    [
        Framing(Box(3, 5, 40, 41), (224, 224), Box(0, 0, 224, 224)),
        Framing(Box(0, 0, 90, 120), (32, 43), Box(4, 9, 24, 24)),
        Framing(Box(0, 0, 90, 120), (20, 27), Box(-6, -2, 32, 32)),
        Framing(Box(0, 0, 90, 120), (20, 80), Box(-6, 24, 32, 32)),
    ],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_device_frames_as_the_cpu_does(framing: Framing, interpolation: Any):
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    expected = framed(noise, framing, interpolation)
    into = torch.full((3, *expected.shape), 77, dtype=torch.uint8)
    pixels = torch.from_numpy(noise).permute(2, 0, 1)
    write_framed(torch.stack([pixels, pixels.flip(0)]), framing, interpolation, into, [2, 0])
    assert np.abs(into[2].numpy().astype(int) - expected).max() <= 1
    assert np.abs(into[0].numpy().astype(int) - framed(noise[:, :, ::-1], framing, interpolation)).max() <= 1
    assert (into[1] == 77).all()


def test_an_embedder_that_is_no_framing_is_the_cpu_s():
    class Own:
        name = "own"
        input_size = (8, 8)
        dimension = 48

    with pytest.raises(ConfigurationError, match="own does its own preprocessing"):
        runtime(Own(), CpuDecoder())  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_decode_cuda_says_what_it_needs():
    with pytest.raises(ConfigurationError, match="a build of torchvision with nvJPEG"):
        nvjpeg()


def test_what_decodes_is_a_part_of_what_determines_the_vectors():
    spec = EmbedderSpec(runtime="cuda")
    assert spec.model_copy(update={"decode": "cuda"}).declared() != spec.declared()
