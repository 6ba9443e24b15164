import hashlib
from collections import Counter
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, UnidentifiedImageError

from shardmill.demo import PHOTOGRAPHS, PLANTED, DemoSummary, dataset, make_demo_dataset, photographs
from shardmill.demo import planted_rejects as rejects_of
from shardmill.errors import ConfigurationError

PARTITIONS = ("2026-01", "2026-02")
VIEWS = 2


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoSummary:
    return make_demo_dataset(tmp_path_factory.mktemp("demo"), PARTITIONS, VIEWS)


def snapshot(root: Path) -> dict[str, tuple[str, int]]:
    return {
        file.relative_to(root).as_posix(): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_mtime_ns,
        )
        for file in root.rglob("*")
        if file.is_file()
    }


def planted_file(demo: DemoSummary, fault: str) -> Path:
    """The image of a planted sample."""
    [planted] = [each for each in PLANTED if each.fault == fault]
    [file] = demo.root.glob(f"*/{planted.key}.{planted.component}")
    return file


def mask_of(image: Path) -> Image.Image:
    return Image.open(image.with_name(image.name.partition(".")[0] + ".mask.png"))


def test_every_class_is_in_every_partition(demo: DemoSummary) -> None:
    for partition in PARTITIONS:
        views = [
            file for file in (demo.root / partition).glob("*.cls") if file.stem not in {each.key for each in PLANTED}
        ]
        assert Counter(int(file.read_text()) for file in views) == dict.fromkeys(range(len(PHOTOGRAPHS)), VIEWS)
        assert all(list(PHOTOGRAPHS)[int(file.read_text())] == file.stem.rpartition("_")[0] for file in views)


def test_every_sample_has_an_image_a_label_and_a_mask(demo: DemoSummary) -> None:
    components: dict[str, set[str]] = {}
    for file in demo.root.glob("*/*"):
        key, _, component = file.name.partition(".")
        components.setdefault(key, set()).add(component)
    assert len(components) == demo.samples == len(PARTITIONS) * VIEWS * len(PHOTOGRAPHS) + len(PLANTED)
    image = {each.key: each.component for each in PLANTED}
    assert components == {key: {image.get(key, "jpg"), "cls", "mask.png"} for key in components}


def test_views_differ_and_masks_fit_them(demo: DemoSummary) -> None:
    views = list(demo.root.glob("*/*_[0-9][0-9][0-9].jpg"))
    assert len({file.read_bytes() for file in views}) == len(views) == 2 * VIEWS * len(PHOTOGRAPHS)
    for file in views:
        with Image.open(file) as image, mask_of(file) as mask:
            assert max(image.size) == 500
            assert image.mode in ("RGB", "L")
            assert mask.mode == "L"
            assert mask.size == image.size
            assert set(np.unique(np.asarray(mask))) <= set(range(photographs.MASK_CLASSES))


def test_a_mask_lies_over_the_view_it_describes(demo: DemoSummary) -> None:
    [file] = sorted((demo.root / "2026-01").glob("photographer_000.jpg"))
    with Image.open(file) as image, mask_of(file) as mask:
        grey, labels = np.asarray(image), np.asarray(mask)
    means = [grey[labels == label].mean() for label in np.unique(labels)]
    assert means == sorted(means)
    assert means[-1] - means[0] > 100


def test_files_have_the_size_of_ordinary_photographs(demo: DemoSummary) -> None:
    assert 80_000 < demo.mean_image_bytes < 120_000


def test_the_same_bytes_every_time(demo: DemoSummary, tmp_path: Path) -> None:
    make_demo_dataset(tmp_path, PARTITIONS, VIEWS)
    again, before = snapshot(tmp_path), snapshot(demo.root)
    assert {name: digest for name, (digest, _) in again.items()} == {
        name: digest for name, (digest, _) in before.items()
    }


def test_a_complete_partition_is_left_untouched(demo: DemoSummary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "load_photograph", lambda _: pytest.fail("nothing is to be done"))
    before = snapshot(demo.root)
    again = make_demo_dataset(demo.root, PARTITIONS, VIEWS)
    assert snapshot(demo.root) == before
    assert [partition.made for partition in demo.partitions] == [True, True]
    assert [partition.made for partition in again.partitions] == [False, False]
    assert again.samples == demo.samples


def test_a_missing_partition_is_made_beside_the_others(demo: DemoSummary, tmp_path: Path) -> None:
    make_demo_dataset(tmp_path, PARTITIONS, 1)
    kept = snapshot(tmp_path / "2026-01")
    for file in (tmp_path / "2026-02").iterdir():
        file.unlink()
    (tmp_path / "2026-02").rmdir()
    again = make_demo_dataset(tmp_path, PARTITIONS, 1)
    assert [partition.made for partition in again.partitions] == [False, True]
    assert snapshot(tmp_path / "2026-01") == kept


