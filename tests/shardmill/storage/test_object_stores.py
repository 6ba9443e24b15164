"""What every store promises, on real servers: fake-gcs-server behind a gate, SeaweedFS, and moto for odd names."""

import io
import json
import os
import pickle
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardmill.errors import AccessDeniedError, ConfigurationError, ConflictError, StorageError
from shardmill.storage import ObjectInfo, S3Credentials, Storage, block_reader, gcs, object_store, s3
from shardmill.storage.block_reader import BlockReader
from shardmill.storage.object_names import is_odd, split_uri
from shardmill.storage.retries import RENEWALS
from tests.servers import GCSServer, STSServer
from tests.servers.fixtures import StartProxy
from tests.shardmill.storage.conftest import PROMPT, SHORT, Place

Start = Callable[..., subprocess.Popen[str]]


def listed(place: Place, after: str | None = None) -> list[str]:
    """The names below the place's folder, sorted."""
    infos = place.storage.list(place.folder, place.uri(after) if after else None)
    return sorted(info.uri.removeprefix(f"{place.folder}/") for info in infos)


def key(info: ObjectInfo | None) -> tuple[str, int, str, float]:
    """What is the same wherever it comes from. Some answers give the time in whole seconds only."""
    assert info is not None
    return info.uri, info.size, info.version, int(info.modified)


def publish(place: Place, file: Path, name: str, data: bytes) -> None:
    file.write_bytes(data)
    place.storage.publish(file, place.uri(name))


# List


def test_everything_below_a_folder_is_listed_and_nothing_beside_it(any_place: Place) -> None:
    names = ["a", "a.txt", "a.d/b", "b/c/d/e", "b/c/f", "ü/é.jpg"]
    for name in names:
        any_place.put(any_place.uri(name), name.encode())
    any_place.put(any_place.folder + "-beside/x", b"")
    assert listed(any_place) == sorted(names)
    below = {info.uri: info for info in any_place.storage.list(any_place.uri("b"))}
    assert set(below) == {any_place.uri("b/c/d/e"), any_place.uri("b/c/f")}
    for uri, info in below.items():
        assert key(info) == key(any_place.storage.stat(uri))
        assert abs(info.modified - time.time()) < 60


def test_a_folder_that_does_not_exist_is_empty(any_place: Place) -> None:
    assert listed(any_place) == []


def test_after_skips_what_comes_before(any_place: Place) -> None:
    for name in ("a/1", "a/2", "a/2.5", "b/1"):
        any_place.put(any_place.uri(name), b"x")
    assert listed(any_place, after="a/2") == ["a/2.5", "b/1"]
    assert listed(any_place, after="a/1.5") == ["a/2", "a/2.5", "b/1"]
    assert listed(any_place, after="b/1") == []


