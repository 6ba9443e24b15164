import re
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardmill.errors import ConfigurationError
from shardmill.samples import canonical_suffix
from shardmill.sources.names import (
    MAX_COMPONENT,
    MAX_KEY,
    ComponentPatterns,
    check_component,
    encode_component,
    encode_key,
    is_member_name,
    split_name,
)

WEBDATASET = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
SKIPPED_BY_WEBDATASET = re.compile(r"__[^/]*__($|/)")

NAMES = st.text(min_size=1) | st.text("aB_./~%é ", min_size=1, max_size=12) | st.text("a/", min_size=60, max_size=90)
KEYS = NAMES
COMPONENTS = st.text(st.characters(exclude_characters="/", codec="utf-8"), min_size=1) | st.text(
    "aB_.~%é", min_size=1, max_size=30
)


@pytest.mark.parametrize(
    ("name", "key", "component"),
    [
        ("cat.jpg", "cat", "jpg"),
        ("train/cat.trimap.png", "train/cat", "trimap.png"),
        ("v1.0/cat.jpg", "v1.0/cat", "jpg"),
        ("README", "README", ""),
        (".hidden", ".hidden", ""),
        (".hidden.jpg", ".hidden", "jpg"),
        ("a/...jpg", "a/...jpg", ""),
        ("...", "...", ""),
        ("cat.", "cat", ""),
        ("cat..jpg", "cat", ".jpg"),
        ("folder/", "folder/", ""),
    ],
)
def test_a_name_splits_at_the_first_dot_of_its_last_part(name: str, key: str, component: str) -> None:
    assert split_name(name) == (key, component)


@given(NAMES)
def test_splitting_loses_nothing_but_one_dot(name: str) -> None:
    key, component = split_name(name)
    assert name in (f"{key}.{component}", key)


@given(KEYS)
@example("..")
@example("/absolute")
@example("/")
@example("folder/")
@example("../../escape")
@example("__meta__/cat")
@example("x" * 300)
def test_encoded_keys_are_ascii_without_space_or_dot_and_short(key: str) -> None:
    encoded = encode_key(key)
    assert re.fullmatch(r"[!-~]+", encoded)
    assert "." not in encoded
    assert len(encoded) <= MAX_KEY
    assert not encoded.startswith("/")
    assert not encoded.endswith("/")


@given(COMPONENTS)
@example("X" * 100 + ".PNG")
def test_encoded_components_are_ascii_without_space_lower_case_and_short(component: str) -> None:
    encoded = encode_component(component)
    assert re.fullmatch(r"[!-~]+", encoded)
    assert encoded == encoded.lower()
    assert "/" not in encoded
    assert len(encoded) <= MAX_COMPONENT


@given(KEYS, COMPONENTS)
def test_a_key_and_a_component_are_at_most_100_bytes_together(key: str, component: str) -> None:
    assert len(f"{encode_key(key)}.{encode_component(component)}".encode()) <= 100


@given(KEYS, COMPONENTS)
@example("a/..", ".jpg")
@example("__a__", "b__")
@example("a/__b", "__key__")
def test_webdataset_splits_an_encoded_name_where_we_do(key: str, component: str) -> None:
    key, component = encode_key(key), encode_component(component)
    match = WEBDATASET.match(f"{key}.{component}")
    assert match
    assert match.groups() == (key, component)


@given(KEYS, COMPONENTS)
@example("__meta__/cat", "jpg")
@example("__", "x__")
@example("a/__cat", "jpg")
@example("cat", "__key__")
@example("cat", "__bad__")
def test_no_reader_takes_an_encoded_name_for_its_own_metadata(key: str, component: str) -> None:
    name = f"{encode_key(key)}.{encode_component(component)}"
    assert not SKIPPED_BY_WEBDATASET.match(name)
    assert not name.rpartition("/")[2].startswith(("__", "."))  # datasets skips these
    assert not encode_component(component).startswith("__")


@given(st.lists(KEYS, min_size=2, unique=True))
@example(["/a", "%2Fa"])
@example(["a b", "a%20b"])
@example(["a.b", "a%2Eb"])
@example(["__a", "%5F_a", "_a"])
@example(["é", "e\u0301"])
def test_different_keys_stay_different(keys: list[str]) -> None:
    assert len({encode_key(key) for key in keys}) == len(keys)


