"""Which names are left out, and by which rule."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill.errors import ConfigurationError
from shardmill.sources import Excludes


@pytest.mark.parametrize(
    ("glob", "taken", "left"),
    [
        ("*.txt", ["a.txt", "deep/er/B.TXT"], ["a.txt/b.jpg", "a.txt.gz", "atxt"]),
        ("notes", ["notes", "a/Notes"], ["notes/a.jpg", "notes.txt"]),
        ("thumbs/", ["thumbs/a.jpg", "a/THUMBS/b/c.jpg"], ["thumbs", "mythumbs/a.jpg"]),
        ("a/b.jpg", ["a/b.jpg"], ["x/a/b.jpg", "a/b.jpg/c"]),
        ("/b.jpg", ["b.jpg"], ["a/b.jpg"]),
        ("/a/", ["a/b.jpg", "a/c/d.jpg"], ["x/a/b.jpg", "a"]),
        ("a/*/c.jpg", ["a/b/c.jpg"], ["a/c.jpg", "a/b/b/c.jpg"]),
        ("a/**/c.jpg", ["a/c.jpg", "a/b/c.jpg", "a/b/b/c.jpg"], ["x/a/c.jpg", "a/bc.jpg"]),
        ("**/c?.jpg", ["c1.jpg", "a/b/c1.jpg"], ["c.jpg", "a/c12.jpg", "c/.jpg"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab/c"]),
        ("a/b*/", ["a/b/c", "a/bb/c/d"], ["x/a/b/c", "a/b"]),
        ("a+(b).jpg", ["a+(b).jpg"], ["aab.jpg"]),
        ("a**b", ["ab", "axxb"], ["a"]),
    ],
)
def test_globs_mean_what_they_mean_in_gitignore(glob: str, taken: list[str], left: list[str]) -> None:
    excludes = Excludes([glob], defaults=False)
    assert {name: excludes.rule(name) for name in taken} == dict.fromkeys(taken, f"exclude: {glob}")
    assert {name: excludes.rule(name) for name in left} == dict.fromkeys(left)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("._IMG_0001.jpg", "default: ._*"),
        ("a/b/.ds_store", "default: .DS_Store"),
        ("__MACOSX/a/b.jpg", "default: __MACOSX/"),
        ("2026/@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "default: @eaDir/"),
        ("$RECYCLE.BIN/a.jpg", "default: $RECYCLE.BIN/"),
        (".Trash-1000/files/a.jpg", "default: .Trash-*/"),
        (".ipynb_checkpoints/a-checkpoint.jpg", "default: .ipynb_checkpoints/"),
        ("Icon\r", r"default: Icon\r"),
        ("a/~$notes.docx", "default: ~$*"),
        ("_SUCCESS", "default: _SUCCESS"),
        ("photos_$folder$", "default: *_$folder$"),
    ],
)
def test_litter_is_left_out_by_the_rule_that_names_it(name: str, rule: str) -> None:
    assert Excludes().rule(name) == rule
    assert Excludes(defaults=False).rule(name) is None


@pytest.mark.parametrize("name", ["photos/", "a/b/", ""])
def test_what_stands_for_a_folder_is_never_data(name: str) -> None:
    assert Excludes().rule(name) == Excludes(defaults=False).rule(name) == "folder marker"


@pytest.mark.parametrize(
    "name",
    ["a.jpg", ".hidden.jpg", "_a.jpg", "Thumbs.db.jpg", "git/a.jpg", "a.part", "SUCCESS", "MACOSX/a.jpg", "~a.jpg"],
)
def test_whatever_may_be_data_is_none(name: str) -> None:
    assert Excludes().rule(name) is None


def test_a_folder_of_litter_is_not_needed_and_any_other_is() -> None:
    excludes = Excludes(["old/"])
    assert [excludes.needs(name) for name in ("lost+found/", "a/old/", "a/", "older/")] == [False, False, True, True]
    assert excludes.litter.needs("old/")


@pytest.mark.parametrize("glob", ["", "/", "//", "!a.jpg", "[ab].jpg", "*.{jpg,png}", "a\\b"])
def test_what_is_no_glob_is_refused(glob: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(repr(glob))):
        Excludes([glob])


@given(st.text("ab*?/.", min_size=1).filter(lambda glob: glob.strip("/")), st.text("ab/.", min_size=1))
def test_any_glob_of_these_characters_is_understood(glob: str, name: str) -> None:
    assert Excludes([glob], defaults=False).rule(name) in (None, f"exclude: {glob}", "folder marker")