@pytest.mark.parametrize("page", [1, 3, 7])
def test_a_listing_of_many_pages_has_every_object_once(
    place: Place, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (gcs, s3):
        monkeypatch.setattr(module, "_PAGE", page)
    # Empty ones, and on S3 those with control characters, make a page come by another client than the next.
    data = {f"{number:02d}": b"" if number % 5 == 0 else b"x" for number in range(21)}
    data |= {"03\n": b"x", "03\n-a": b"x", "11\t": b"x", "12-a": b""}
    if place.kind == "gcs":  # SeaweedFS takes names for paths
        data |= {"03\n/a": b"x", "04//a": b"x", "04/../a": b"x", "05/": b""}
    for name, content in data.items():
        place.put(place.uri(name), content)
    infos = list(place.storage.list(place.folder))
    assert [info.uri for info in infos] == sorted(place.uri(name) for name in data)
    assert [info.uri for info in place.storage.list(place.folder, place.uri("03\n"))] == [
        place.uri(name) for name in sorted(data) if name > "03\n"
    ]


def test_a_whole_bucket_is_listed(place: Place, gcs_server: GCSServer, request: pytest.FixtureRequest) -> None:
    bucket = "/".join(place.folder.split("/")[:3])
    place.put(place.uri("a"), b"x")
    assert place.uri("a") in {info.uri for info in place.storage.list(bucket)}


def test_a_missing_bucket_is_named(place: Place) -> None:
    missing = place.folder.split("://")[0] + "://no-such-bucket"
    for folder in (missing, f"{missing}/folder"):
        started = time.monotonic()
        with pytest.raises(StorageError, match=f"cannot list {folder}: there is no bucket {missing} for"):
            list(place.storage.list(folder))
        assert time.monotonic() - started < PROMPT


# Read


def test_what_does_not_exist_is_none_or_file_not_found(any_place: Place) -> None:
    for name in ("missing", "bucket/missing", "miss\ning bucket"):
        uri = any_place.uri(name)
        assert any_place.storage.stat(uri) is None
        for read in (any_place.storage.open, any_place.storage.read, any_place.storage.read_version):
            with pytest.raises(FileNotFoundError):
                read(uri)
        with pytest.raises(FileNotFoundError):
            any_place.storage.read_range(uri, 0, 1)


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 4500])
def test_an_object_of_several_blocks_reads_like_a_file(
    any_place: Place, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_reader, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(object_store, "_BUFFER_BYTES", 16)
    data = os.urandom(size)
    any_place.put(any_place.uri("a"), data)
    stream, info = any_place.storage.open(any_place.uri("a"))
    with stream:
        assert key(info) == key(any_place.storage.stat(any_place.uri("a")))
        assert stream.read() == data
        assert stream.read() == b""
        assert stream.seek(-min(size, 1500), io.SEEK_END) == stream.tell() == size - min(size, 1500)
        assert stream.read(700) == data[size - min(size, 1500) :][:700]
        stream.seek(990)
        buffer = bytearray(2020)
        read = stream.readinto(buffer)  # type: ignore[attr-defined]
        assert bytes(buffer[:read]) == data[990:][:read]
        stream.seek(size + 10)
        assert stream.read(5) == b""


def test_a_range_ends_where_the_object_ends(any_place: Place) -> None:
    any_place.put(any_place.uri("a"), b"0123456789")
    any_place.put(any_place.uri("empty"), b"")
    ranges = [(0, 0), (0, 10), (2, 3), (7, 100), (10, 1), (50, 5)]
    expected = [b"0123456789"[offset:][:length] for offset, length in ranges]
    assert [any_place.storage.read_range(any_place.uri("a"), *each) for each in ranges] == expected
    assert any_place.storage.read_range(any_place.uri("empty"), 0, 1) == b""


def test_a_listing_that_changes_underneath_gives_what_stays_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gcs, s3):
        monkeypatch.setattr(module, "_PAGE", 3)
    for number in range(10):
        place.put(place.uri(f"{number}"), b"data")
    listing = place.storage.list(place.folder)
    seen = [next(listing).uri for _ in range(3)]
    for name in ("1", "2", "5"):  # the last that was listed, too: the next page begins after it
        place.storage.delete(place.uri(name))
    for name in ("0-new", "8-new"):
        place.put(place.uri(name), b"data")
    place.put(place.uri("7"), b"other data")
    sizes = {info.uri: info.size for info in listing}
    seen += sizes
    assert seen == [place.uri(name) for name in ("0", "1", "2", "3", "4", "6", "7", "8", "8-new", "9")]
    assert sizes[place.uri("7")] == len(b"other data")


def test_read_version_gives_bytes_and_version_that_belong_together(place: Place) -> None:
    uri = place.uri("a")
    versions: dict[str, bytes] = {}
    writes = 30

    def write() -> None:
        last = None
        for number in range(writes):
            data = b"%06d" % number * 100
            last = place.storage.replace(uri, data, last)
            versions[last] = data

    seen: list[tuple[bytes, ObjectInfo]] = []
    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        try:
            seen.append(place.storage.read_version(uri))
        except FileNotFoundError:
            continue
    writer.join()
    assert len(versions) == writes
    assert len({info.version for _, info in seen}) > 3
    assert all(versions[info.version] == data and info.size == len(data) for data, info in seen)


