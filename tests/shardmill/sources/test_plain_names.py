"""What is said of many names at once is what is said of each alone."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardmill.left_out import LeftOutWriter
from shardmill.sources import SampleNames, SourceSpec
from shardmill.sources.excludes import LITTER
from shardmill.sources.manifest import Manifest
from shardmill.storage import ObjectInfo, join_uri

PARTS = st.sampled_from(
    [
        *(
            "a",
            "B",
            "0001",
            "IMG_0002",
            "_x",
            "__y",
            "_",
            "__",
            "a_",
            "a=b",
            "a,b",
            "a@b",
            "a+b",
            "a-b",
            "images",
            "Masks",
        ),
        *(
            "x y",
            "été",
            "e\u0301",
            "caf\udce9",
            "日本",
            "a~b",
            "a%20b",
            "a#b",
            "a$b",
            "a\nb",
            "a\\b",
            "\u0130",
            "\u017f",
        ),
        *("v1.0", ".hidden", "..", ".", "", "x" * 40, "x" * 72, "x" * 73),
        *(glob.rstrip("/").replace("*", "z") for glob in LITTER),
        *("thumbs.DB", "THUMBS", "@EADIR", "_success", "x.crdownload", "s", "K", "\u212a"),
    ]
)
SUFFIXES = st.sampled_from(
    [
        *("", ".", ".jpg", ".JPG", ".jpeg", ".tif", ".png", ".txt", ".tar.gz", ".mask.png", ".a.b.c", "..jpg", ".jpg."),
        *(
            "/",
            ".d/",
            ".__x",
            ".x__",
            ".é",
            ".a b",
            ".a~b",
            f".{'y' * 28}",
            f".{'y' * 28}.PNG",
            ".10.05.32.png",
            ".jpg\n",
        ),
    ]
)
ODD = st.text("aB._-/~%é \n\udce9", max_size=12)
NAMES = (
    st.builds(lambda parts, suffix: "/".join(parts) + suffix, st.lists(PARTS, min_size=1, max_size=3), SUFFIXES) | ODD
)
PATTERNS = st.none() | st.fixed_dictionaries(
    {
        "image": st.lists(
            st.sampled_from(["images/{key}.jpg", "images/{key}.*", "{key}.d/", "{key}.JPG", "{key}"]), min_size=1
        )
    },
    optional={
        "mask.png": st.lists(st.sampled_from(["Masks/{key}.mask.*", "{key}/mask.png", "{key}.mask.png"]), min_size=1),
        "txt": st.sampled_from(["{key}.txt", "s/{key}-b.txt", "ſ/{key}.tar.gz", "a/x y/{key}.t(x)t", "\\{key}.#"]),
    },
)
GLOBS = st.lists(
    st.sampled_from(
        [
            *(
                "*.txt",
                "a/",
                "**/b*/**",
                "images/?",
                "*.tar.gz",
                "/x y/*",
                "b",
                "É*",
                "ſ",
                "**",
                "a**/",
                "?",
                "*.é",
                "_*/",
            ),
            *("images/**/*.jpg", "**/a_", "a-b", "x*", "\u212a", "A=b/*"),
        ]
    ),
    max_size=3,
)


def one_by_one(names: SampleNames, objects: list[ObjectInfo]) -> tuple[Manifest, LeftOutWriter]:
    left_out = LeftOutWriter(len(objects))
    return Manifest.from_objects(names._one_by_one("s3://b/raw", objects, left_out)), left_out


@settings(max_examples=500)
@given(st.lists(NAMES), PATTERNS, GLOBS, st.booleans(), st.sampled_from([None, "a.jpg", "été", "images/a"]))
def test_many_at_once_are_what_each_is(
    given: list[str], patterns: Any, globs: list[str], defaults: bool, marker: str | None
) -> None:
    source = SourceSpec(uri="s3://b/raw", components=patterns, exclude=globs, exclude_defaults=defaults, marker=marker)
    names = SampleNames(source)
    objects = [ObjectInfo(f"s3://b/raw/{each}", number, f"v{number}", number / 7) for number, each in enumerate(given)]
    expected, left_out = one_by_one(names, objects)
    found = LeftOutWriter()
    manifest = Manifest.from_batches(names.batches("s3://b/raw", objects, found) if objects else [])
    assert manifest.table == expected.table
    assert (found.listed, found.done().table) == (len(objects), left_out.done().table)


def test_names_that_have_nothing_odd_need_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million of them would take seconds."""
    names = SampleNames(SourceSpec(uri="s3://b/raw", exclude=["*.txt"]))
    plain = [
        "2026/01/IMG_0001.jpg",
        "a.jpg",
        "train/n01440764/n01440764_10026.JPEG",
        "cat.trimap.png",
        "_x/b-1+2@3,4=5.cls",
    ]
    monkeypatch.setattr(SampleNames, "place", None)
    objects = [ObjectInfo(f"s3://b/raw/{name}", 1, "v", 1.0) for name in plain]
    [batch] = names.batches("s3://b/raw", objects, LeftOutWriter())
    assert batch.num_rows == len(plain)


@pytest.mark.parametrize("prefix", ["s3://b", "file:///", "file:///caf\udce9", "s3://b/été/a"])
def test_a_prefix_may_be_anything(prefix: str) -> None:
    names = SampleNames(SourceSpec(uri="s3://b"))
    objects = [ObjectInfo(join_uri(prefix, name), 1, "v", 1.0) for name in ("a.jpg", "é.jpg", "x/._y")]
    left_out = LeftOutWriter()
    manifest = Manifest.from_batches(names.batches(prefix, objects, left_out))
    assert [item[:2] for item in manifest] == [("%C3%A9", "jpg"), ("a", "jpg")]
    assert left_out.done().by_rule == {"default: ._*": 1}


def test_globs_that_re2_has_no_room_for_are_kept() -> None:
    source = SourceSpec.model_validate({"uri": "s3://b", "exclude": ["z" * 1_000_000, "*.txt"]})
    names, left_out = SampleNames(source), LeftOutWriter()
    objects = [ObjectInfo(f"s3://b/p/{name}", 1, "v", 0) for name in ("a.jpg", "b.txt", "c.jpg")]
    manifest = Manifest.from_batches(names.batches("s3://b/p", objects, left_out))
    assert [item.key for item in manifest] == ["a", "c"]
    assert left_out.done().by_rule == {"exclude: *.txt": 1}
