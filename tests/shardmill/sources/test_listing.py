import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shardmill.dataset import Dataset, DatasetSpec
from shardmill.errors import ConfigurationError
from shardmill.sources import Manifest, RawObject, SampleNames, SourceSpec, content_digest, content_of, manifest_of
from shardmill.storage import ObjectInfo, Storage, join_uri
from tests.small import plan

Write = Callable[..., str]


def dataset_of(source: SourceSpec, partition: str, storage: Storage, root: str = "/nowhere") -> Dataset:
    spec = {"name": "listed", "root": root, "source": source.model_dump(), "partitions": [partition]}
    return Dataset(DatasetSpec.model_validate(spec), storage)


def listed(source: SourceSpec, partition: str, storage: Storage) -> Manifest:
    return dataset_of(source, partition, storage).manifest(partition)


def samples(manifest: Manifest) -> dict[str, list[str]]:
    return {key: [item.component for item in group] for key, group in manifest.by_key()}


class Shuffled(Storage):
    """Lists in another order every time."""

    def list(self, folder: str, **options: Any) -> Iterator[ObjectInfo]:
        found = list(super().list(folder, **options))
        random.shuffle(found)
        return iter(found)


# A prefix


def test_a_marker_is_no_sample_and_its_name_elsewhere_is_one() -> None:
    names = SampleNames(SourceSpec(uri="s3://b", marker="done"))
    assert not names.takes("done")
    assert names.split("done") is None
    assert names.place("done") == "marker"
    assert names.split("below/done") == ("below/done", "")


def test_a_prefix_is_listed_into_samples_by_name(storage: Storage, folder: str, write: Write) -> None:
    uri = write("raw/cats/a.jpg", b"12345")
    write("raw/cats/a.cls")
    write("raw/cats/a.trimap.png")
    write("raw/dogs/b.JPG")
    write("raw/README")
    manifest = listed(SourceSpec(uri=f"{folder}/raw"), "all", storage)
    assert samples(manifest) == {"README": [""], "cats/a": ["cls", "jpg", "trimap.png"], "dogs/b": ["jpg"]}
    [item] = [item for item in manifest if item.uri == uri]
    info = storage.stat(uri)
    assert info is not None
    modified = pytest.approx(info.modified, abs=1e-6)
    assert item == RawObject("cats/a", "jpg", uri, 5, info.version, modified, None)


def test_the_partition_stands_for_its_place_in_the_uri(storage: Storage, folder: str, write: Write) -> None:
    write("2026-01/raw/a.jpg")
    write("2026-02/raw/b.jpg")
    source = SourceSpec(uri=folder + "/{partition}/raw")
    assert samples(listed(source, "2026-01", storage)) == {"a": ["jpg"]}
    assert samples(listed(source, "2026-02", storage)) == {"b": ["jpg"]}


@pytest.mark.parametrize("ending", ["", "/", "//", "/."])
def test_the_end_of_the_uri_does_not_matter(storage: Storage, folder: str, write: Write, ending: str) -> None:
    write("raw/a.jpg")
    assert samples(listed(SourceSpec(uri=f"{folder}/raw{ending}"), "all", storage)) == {"a": ["jpg"]}


def test_a_bare_path_is_a_uri(storage: Storage, tmp_path: Path, write: Write) -> None:
    write("raw/a.jpg")
    assert samples(listed(SourceSpec(uri=str(tmp_path / "raw")), "all", storage)) == {"a": ["jpg"]}


def test_odd_names_are_encoded_and_their_uris_are_not(storage: Storage, folder: str, write: Write) -> None:
    uri = write("raw/été 1.0/a b.jpg")
    [item] = listed(SourceSpec(uri=f"{folder}/raw"), "all", storage)
    assert (item.key, item.component, item.uri) == ("%C3%A9t%C3%A9%201%2E0/a%20b", "jpg", uri)


def test_a_name_that_is_not_utf_8_is_listed_in_a_form_that_can_be_read(storage: Storage, folder: str, write) -> None:
    write("raw/caf\udce9.jpg")
    write("raw/café.jpg")
    manifest = listed(SourceSpec(uri=f"{folder}/raw"), "all", storage)
    assert samples(manifest) == {"caf%C3%A9": ["jpg"], "caf%E9": ["jpg"]}
    assert [item.uri for item in manifest] == [f"{folder}/raw/café.jpg", f"{folder}/raw/caf\\udce9.jpg"]
    infos = list(storage.list(f"{folder}/raw"))
    assert manifest.content == content_digest(sum(content_of(info.uri, info.version) for info in infos))


