"""Which raw object a component of an output sample comes from."""

import pytest

from shardmill.shards.index import IndexRow
from shardmill.stages.lineage import Lineage


def lineage(*components: str, masks: tuple[str, ...] = ()) -> Lineage:
    """Of a sample with these components, each from a raw object of its name."""
    rows = {name: IndexRow("key", name, 0, 1, "digest", f"mem://{name}", "1", "digest", "key") for name in components}
    return Lineage(rows, masks)


@pytest.mark.parametrize(
    ("components", "masks", "asked", "expected"),
    [
        (("cls", "jpg"), (), "cls", "cls"),
        (("cls", "jpg"), (), "crop.png", "jpg"),
        (("a.jpg", "b.png"), (), "crop.png", "b.png"),
        (("a.jpg", "b.png"), (), "vector", "a.jpg"),
        (("a.mask.png", "b.jpg"), ("a.mask.png",), "crop.png", "b.jpg"),
        (("a.mask.png", "b.jpg"), ("a.mask.png",), "a.mask.png", "a.mask.png"),
        (("a.mask.png", "cls"), ("a.mask.png",), "crop.png", "a.mask.png"),
        (("a.jpg", "b.png"), (), "b.jpg", "b.png"),
        (("b.jpg", "png"), (), "jpg", "png"),
        (("cls", "b.jpg"), (), "", "b.jpg"),
        (("txt", "cls"), (), "words", "cls"),
    ],
)
def test_a_component_comes_from_its_namesake_or_from_the_image_that_it_is_most_like(
    components: tuple[str, ...], masks: tuple[str, ...], asked: str, expected: str
) -> None:
    assert lineage(*components, masks=masks)(asked).uri == f"mem://{expected}"