@given(st.text(min_size=40))
@example("x" * 100)
@example("x" * MAX_KEY)
def test_a_key_that_looks_like_a_shortened_one_is_not_taken_for_it(key: str) -> None:
    shortened = encode_key(key)
    assert shortened == key or encode_key(shortened) != shortened


def test_shortened_keys_keep_their_beginning_and_stay_different() -> None:
    keys = [f"{'train/' * 20}{number}" for number in range(1000)]
    encoded = {encode_key(key) for key in keys}
    assert len(encoded) == len(keys)
    assert all(key.startswith("train/train/") and len(key) == MAX_KEY for key in encoded)


@given(st.text(string.ascii_letters + string.digits + "_-/=+@,", max_size=MAX_KEY, min_size=1))
def test_ordinary_keys_stay_as_they_are(key: str) -> None:
    if key == key.strip("/") and "__" not in key:
        assert encode_key(key) == key


@given(COMPONENTS)
def test_components_that_differ_in_case_alone_are_one(component: str) -> None:
    assert encode_component(component.lower()) == encode_component(component)


@given(st.lists(COMPONENTS.map(str.lower), min_size=2, unique=True))
@example(["__key__", "%5f_key__"])
@example(["x" * 40 + ".png", encode_component("x" * 40 + ".png")])
@example(["\u0130", "\u0131"])
def test_different_components_stay_different(components: list[str]) -> None:
    apart = {
        f"{before}{dot}{canonical_suffix(suffix)}"
        for before, dot, suffix in (component.lower().rpartition(".") for component in components)
    }
    assert len({encode_component(component) for component in apart}) == len(apart)


def test_a_shortened_component_keeps_its_suffix() -> None:
    assert encode_component("segmentation.of.the.whole.scene.png").endswith(".png")


@given(KEYS, COMPONENTS)
@example("x" * 300, "Y" * 300)
@example("a/" * 300, "é" * 9)
@example("a//b", "jpg")
def test_every_encoded_name_can_stand_in_a_shard(key: str, component: str) -> None:
    assert is_member_name(encode_key(key), encode_component(component))


@pytest.mark.parametrize(
    ("key", "component"),
    [
        ("", "jpg"),
        ("a", ""),
        ("/a", "jpg"),
        ("a/", "jpg"),
        ("a.b", "jpg"),
        ("a b", "jpg"),
        ("é", "jpg"),
        ("a\n", "jpg"),
        ("a", "jpg\n"),
        ("a\0b", "jpg"),
        ("a", "JPG"),
        ("a", "jpeg"),
        ("a", "mask.tif"),
        ("a", "b/c"),
        ("__a", "jpg"),
        ("a/__b", "jpg"),
        ("a", "__key__"),
        ("x" * 97, "jpg"),
    ],
)
def test_what_readers_would_misread_cannot_stand_in_a_shard(key: str, component: str) -> None:
    assert not is_member_name(key, component)


def test_a_name_of_100_bytes_can_stand_in_a_shard() -> None:
    assert is_member_name("x" * 96, "jpg")


@pytest.mark.parametrize(
    ("component", "encoded"),
    [
        ("JPG", "jpg"),
        ("jpeg", "jpg"),
        ("JPE", "jpg"),
        ("jfif", "jpg"),
        ("tif", "tiff"),
        ("mask.TIF", "mask.tiff"),
        ("jpeg.png", "jpeg.png"),
        ("apng", "png"),
        ("dib", "bmp"),
        ("tar.gz", "tar.gz"),
    ],
)
def test_one_suffix_is_used_of_those_that_name_one_format(component: str, encoded: str) -> None:
    assert encode_component(component) == encoded


@pytest.mark.parametrize(
    ("component", "meant"),
    [("JPG", "'jpg'"), ("image.jpeg", "'image.jpg'"), ("mask.tif", "'mask.tiff'"), ("Mask.PNG", "'mask.png'")],
)
def test_a_component_of_a_dataset_file_is_called_as_in_shards_or_refused_with_what_is_meant(component, meant) -> None:
    with pytest.raises(ConfigurationError, match=f"did you mean {re.escape(meant)}"):
        check_component(component)


@pytest.mark.parametrize("component", ["", "a b", "é", "__key__", "x" * 28])
def test_what_no_component_is_called_is_refused(component: str) -> None:
    with pytest.raises(ConfigurationError, match="at most 27 lower-case letters"):
        check_component(component)
    assert check_component("image.jpg") == "image.jpg"


# Patterns


