"""Listing the first object of each folder, and leaping over the others."""

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shardmill.storage import Credentials, ObjectInfo, Storage, gcs, relative_to, s3
from shardmill.storage.object_store import ObjectStore
from shardmill.storage.objects import FolderOf
from tests.shardmill.storage.conftest import Place

SEGMENTS = ["a", "a-b", "a.b", "a0", "aa", "A", "é", "\U0001f600", "\uffee", "\U0010ffff", " "]
DEPTHS = st.integers(1, 2)
ROOT = "gs://bucket/root"


def names_of(segments: list[str]) -> st.SearchStrategy[list[str]]:
    """Names of objects, none of which is a folder of another."""
    name = st.lists(st.sampled_from(segments), min_size=1, max_size=4).map("/".join)
    return st.lists(name, unique=True, max_size=25).map(
        lambda names: [name for name in names if not any(other.startswith(f"{name}/") for other in names)]
    )


def folder_at(root: str, depth: int) -> FolderOf:
    """The folder so many names below the root in which an object is."""

    def folder_of(uri: str) -> str | None:
        segments = relative_to(root, uri).split("/")
        return "/".join([root, *segments[:depth]]) if len(segments) > depth else None

    return folder_of


def first_ones(uris: Iterable[str], folder_of: FolderOf) -> list[str]:
    """What a listing gives that leaps over nothing, thinned out afterwards."""
    return list({folder_of(uri) or uri: uri for uri in reversed(list(uris))}.values())[::-1]


@given(names_of([*SEGMENTS, "not utf-8 \udce9", "\udcff"]), DEPTHS)
@example(["a/x", "a/y", "a-b/x", "a-b/y", "a.b", "a0", "a0b/x", "aa"], 1)
@example(["\udcff/\udcff", "\udcff/a", "\U0010ffff/\udcff", "\U0010ffff/a"], 1)
@settings(max_examples=60)
def test_a_local_disk_gives_the_first_object_of_each_folder(names: list[str], depth: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            (Path(directory) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(directory) / name).write_bytes(b"")
        root, storage = f"file://{directory}", Storage()
        folder_of = folder_at(root, depth)
        whole = [info.uri for info in storage.list(root)]
        for after in (None, root, *whole):
            wanted = first_ones((uri for uri in whole if os.fsencode(uri) > os.fsencode(after or "")), folder_of)
            assert [info.uri for info in storage.list(root, after, folder_of)] == wanted


class Pages(ObjectStore):
    """An object store that is a list of names, in the order in which its server gives them."""

    permissions = {"list": "none"}  # noqa: RUF012
    identity = "a test"

    def __init__(self, names: list[str], order: Callable[[str], Any], length: int) -> None:
        super().__init__(Credentials(prefix="gs://"), "gs")
        self._names, self._order, self._length = sorted(names, key=order), order, length
        self.requests = 0

    def page(self, bucket: str, prefix: str, after: str) -> tuple[list[ObjectInfo], bool]:
        self.requests += 1
        left = [name for name in self._names if name.startswith(prefix) and (self._order(name) > self._order(after))]
        infos = [ObjectInfo(f"gs://{bucket}/{name}", 0, "", 0.0) for name in left[: self._length]]
        return infos, len(left) <= self._length

    def connect(self, bucket: str, options: dict[str, Any]) -> Any: ...
    def authenticate(self) -> None: ...
    def forget(self) -> None: ...
    def are_short_lived(self) -> bool: ...
    def version_of(self, meta: Any) -> str: ...
    def update_mode(self, version: str) -> Any: ...
    def read_odd(self, bucket: str, name: str) -> tuple[bytes, ObjectInfo]: ...
    def filesystem(self) -> Any: ...


ORDERS = {"by name": str, "folder by folder": lambda name: name.split("/")}


@given(names_of(SEGMENTS), DEPTHS, st.sampled_from(list(ORDERS)), st.integers(1, 9))
@example(["a/x", "a/\U0010ffff", "a/\U0010ffff\U0010ffff", "a-b/x", "a-b/y"], 1, "folder by folder", 2)
@settings(max_examples=300)
def test_pages_of_any_length_in_either_order_give_the_first_object_of_each_folder(
    names: list[str], depth: int, order: str, length: int
) -> None:
    store = Pages([f"root/{name}" for name in names], ORDERS[order], length)
    folder_of = folder_at(ROOT, depth)
    whole = [info.uri for info in store.list(ROOT)]
    asked, store.requests = store.requests, 0
    assert [info.uri for info in store.list(ROOT, None, folder_of)] == first_ones(whole, folder_of)
    assert store.requests <= asked


def test_a_folder_of_many_objects_costs_a_request_and_small_ones_share_one() -> None:
    large = [f"root/large-{folder}/{number:04}" for folder in range(10) for number in range(1000)]
    small = [f"root/small-{folder:02}/{number}" for folder in range(50) for number in range(2)]
    store = Pages(large + small, str, 100)
    assert len(list(store.list(ROOT, None, folder_at(ROOT, 1)))) == 60
    assert store.requests <= 10 + 2


@pytest.mark.parametrize("page", [1, 3, 1000])
def test_a_server_gives_the_first_object_of_each_folder(
    any_place: Place, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (gcs, s3):
        monkeypatch.setattr(module, "_PAGE", page)
    names = [f"{folder}/{name}" for folder in ("a", "a-b", "a.b", "a0", "é,写") for name in ("1", "2/3", "4")]
    for name in [*names, "beside"]:
        any_place.put(any_place.uri(name), b"x")
    folder_of = folder_at(any_place.folder, 1)
    whole = [info.uri for info in any_place.storage.list(any_place.folder)]
    found = [info.uri for info in any_place.storage.list(any_place.folder, None, folder_of)]
    assert found == first_ones(whole, folder_of)
    assert len(found) == 6