@pytest.mark.parametrize("interruption", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_making_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    def encode(image: Image.Image) -> bytes:
        if len(list(tmp_path.glob(".2026-01.*/*"))) > 20:
            raise interruption
        return b"a view"

    monkeypatch.setattr(dataset, "encode_jpeg", encode)
    with pytest.raises(type(interruption)):
        make_demo_dataset(tmp_path, PARTITIONS, VIEWS)
    assert list(tmp_path.iterdir()) == []


def test_planted_rejects_are_spread_and_named(demo: DemoSummary) -> None:
    expected = {each.key: each.reason for each in PLANTED if each.reason}
    assert {key: reason for each in demo.partitions for key, reason in each.rejects.items()} == expected
    assert set(expected.values()) == {
        "empty file",
        "not an image",
        "wrong extension",
        "truncated or corrupt image",
        "too many pixels",
    }
    for each in demo.partitions:
        assert each.rejects == rejects_of(each.name, PARTITIONS)
        assert each.rejects
        assert all((demo.root / each.name / f"{key}.cls").is_file() for key in each.rejects)
    assert all(rejects_of(partition) for partition in dataset.DEMO_PARTITIONS)


def test_the_truncated_one_opens_but_does_not_load(demo: DemoSummary) -> None:
    with (
        Image.open(planted_file(demo, "truncated")) as image,
        pytest.raises(OSError, match="truncated"),
    ):
        image.load()


def test_the_empty_one_is_empty(demo: DemoSummary) -> None:
    assert planted_file(demo, "empty").read_bytes() == b""


def test_the_png_named_jpg_is_a_sound_png(demo: DemoSummary) -> None:
    with Image.open(planted_file(demo, "png_named_jpg")) as image:
        image.load()
        assert image.format == "PNG"


def test_the_text_named_jpg_is_no_image(demo: DemoSummary) -> None:
    with pytest.raises(UnidentifiedImageError):
        Image.open(planted_file(demo, "text_named_jpg"))


def test_the_bomb_is_small_and_claims_much(demo: DemoSummary) -> None:
    file = planted_file(demo, "bomb")
    assert file.stat().st_size < 10_000
    with pytest.raises(Image.DecompressionBombError):
        Image.open(file)


def test_the_bomb_s_header_is_whole(demo: DemoSummary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with Image.open(planted_file(demo, "bomb")) as image:
        assert image.format == "JPEG"
        assert image.size == (65000, 65000)


@pytest.mark.parametrize("fault", ["cmyk", "exif_rotated", "grey16"])
def test_the_odd_ones_come_out_as_the_view_they_show(demo: DemoSummary, fault: str) -> None:
    [planted] = [each for each in PLANTED if each.fault == fault]
    view = photographs.load_photograph(planted.photograph).view(fault)
    expected = np.asarray(view.image.convert("RGB"), dtype=np.int16)
    with Image.open(planted_file(demo, fault)) as stored:
        upright = ImageOps.exif_transpose(stored)
        if fault == "grey16":
            assert stored.mode.startswith("I;16")
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        seen = np.asarray(upright.convert("RGB"), dtype=np.int16)
    assert seen.shape == expected.shape
    assert np.abs(seen - expected).mean() < 3
    assert mask_of(planted_file(demo, fault)).size == view.image.size


def test_the_rotated_one_needs_its_orientation(demo: DemoSummary) -> None:
    with Image.open(planted_file(demo, "exif_rotated")) as stored:
        assert stored.getexif()[0x0112] == 6
        assert stored.size == mask_of(planted_file(demo, "exif_rotated")).size[::-1]
        assert stored.size[0] != stored.size[1]


def test_the_cmyk_one_is_cmyk(demo: DemoSummary) -> None:
    with Image.open(planted_file(demo, "cmyk")) as stored:
        assert stored.mode == "CMYK"


def test_the_photographs_are_files_of_the_wheels() -> None:
    for distribution, package in [("scikit-image", "skimage"), ("scikit-learn", "sklearn")]:
        shipped = {file.as_posix() for file in metadata.files(distribution) or ()}
        assert {path for path in PHOTOGRAPHS.values() if path.startswith(package)} <= shipped


def test_a_missing_wheel_is_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'shardmill\[demo\]'"):
        make_demo_dataset(tmp_path / "new", PARTITIONS, VIEWS)
    assert not (tmp_path / "new").exists()


def test_a_photograph_no_longer_shipped_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "_package_folder", lambda _: tmp_path)
    with pytest.raises(ConfigurationError, match="'cat'"):
        photographs.load_photograph("cat")
