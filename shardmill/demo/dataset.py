"""Writes the demo dataset: a folder a partition, three files a sample."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from shardmill.demo.photographs import PHOTOGRAPHS, Photograph, load_photograph
from shardmill.demo.planted import PLANTED, Planted, encode_jpeg
from shardmill.temporary import temporary_directory

DEMO_PARTITIONS = ("2026-01", "2026-02", "2026-03")

DEMO_VIEWS = 12
"""Views of each photograph in each partition."""


@dataclass(frozen=True)
class DemoPartition:
    """What lies in one partition's folder."""

    name: str
    made: bool
    """False if it stood there before."""
    samples: int
    """All of them, planted ones too."""
    image_bytes: int
    """Of the images, without labels and masks."""
    rejects: Mapping[str, str]
    """Key → reason of the samples that must be rejected."""


@dataclass(frozen=True)
class DemoSummary:
    """What `make_demo_dataset` made or found."""

    root: Path
    partitions: Sequence[DemoPartition]

    @property
    def samples(self) -> int:
        """Samples in all partitions."""
        return sum(partition.samples for partition in self.partitions)

    @property
    def mean_image_bytes(self) -> float:
        """Mean size of an image file, in bytes."""
        return sum(partition.image_bytes for partition in self.partitions) / self.samples


def make_demo_dataset(root: Path, partitions: Sequence[str] = DEMO_PARTITIONS, views: int = DEMO_VIEWS) -> DemoSummary:
    """Write `<root>/<partition>/<photograph>_<view>.jpg`, `.cls` (the place in `PHOTOGRAPHS`) and `.mask.png`.

    Every partition holds `views` views of every photograph, and its share of `PLANTED`. View numbers run on
    from one partition to the next, so a key occurs once in the dataset. The bytes are the same on every run
    with the same Pillow. A partition is written elsewhere and renamed: under its name it is complete, and
    then it is left untouched, whatever `views` says.

    Raises:
        ConfigurationError: scikit-image or scikit-learn is not installed.
    """
    missing = [name for name in partitions if not (root / name).exists()]
    if missing:
        with ThreadPoolExecutor() as pool:
            photographs = dict(zip(PHOTOGRAPHS, pool.map(load_photograph, PHOTOGRAPHS), strict=True))
        root.mkdir(parents=True, exist_ok=True)
        for name in missing:
            _publish(root / name, _samples_of(name, partitions, views, photographs))
    return DemoSummary(root, [_describe(root / name, name in missing, partitions) for name in partitions])


def planted_rejects(partition: str, partitions: Sequence[str] = DEMO_PARTITIONS) -> Mapping[str, str]:
    """Key → reason of the samples of a partition that must be rejected."""
    planted = _planted_in(partition, partitions)
    return {each.key: each.reason for each in planted if each.reason is not None}


def _planted_in(partition: str, partitions: Sequence[str]) -> Sequence[Planted]:
    return PLANTED[partitions.index(partition) :: len(partitions)]


@dataclass(frozen=True)
class _Sample:
    """One sample to be written: a view, and what to make of its picture."""

    key: str
    component: str
    photograph: Photograph
    seed: int | str
    encode: Callable[[Image.Image], bytes]

    def write_into(self, folder: Path) -> None:
        view = self.photograph.view(self.seed)
        (folder / f"{self.key}.{self.component}").write_bytes(self.encode(view.image))
        (folder / f"{self.key}.cls").write_text(str(list(PHOTOGRAPHS).index(self.photograph.name)))
        view.mask.save(folder / f"{self.key}.mask.png")


def _samples_of(
    partition: str, partitions: Sequence[str], views: int, photographs: Mapping[str, Photograph]
) -> Sequence[_Sample]:
    first = partitions.index(partition) * views
    plain = [
        _Sample(f"{name}_{number:03d}", "jpg", photograph, number, encode_jpeg)
        for name, photograph in photographs.items()
        for number in range(first, first + views)
    ]
    planted = [
        _Sample(each.key, each.component, photographs[each.photograph], each.fault, each.encode)
        for each in _planted_in(partition, partitions)
    ]
    return plain + planted


def _publish(folder: Path, samples: Sequence[_Sample]) -> None:
    """Write the samples into a hidden folder next to `folder` and rename it; on a failure nothing remains."""
    with temporary_directory(folder.parent, f".{folder.name}.") as hidden:
        hidden.chmod(0o755)  # it is others' to read, too
        # Threads are enough: Pillow releases the GIL while it resizes and encodes.
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(lambda sample: sample.write_into(hidden), samples):
                pass  # raises what a sample raised, and cancels the rest
        hidden.rename(folder)


def _describe(folder: Path, made: bool, partitions: Sequence[str]) -> DemoPartition:
    images = [file.stat().st_size for file in folder.iterdir() if not file.name.endswith((".cls", ".mask.png"))]
    return DemoPartition(
        name=folder.name,
        made=made,
        samples=len(images),
        image_bytes=sum(images),
        rejects=planted_rejects(folder.name, partitions),
    )