def patterns(**components: str | list[str]) -> ComponentPatterns:
    """Of components whose dots are written as `__`."""
    named = {name.replace("__", "."): given for name, given in components.items()}
    return ComponentPatterns({name: [given] if isinstance(given, str) else given for name, given in named.items()})


def test_the_first_pattern_that_fits_the_whole_name_decides() -> None:
    found = patterns(image__jpg="images/{key}.jpg", trimap__png="annotations/trimaps/{key}.png", other="{key}")
    assert [each.component for each in found.components] == ["image.jpg", "trimap.png", "other"]
    assert found.split("images/cats/a.jpg") == ("cats/a", "image.jpg")
    assert found.split("annotations/trimaps/a.b.png") == ("a.b", "trimap.png")
    assert found.split("images/a.png") == ("images/a.png", "other")


def test_a_name_that_fits_no_pattern_is_none() -> None:
    found = patterns(jpg="images/{key}.jpg")
    assert found.split("images/.jpg") is None
    assert found.split("xx/images/a.jpg") is None
    assert found.split("images/a.jpg~") is None


def test_everything_but_the_key_is_literal() -> None:
    found = patterns(jpg="[a-z]+(1)/{key}.jpg")
    assert found.split("[a-z]+(1)/x.jpg") == ("x", "jpg")
    assert found.split("b1/x.jpg") is None


def test_case_counts_in_a_key_alone() -> None:
    assert patterns(jpg="Images/{key}.jpg").split("images/IMG_1.JPG") == ("IMG_1", "jpg")


def test_a_component_has_several_patterns_and_is_called_after_the_image_that_fits() -> None:
    found = patterns(image__jpg=["images/{key}.jpg", "photos/{key}.jpeg", "images/{key}.PNG"], cls="{key}.txt")
    assert found.split("photos/a.JPEG") == ("a", "image.jpg")
    assert found.split("images/a.png") == ("a", "image.png")
    assert found.split("a.txt") == ("a", "cls")
    assert found.components == (("image.jpg", ("image.jpg", "image.png")), ("cls", ("cls",)))


def test_any_suffix_is_the_last_one_and_names_an_image_that_has_none_by_declaration() -> None:
    found = patterns(image="images/{key}.*", mask="masks/{key}_mask.*")
    assert found.split("images/a.b.JPEG") == ("a.b", "image.jpg")
    assert found.split("masks/a_mask.tif") == ("a", "mask.tiff")
    assert found.split("images/notes.txt") == ("notes", "image")
    assert found.split("images/README") is None
    assert {"image", "image.jpg", "image.png", "image.tiff"} <= set(found.components[0].names)


def test_two_components_that_could_be_called_the_same_are_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"'image' and 'image.png' would both be called 'image.png'"):
        patterns(image="images/{key}.*", image__png="masks/{key}.png")
    assert patterns(jpg="{key}.jpg", png="{key}.png").components == (("jpg", ("jpg",)), ("png", ("png",)))


@given(KEYS)
def test_a_pattern_gives_back_any_key(key: str) -> None:
    assert patterns(jpg="a/{key}.jpg").split(f"a/{key}.jpg") == (key, "jpg")


@given(KEYS, st.sampled_from(["jpg", "JPEG", "png", "tif", "txt"]))
def test_what_a_pattern_calls_a_component_is_among_its_names(key: str, suffix: str) -> None:
    found = patterns(image="a/{key}.*")
    split = found.split(f"a/{key}.{suffix}")
    assert split is not None
    assert split[1] in found.components[0].names


@pytest.mark.parametrize("pattern", ["images/a.jpg", "{key}/{key}.jpg", "{name}.jpg", "{partition}/{key}.jpg", ""])
def test_a_pattern_without_one_key_is_a_configuration_error(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'jpg'.*{re.escape(repr(pattern))}"):
        patterns(jpg=pattern)


@pytest.mark.parametrize("pattern", ["*/{key}.jpg", "{key}*.jpg", "{key}*", "{key}.*.jpg"])
def test_a_star_stands_for_a_suffix_alone(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="stands for a suffix alone"):
        patterns(jpg=pattern)


def test_a_name_that_just_fits_is_not_shortened() -> None:
    assert encode_key("x" * MAX_KEY) == "x" * MAX_KEY
    assert encode_key("x" * (MAX_KEY + 1)).startswith("x" * (MAX_KEY - 17) + "~")
    assert encode_component("x" * MAX_COMPONENT) == "x" * MAX_COMPONENT
    assert encode_component("x" * (MAX_COMPONENT + 1)).startswith("~")