def test_an_object_that_is_replaced_while_it_is_read_is_an_error_and_never_a_mixture(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_reader, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(object_store, "_BUFFER_BYTES", 16)
    uri = place.uri("a")
    place.put(uri, b"1" * 20_000)
    stream, _ = place.storage.open(uri)
    with stream:
        assert stream.read(500) == b"1" * 500
        place.put(uri, b"2" * 20_000)
        with pytest.raises(StorageError, match=f"{uri} was replaced while it was read"):
            stream.read()


def test_an_object_that_is_deleted_while_it_is_read_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_reader, "BLOCK_BYTES", 1000)
    uri = place.uri("a")
    place.put(uri, b"1" * 20_000)
    stream, _ = place.storage.open(uri)
    with stream:
        place.storage.delete(uri)
        with pytest.raises(FileNotFoundError, match=uri):
            stream.read()


# Block reader


class Recorder:
    """A `fetch` that knows how many blocks are wanted and not yet dropped."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.ranges: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int) -> bytes:
        self.ranges.append((start, stop))
        return self.data[start:stop]


Step = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 60)),
    st.tuples(st.just("seek"), st.integers(0, 120)),
    st.tuples(st.just("back"), st.integers(-120, 0)),
    st.tuples(st.just("jump"), st.integers(-120, 120)),
)


@settings(max_examples=150)
@given(st.binary(max_size=100), st.integers(1, 30), st.integers(1, 40), st.lists(Step, max_size=12))
def test_a_block_reader_reads_like_bytes_in_memory(
    data: bytes, block: int, buffer: int, steps: list[tuple[str, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_reader, "BLOCK_BYTES", block)
        ours = io.BufferedReader(BlockReader(Recorder(data), len(data)), buffer)
        theirs = io.BytesIO(data)
        with ours:
            for what, number in steps:
                for stream in (ours, theirs):
                    if what == "seek":
                        stream.seek(number)
                    elif what == "back":
                        stream.seek(max(number, -len(data)), io.SEEK_END)
                    elif what == "jump":
                        stream.seek(max(0, stream.tell() + number))
                assert ours.tell() == theirs.tell()
                if what == "read":
                    assert ours.read(number) == theirs.read(number)


def test_a_reader_holds_a_few_blocks_however_large_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_reader, "BLOCK_BYTES", 10)
    reader = BlockReader(Recorder(os.urandom(10_000)), 10_000)
    most = 0
    for position in [*range(0, 2000, 10), *range(9990, 0, -370), *range(500, 600)]:
        reader.seek(position)
        reader.read(5)
        most = max(most, len(reader._blocks))
    reader.close()
    assert 1 < most <= block_reader.BLOCKS_AHEAD


@pytest.mark.parametrize(("size", "last"), [(20, (10, 20)), (25, (20, 25))])
def test_nothing_is_asked_for_beyond_the_end(size: int, last: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_reader, "BLOCK_BYTES", 10)
    fetch = Recorder(bytes(size))
    with BlockReader(fetch, size) as reader:
        assert reader.readall() == bytes(size)
    assert max(fetch.ranges) == last


def test_a_reader_that_jumps_about_fetches_no_more_than_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_reader, "BLOCK_BYTES", 10)
    fetch = Recorder(bytes(1000))
    reader = BlockReader(fetch, 1000)
    for position in (500, 200, 900):
        reader.seek(position)
        reader.read(3)
    reader.close()
    assert sorted(fetch.ranges) == [(200, 210), (500, 510), (900, 910)]


def test_blocks_that_nobody_wants_any_more_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_reader, "BLOCK_BYTES", 10)
    monkeypatch.setattr(block_reader, "ThreadPoolExecutor", lambda _, **options: ThreadPoolExecutor(1, **options))
    fetched: list[int] = []

    def fetch(start: int, stop: int) -> bytes:
        fetched.append(start)
        time.sleep(0.05)
        return bytes(stop - start)

    reader = BlockReader(fetch, 1000)
    reader.read(3)
    reader.seek(900)
    reader.read(3)
    reader.close()
    assert fetched[0] == 0
    assert fetched[-1] == 900
    assert len(fetched) <= 3


def test_a_block_that_could_not_be_had_is_an_error_and_can_be_asked_for_again() -> None:
    answers: Iterator[Any] = iter([StorageError("no"), b"data"])

    def fetch(start: int, stop: int) -> bytes:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return bytes(answer)

    with BlockReader(fetch, 4) as reader:
        with pytest.raises(StorageError, match="no"):
            reader.read(4)
        assert reader.read(4) == b"data"


# Publish


@pytest.mark.parametrize("size", [0, 10, (8 << 20) - 1, (8 << 20) + 1, (20 << 20) + 7])
def test_a_published_file_is_whole_and_has_moved(any_place: Place, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    for content in (b"before", data):
        publish(any_place, tmp_path / "file", "a/b", content)
        assert not (tmp_path / "file").exists()
    assert any_place.storage.read(any_place.uri("a/b")) == data
    assert listed(any_place) == ["a/b"]


def test_a_file_that_could_not_be_published_stays(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with pytest.raises(AccessDeniedError, match=place.uri("a")):
        Storage(place.reader).publish(tmp_path / "file", place.uri("a"))
    assert (tmp_path / "file").read_bytes() == b"data"


def test_a_reader_sees_the_old_object_or_the_new_one_while_a_large_one_is_published(
    place: Place, tmp_path: Path
) -> None:
    sizes = {9 << 20, 10 << 20}
    seen: set[int] = set()
    done = threading.Event()
    publish(place, tmp_path / "file", "a", bytes(9 << 20))

    def poll() -> None:
        while not done.is_set():
            info = place.storage.stat(place.uri("a"))
            seen.add(info.size if info else -1)

    thread = threading.Thread(target=poll)
    thread.start()
    publish(place, tmp_path / "file", "a", bytes(10 << 20))
    done.set()
    thread.join()
    assert seen <= sizes


# Replace


def test_replace_creates_and_replaces_only_the_version_that_it_expects(any_place: Place) -> None:
    storage, uri = any_place.storage, any_place.uri("a/index.json")
    first = storage.replace(uri, b"one", None)
    with pytest.raises(ConflictError, match=uri):
        storage.replace(uri, b"nothing", None)
    second = storage.replace(uri, b"two", first)
    assert storage.read_version(uri)[1].version == second != first
    for stale in (first, None):
        with pytest.raises(ConflictError, match=uri):
            storage.replace(uri, b"three", stale)
        # Not even what stands already: whoever wrote it was first.
        with pytest.raises(ConflictError, match=uri):
            storage.replace(uri, b"two", stale)
    assert storage.read(uri) == b"two"
    storage.delete(uri)
    with pytest.raises(ConflictError, match=uri):
        storage.replace(uri, b"four", second)
    assert storage.stat(uri) is None


def test_the_version_of_a_listing_is_that_of_a_read_and_can_be_replaced(any_place: Place) -> None:
    any_place.put(any_place.uri("a b/ü.json"), b"one")
    [info] = any_place.storage.list(any_place.folder)
    data, read = any_place.storage.read_version(info.uri)
    stream, opened = any_place.storage.open(info.uri)
    stream.close()
    assert (data, key(read), key(opened)) == (b"one", key(info), key(info))
    version = any_place.storage.replace(info.uri, b"two", info.version)
    assert [each.version for each in any_place.storage.list(any_place.folder)] == [version]


@pytest.mark.parametrize("existing", [False, True])
def test_of_sixteen_racing_writers_exactly_one_wins(any_place: Place, existing: bool) -> None:
    uri = any_place.uri("index.json")
    expected = any_place.storage.replace(uri, b"-", None) if existing else None
    barrier = threading.Barrier(16)

    def race(number: int) -> bool:
        barrier.wait()
        try:
            any_place.storage.replace(uri, str(number).encode(), expected)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        won = list(threads.map(race, range(16)))
    assert sum(won) == 1
    assert any_place.storage.read(uri) == str(won.index(True)).encode()


# Delete


def test_delete_removes_and_does_not_mind_what_is_not_there(any_place: Place) -> None:
    any_place.put(any_place.uri("a"), b"x")
    any_place.put(any_place.uri("a.txt"), b"x")
    for _ in range(2):
        any_place.storage.delete(any_place.uri("a"))
    assert listed(any_place) == ["a.txt"]


# Names

NAMES = [
    "two words.jpg",
    "naïve/été/写真\U0001f600.jpg",
    "a#b?c%20d+e&f=g;h@i:j.jpg",
    "100%.jpg",
    "%2e%2e",
    ".hidden/..jpg",
    "...",
    "[glob]*?{x}.jpg",
    "quote\"s'<>|^`~.jpg",
    "line\nbreak.jpg",
    "tab\t\x01\x7f.jpg",
    " leading and trailing ",
    "/".join(["x" * 200] * 4) + "/" + "ü" * 40,
    "AccessDenied/<Code>InvalidToken</Code>",
]
SLASHES = ["a//b", "x/../y", "x/./y", "..", ".", "trailing/", "/leading", "back\\slash", "n" * 900]


def check_names(place: Place, names: list[str], storage: Storage) -> None:
    for name in names:
        place.put(place.uri(name), name.encode())
    found = {info.uri: info for info in storage.list(place.folder)}
    assert set(found) == {place.uri(name) for name in names}
    for name in names:
        info = found[place.uri(name)]
        data, read = storage.read_version(info.uri)
        stream, opened = storage.open(info.uri)
        with stream:
            assert (data, stream.read()) == (name.encode(), name.encode())
        assert key(storage.stat(info.uri)) == key(read) == key(opened) == key(info)
    for name in sorted(names):
        after = {info.uri for info in storage.list(place.folder, place.uri(name))}
        assert after == {place.uri(other) for other in names if other > name}


def test_any_name_is_listed_and_read_back_byte_for_byte(place: Place) -> None:
    names = NAMES if place.kind == "s3" else [*NAMES, *SLASHES]  # SeaweedFS takes names for paths
    check_names(place, names, Storage(place.reader))


def test_any_name_that_s3_can_store_is_listed_and_read_back(sts_server: STSServer) -> None:
    """SeaweedFS takes names for paths; moto takes every name without control characters."""
    client = sts_server.client("sts", sts_server.keys)
    role = client.assume_role(RoleArn=sts_server.role_arn, RoleSessionName="test")["Credentials"]
    credentials = S3Credentials(
        endpoint=sts_server.url,
        region=sts_server.region,
        access_key_id=role["AccessKeyId"],
        secret_access_key=role["SecretAccessKey"],
        session_token=role["SessionToken"],
        **SHORT,
    )
    storage = Storage((credentials,))
    s3_client = storage.store("s3://x/y")._boto3()  # type: ignore[attr-defined]

    def put(uri: str, data: bytes) -> None:
        s3_client.put_object(Bucket=sts_server.bucket, Key=uri.split("/", 3)[3], Body=data)

    # With one of these in the name to start after, moto finds obstore's signature wrong, unlike SeaweedFS and AWS.
    names = [name for name in [*NAMES, *SLASHES] if name.isprintable() and not {" ", "*", "~"} & {*name}]
    names.remove("trailing/")  # whose slash obstore drops, unless it is an empty one
    check_names(Place("s3", f"s3://{sts_server.bucket}/names", (), (), put), names, storage)
    put(f"s3://{sts_server.bucket}/markers/a/", b"")
    assert [info.uri for info in storage.list(f"s3://{sts_server.bucket}/markers")] == [
        f"s3://{sts_server.bucket}/markers/a/"
    ]
    put(f"s3://{sts_server.bucket}//leading", b"x")
    put(f"s3://{sts_server.bucket}/!first", b"x")
    whole = [info.uri for info in storage.list(f"s3://{sts_server.bucket}", f"s3://{sts_server.bucket}/!first")]
    assert whole[0] == f"s3://{sts_server.bucket}//leading"


@pytest.mark.parametrize("name", ["a//b", "a/../b", "..", "a/", "line\nbreak"])
def test_names_that_a_client_would_change_are_never_written(place: Place, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"data")
    uri = place.uri(name)
    writes: tuple[Callable[[], object], ...] = (
        lambda: place.storage.publish(tmp_path / "file", uri),
        lambda: place.storage.replace(uri, b"data", None),
        lambda: place.storage.delete(uri),
    )
    for write in writes:
        with pytest.raises(StorageError, match="read only") as caught:
            write()
        assert "\n" not in str(caught.value)
    assert listed(place) == []


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))
def test_what_is_not_odd_comes_through_obstore_unchanged(name: str) -> None:
    from obstore.store import MemoryStore

    assert split_uri(f"s3://bucket/{name}") == ("bucket", name)
    if not is_odd(name):
        store = MemoryStore()
        store.put(name, b"x")
        assert [meta["path"] for meta in store.list().collect()] == [name]


def test_a_uri_without_a_bucket_is_a_configuration_error(place: Place) -> None:
    scheme = place.folder.split("://")[0]
    with pytest.raises(ConfigurationError, match="names no bucket"):
        place.storage.read(f"{scheme}:///a")


# Scratch and exclusion


def test_scratch_for_a_bucket_is_local_and_gone_afterwards(place: Place) -> None:
    with place.storage.scratch(place.folder) as one, place.storage.scratch(place.folder) as two:
        (one / "a").write_bytes(b"")
        assert one != two
    assert not one.exists()
    assert listed(place) == []
    assert not place.storage.excludes(place.folder)
    with place.storage.exclusive(place.folder), place.storage.exclusive(place.folder):
        pass


# Processes

CHILD = """
import pickle, sys
storage, uri = pickle.loads(bytes.fromhex(sys.argv[1])), sys.argv[2]
print(storage.read(uri).decode(), storage.stat(uri).size)
"""

FORKSERVER = """
import faulthandler, multiprocessing, pickle, sys
from concurrent.futures import ProcessPoolExecutor
def say_where_it_hangs():
    faulthandler.dump_traceback_later(240, exit=True)