@pytest.mark.parametrize("made", [True, False])
def test_an_empty_prefix_is_a_configuration_error_that_names_it(
    storage: Storage, folder: str, tmp_path: Path, made: bool
) -> None:
    if made:
        (tmp_path / "raw").mkdir()
    with pytest.raises(ConfigurationError, match=f"{folder}/raw.*'2026-01'"):
        plan(dataset_of(SourceSpec(uri=f"{folder}/raw"), "2026-01", storage), "raw_images", "2026-01")


def test_equal_sets_of_objects_give_equal_manifests_whatever_the_order(folder: str, write: Write) -> None:
    for number in range(50):
        write(f"raw/{number % 7}/{number}.jpg")
    manifests = [listed(SourceSpec(uri=f"{folder}/raw"), "all", Shuffled()) for _ in range(5)]
    assert len({manifest.digest for manifest in manifests}) == 1
    assert all(manifest.table == manifests[0].table for manifest in manifests)


def test_a_replaced_object_changes_the_manifest(storage: Storage, folder: str, write: Write) -> None:
    write("raw/a.jpg", b"one")
    before = listed(SourceSpec(uri=f"{folder}/raw"), "all", storage)
    uri = write("raw/a.jpg", b"two")
    os.utime(uri.removeprefix("file://"), (1, 1))
    assert listed(SourceSpec(uri=f"{folder}/raw"), "all", storage).digest != before.digest


# Patterns


def test_patterns_bring_folders_together(storage: Storage, folder: str, write: Write) -> None:
    for name in ("images/a.jpg", "images/b.jpg", "annotations/trimaps/a.png", "annotations/list.txt"):
        write(f"raw/{name}")
    patterns = {"image.jpg": "images/{key}.jpg", "trimap.png": "annotations/trimaps/{key}.png"}
    manifest = listed(SourceSpec(uri=f"{folder}/raw", components=patterns), "all", storage)
    assert samples(manifest) == {"a": ["image.jpg", "trimap.png"], "b": ["image.jpg"]}


def test_patterns_that_nothing_fits_are_a_configuration_error_that_says_so(
    storage: Storage, folder: str, write: Write
) -> None:
    write("raw/a.jpg")
    source = SourceSpec(uri=f"{folder}/raw", components={"jpg": "images/{key}.jpg"})
    with pytest.raises(ConfigurationError, match="patterns of `components`"):
        plan(dataset_of(source, "all", storage), "raw_images", "all")


# What is left out


def left_out(manifest: Manifest) -> dict[str, list[str]]:
    """The names of the objects by rule."""
    found: dict[str, list[str]] = {}
    for row in manifest.left_out.table.to_pylist():
        found.setdefault(row["rule"], []).append(row["uri"].rpartition("/raw/")[2])
    return found


def test_every_listed_object_is_in_a_sample_or_left_out_by_a_named_rule(storage, folder: str, write: Write) -> None:
    for name in (
        "images/a.JPG",
        "images/._a.JPG",
        "images/b.gif",
        "images/old/c.jpg",
        ".DS_Store",
        "notes.txt",
        "done",
    ):
        write(f"raw/{name}")
    source = SourceSpec(
        uri=f"{folder}/raw", components={"jpg": "images/{key}.jpg"}, exclude=["*.TXT", "images/old/"], marker="done"
    )
    manifest = listed(source, "all", storage)
    assert samples(manifest) == {"a": ["jpg"]}
    assert left_out(manifest) == {
        "default: .DS_Store": [".DS_Store"],
        "default: ._*": ["images/._a.JPG"],
        "exclude: *.TXT": ["notes.txt"],
        "exclude: images/old/": ["images/old/c.jpg"],
        "marker": ["done"],
        "no pattern": ["images/b.gif"],
    }
    assert manifest.left_out.by_rule == dict.fromkeys(sorted(left_out(manifest)), 1)
    assert manifest.left_out.listed == 7


def test_without_the_defaults_litter_is_data(storage: Storage, folder: str, write: Write) -> None:
    write("raw/._a.jpg")
    assert left_out(listed(SourceSpec(uri=f"{folder}/raw"), "all", storage)) == {"default: ._*": ["._a.jpg"]}
    manifest = listed(SourceSpec(uri=f"{folder}/raw", exclude_defaults=False), "all", storage)
    assert (samples(manifest), manifest.left_out.objects) == ({"%2E_a": ["jpg"]}, 0)


