"""Names with dots: which are torn apart, and what is said of them."""

from typing import Any

import pytest
import yaml

from shardmill.errors import ConfigurationError
from shardmill.sources import Manifest, RawObject, SourceSpec, manifest_of
from shardmill.sources.dots import check_for_dots, looks_torn, several_in_one, torn_apart
from shardmill.storage import ObjectInfo


def listed(*names: str, **source: Any) -> Manifest:
    objects = [ObjectInfo(f"s3://b/{name}", 1, "v", 1.0) for name in names]
    return manifest_of(SourceSpec(uri="s3://b", **source), "s3://b", objects)


def group(*names: str) -> list[RawObject]:
    """The objects with these names, which make one sample."""
    ((_, found),) = listed(*names).by_key()
    return list(found)


@pytest.mark.parametrize(
    "component",
    ["05.32.png", "2_cat.jpg", "01.02.jpg", "final%20(1).jpg", "0001.png", "~0123456789abcdef.png", "123z.jpg", ".jpg"],
)
def test_pieces_of_names_look_torn(component: str) -> None:
    assert looks_torn(component)


MEANT = ["jpg", "", "trimap.png", "tar.gz", "0.jpg", "12.jpg", "b01.tiff", "final.jpg", "%d0%bc.png", "x@2x.png"]


@pytest.mark.parametrize("component", [*MEANT, "200x200.jpg", "10m.tiff"])
def test_what_people_call_components_does_not(component: str) -> None:
    assert not looks_torn(component)


SHOTS = [f"Screenshot 2026-01-05 at 10.{minute:02}.32.png" for minute in range(10)]


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (SHOTS, 'components: {png: "{key}.png"}'),
        (["IMG.2024.01.02.jpg", "IMG.2024.01.03.JPEG"], r'components: {jpg: ["{key}.jpeg", "{key}.jpg"]}'),
        (["v1.2_cat.jpg", "v1.3_dog.png"], 'components: {image: ["{key}.jpg", "{key}.png"]}'),
        ([f"www.{'abcdefg'[i % 7]}{i}.com.png" for i in range(40)], 'components: {png: "{key}.png"}'),
    ],
)
def test_a_partition_whose_names_would_be_torn_apart_is_refused_with_the_way_out(names, advice: str) -> None:
    manifest = listed(*names)
    with pytest.raises(ConfigurationError) as refused:
        check_for_dots(manifest, 0.5)
    assert advice in str(refused.value)
    assert f"{len(names)} of {len(names)} objects" in str(refused.value)
    advised = listed(*names, **yaml.safe_load(advice))
    assert (advised.samples, advised.left_out.objects) == (len(names), 0)


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "a.trimap.png", "a.depth.png", "b.jpg"],
        ["a.0.jpg", "a.1.jpg", "a.2.jpg"],
        ["photo.final.jpg"],
        ["a.b/c.jpg", ".hidden.jpg", "cat.tar.gz"],
        [f"tile.b{band:02}.tif" for band in range(1, 13)],
        [],
    ],
)
def test_names_with_dots_that_are_meant_pass(names: list[str]) -> None:
    check_for_dots(listed(*names), 0.0)


def test_few_torn_names_among_many_are_no_reason_to_refuse_the_partition() -> None:
    manifest = listed(*SHOTS[:2], *(f"{number}.jpg" for number in range(198)))
    check_for_dots(manifest, 0.01)
    with pytest.raises(ConfigurationError, match=r"2 of 200 objects"):
        check_for_dots(manifest, 0.009)


def test_a_sample_of_torn_names_says_which_objects_and_what_to_do() -> None:
    said = torn_apart(group(*SHOTS))
    assert said is not None
    assert all(part in said for part in ("10 objects", SHOTS[0], 'components: {png: "{key}.png"}'))
    assert torn_apart(group(SHOTS[0])) is None
    assert torn_apart(group("a.jpg", "a.left.png", "a.right.png", "a.0001.png")) is None


def numbered(**images: int) -> list[str]:
    return [f"{key}.{number}.jpg" for key, count in images.items() for number in range(count)]


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        (numbered(cat=10, dog=10), "20 images are in 2 samples of up to 10 images"),
        (numbered(cat=3, dog=2), "5 images are in 2 samples of up to 3 images"),
        (
            ["trip.paris.jpg", "trip.rome.jpg", "home.garden.jpg", "home.door.jpg", "home.roof.jpg"],
            "5 images are in 2 samples of up to 3 images",
        ),
    ],
)
def test_images_that_may_be_samples_of_their_own_are_told_of(names: list[str], counts: str) -> None:
    said = several_in_one(listed(*names))
    assert said is not None
    assert said.startswith(counts)
    assert 'components: {jpg: "{key}.jpg"}' in said
    assert "`key_column`" in (several_in_one(listed(*names), of_table=True) or "")


@pytest.mark.parametrize(
    "names",
    [
        ["cat.jpg", "cat.mask.png", "cat.depth.png", "dog.jpg", "dog.mask.png"],
        [f"{key}.{side}.jpg" for key in "abc" for side in ("left", "right")],
        [f"{key}.left.jpg" for key in "abc"] + ["a.right.jpg", "b.right.jpg"],
        [f"{key}.b{band:02}.tif" for key in range(20) for band in range(1, 13)],
        numbered(cat=3),
        ["a.0.txt", "a.1.txt", "b.2.txt"],
        [],
    ],
)
def test_images_of_one_sample_are_not_told_of(names: list[str]) -> None:
    assert several_in_one(listed(*names)) is None