def main():
    say_where_it_hangs()
    storage, uri = pickle.loads(bytes.fromhex(sys.argv[1])), sys.argv[2]
    assert storage.read(uri) == b"data"  # the parent has open connections
    for method in ("forkserver", "spawn"):
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, context, say_where_it_hangs) as pool:
            print(*pool.map(storage.read, [uri] * 4))
if __name__ == "__main__":
    main()
"""


def test_a_storage_travels_to_another_process(place: Place, start: Start) -> None:
    place.put(place.uri("a"), b"data")
    storage = place.storage
    assert storage.read(place.uri("a")) == b"data"
    child = start(CHILD, pickle.dumps(storage).hex(), place.uri("a"))
    assert child.communicate(timeout=120)[0] == "data 4\n"
    assert child.returncode == 0


def test_a_used_storage_works_in_forkserver_and_spawn_children(place: Place, tmp_path: Path) -> None:
    import sys

    place.put(place.uri("a"), b"data")
    (tmp_path / "main.py").write_text(FORKSERVER)
    result = subprocess.run(
        [sys.executable, str(tmp_path / "main.py"), pickle.dumps(place.storage).hex(), place.uri("a")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.stdout == "b'data' b'data' b'data' b'data'\n" * 2, result.stderr


# Errors


def test_a_refused_reader_is_told_who_lacks_what_where_in_one_line(place: Place, tmp_path: Path) -> None:
    uri = place.uri("a")
    place.put(uri, b"data")
    (tmp_path / "file").write_bytes(b"data")
    reader = Storage(place.reader)
    identity, write, delete = {
        "gcs": ("reader-place-", "storage.objects.create", "storage.objects.delete"),
        "s3": ("LABREADER", "s3:PutObject", "s3:DeleteObject"),
    }[place.kind]
    refused: list[tuple[str, Callable[[], object]]] = [
        (write, lambda: reader.check_writable(place.folder)),
        (write, lambda: reader.publish(tmp_path / "file", uri)),
        (write, lambda: reader.replace(uri, b"other", None)),
        (delete, lambda: reader.delete(uri)),
    ]
    for permission, act in refused:
        started = time.monotonic()
        with pytest.raises(AccessDeniedError) as caught:
            act()
        assert time.monotonic() - started < PROMPT
        message = str(caught.value)
        assert all(each in message for each in (place.folder, identity, permission))
        assert "\n" not in message
    assert reader.read(uri) == b"data"
    assert listed(place) == ["a"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412])
def test_a_refusal_is_not_tried_again(place: Place, fault_proxy: StartProxy, status: int) -> None:
    proxy = fault_proxy(place.server_url)
    storage = place.through(proxy.url)
    uri = place.uri("a")
    place.put(uri, b"data")
    if status in (400, 401, 403):
        storage.read(uri)
        proxy.log.clear()
        # What stands in the header: of GCS a token, of S3 the key.
        for credential in ("Bearer", "LABWRITER"):
            proxy.refuse(credential, status)
        with pytest.raises(StorageError, match=uri):
            storage.read(uri)
        # Once more with new credentials; a token may be one that expired on its way, time and again.
        limit = RENEWALS + 1 if place.kind == "gcs" and status == 401 else 2
    elif status == 404:
        with pytest.raises(FileNotFoundError):
            storage.read(place.uri("missing"))
        limit = 1
    else:
        with pytest.raises(ConflictError):
            storage.replace(uri, b"other", None)
        limit = 1
    assert len([each for each in proxy.log if "/token" not in each.target]) <= limit


def test_the_file_system_of_fsspec_has_the_credentials(place: Place) -> None:
    place.put(place.uri("a.json"), json.dumps([1]).encode())
    files = place.storage.filesystem(place.folder)
    assert files.cat_file(place.uri("a.json")) == b"[1]"
    with files.open(place.uri("b"), "wb") as stream:
        stream.write(b"data")
    assert place.storage.read(place.uri("b")) == b"data"


# Move


@pytest.mark.parametrize("size", [0, 7, 9 << 20])
def test_a_move_takes_an_object_to_another_name_and_replaces_what_stood_there(any_place: Place, size: int) -> None:
    data = os.urandom(size)
    source, target = any_place.uri("a/x é+.tar"), any_place.uri("b/y")
    any_place.put(source, data)
    any_place.put(target, b"before")
    any_place.storage.move(source, target)
    assert any_place.storage.stat(source) is None
    assert any_place.storage.read(target) == data
    with pytest.raises(FileNotFoundError, match="x é"):
        any_place.storage.move(source, target)
    assert any_place.storage.read(target) == data


def test_a_move_to_another_bucket_is_refused(place: Place) -> None:
    source = place.uri("a")
    place.put(source, b"x")
    with pytest.raises(StorageError, match="in different buckets"):
        place.storage.move(source, f"{source.split('://')[0]}://elsewhere/a")
    assert place.storage.read(source) == b"x"
