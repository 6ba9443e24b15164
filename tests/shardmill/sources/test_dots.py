"""Names with dots: which are torn apart, and what is said of them."""

from typing import Any

import pytest
import yaml

from shardmill.errors import ConfigurationError
from shardmill.sources import Manifest, RawObject, SourceSpec, manifest_of
from shardmill.sources.dots import check_for_dots, looks_torn, torn_apart
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