def test_what_is_no_file_is_left_out(storage: Storage, folder: str, tmp_path: Path, write: Write) -> None:
    write("raw/sub/a.jpg")
    os.mkfifo(tmp_path / "raw/pipe.jpg")
    (tmp_path / "raw/link.jpg").symlink_to("pipe.jpg")
    (tmp_path / "raw/._pipe").symlink_to("pipe.jpg")
    (tmp_path / "raw/zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "raw/sub/round").symlink_to("..")
    manifest = listed(SourceSpec(uri=f"{folder}/raw"), "all", storage)
    assert samples(manifest) == {"sub/a": ["jpg"]}
    assert left_out(manifest) == {
        "default: ._*": ["._pipe"],
        "not a file": ["link.jpg", "pipe.jpg", "zero.jpg"],
        "loop of links": ["sub/round"],
    }
    assert manifest.left_out.listed == 6


PARTS = st.sampled_from(["images", "Masks", "a", "b.c", "._a", ".DS_Store", "__MACOSX", "@eaDir", "x y", "0001", "é"])
SUFFIXES = st.sampled_from(["", ".jpg", ".JPG", ".jpeg", ".png", ".mask.TIF", ".txt", ".tar.gz", "/"])
NAMES = st.builds(lambda parts, suffix: "/".join(parts) + suffix, st.lists(PARTS, min_size=1, max_size=3), SUFFIXES)
PATTERNS = st.none() | st.fixed_dictionaries(
    {"image": st.lists(st.sampled_from(["images/{key}.jpg", "images/{key}.*", "a/{key}.png"]), min_size=1)},
    optional={"mask.tiff": st.just(["Masks/{key}.mask.tif"]), "txt": st.just("{key}.txt")},
)
GLOBS = st.lists(st.sampled_from(["*.txt", "a/", "**/b*/**", "images/?", "*.tar.gz", "/x y/*"]), max_size=3)


@given(st.lists(NAMES, unique=True), PATTERNS, GLOBS, st.booleans())
def test_listed_are_the_samples_objects_and_what_is_left_out(names, patterns, globs, defaults: bool) -> None:
    """Each once, by one rule, and as a watcher sees them one by one."""
    source = SourceSpec(uri="s3://b/raw", components=patterns, exclude=globs, exclude_defaults=defaults)
    objects = [ObjectInfo(f"s3://b/raw/{name}", number, "v", 1.0) for number, name in enumerate(names)]
    manifest = manifest_of(source, "s3://b/raw", objects)
    kept, rest = [item.uri for item in manifest], manifest.left_out.table["uri"].to_pylist()
    assert sorted([*kept, *rest]) == sorted(info.uri for info in objects)
    assert manifest.left_out.listed == len(names) == manifest.objects + sum(manifest.left_out.by_rule.values())
    takes = SampleNames(source).takes
    assert {uri.removeprefix("s3://b/raw/") for uri in kept} == set(filter(takes, names))


# The spec


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either `uri`"),
        ({"uri": "a", "table": "b"}, "either `uri`"),
        ({"table": "a", "components": {"jpg": "{key}.jpg"}}, "a table has none"),
        ({"uri": "a", "components": {"jpg": "a.jpg"}}, r"'a\.jpg'; it needs \{key\} once"),
        ({"uri": "a", "components": {"JPG": "{key}.jpg"}}, "'JPG'"),
        ({"uri": "a", "components": {"a b": "{key}.jpg"}}, "'a b'"),
        ({"uri": "a", "components": {"__key__": "{key}.jpg"}}, "'__key__'"),
        ({"uri": "a", "components": {"x" * 28: "{key}.jpg"}}, "27"),
        ({"uri": "a", "components": {"image.jpeg": "{key}.jpeg"}}, r"did you mean 'image\.jpg'"),
        ({"uri": "a", "components": {"jpg": []}}, "must not be empty"),
        ({"uri": "a", "components": {}}, "must not be empty"),
        ({"uri": "a", "components": {"image": "{key}.*", "image.png": "{key}.png"}}, r"called 'image\.png'"),
        ({"uri": "a", "exclude": ["!keep.jpg"]}, "taken back"),
        ({"uri": "a", "exclude": ["*.{jpg,png}"]}, "only `\\*`"),
        ({"uri": "a", "exclude": ["/"]}, "fits nothing"),
        ({"table": "a", "exclude": ["*.txt"]}, "over a listing"),
        ({"table": "a", "exclude_defaults": False}, "over a listing"),
        ({"uri": "a", "prefix": "b"}, "prefix"),
    ],
    ids=str,
)
def test_a_wrong_spec_says_what_is_wrong(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SourceSpec(**fields)


def test_the_root_folder_can_be_a_prefix(folder: str) -> None:
    class Root(Storage):
        def list(self, folder: str, **_: Any) -> Iterator[ObjectInfo]:
            assert folder == "file:///"
            return iter([ObjectInfo(join_uri(folder, "a/b.jpg"), 1, "v", 0.0)])

    dataset = dataset_of(SourceSpec(uri="/"), "all", Root(), root="gs://elsewhere/made")
    assert samples(dataset.manifest("all")) == {"a/b": ["jpg"]}
