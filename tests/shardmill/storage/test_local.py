import os
import pickle
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shardmill.errors import (
    ChangedError,
    ConfigurationError,
    ConflictError,
    DanglingLinkError,
    StorageError,
    UnreadableError,
)
from shardmill.storage import ObjectInfo, Storage, absolute_uri, join_uri, relative_to
from shardmill.storage.local import LOCK, SCRATCH, LocalStore

Write = Callable[..., str]
Start = Callable[..., subprocess.Popen[str]]

ODD_NAMES = [
    "plain.jpg",
    "two words.jpg",
    "naïve/été/写真.jpg",
    "a#b?c%20d+e&f=g.jpg",
    "line\nbreak.jpg",
    ".hidden",
    "..jpg",
    "...",
    "[glob]*?{x}.jpg",
    "back\\slash'quote\".jpg",
    "~home.jpg",
    "x" * 250,
    "/".join(["deep" * 10] * 20) + "/leaf",
    " leading and trailing ",
    "not utf-8 \udce9.jpg",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_is_listed_and_read_back_byte_for_byte(storage: Storage, folder: str, write: Write, name: str) -> None:
    write(name, name.encode("utf-8", "surrogateescape"))
    [info] = storage.list(folder)
    assert info.uri == join_uri(folder, name)
    assert relative_to(folder, info.uri) == name
    assert storage.stat(info.uri) == info
    assert storage.read_version(info.uri) == (name.encode("utf-8", "surrogateescape"), info)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_can_be_published_replaced_and_deleted(
    storage: Storage, folder: str, tmp_path: Path, name: str
) -> None:
    uri = join_uri(folder, name)
    with storage.scratch(folder) as scratch:
        (scratch / "data").write_bytes(b"published")
        storage.publish(scratch / "data", uri)
    [info] = storage.list(folder)
    assert (info.uri, storage.read(uri)) == (uri, b"published")
    version = storage.replace(uri, b"replaced", info.version)
    assert storage.read_version(uri)[1].version == version
    assert storage.read(uri) == b"replaced"
    storage.delete(uri)
    assert list(storage.list(folder)) == []


def test_list_goes_below_every_subfolder(storage: Storage, folder: str, write: Write) -> None:
    uris = {write(name) for name in ("a", "b/c", "b/d/e", "f/g/h/i")}
    assert {info.uri for info in storage.list(folder)} == uris


def test_list_gives_sizes_and_times(storage: Storage, folder: str, write: Write) -> None:
    write("a", b"12345")
    [info] = storage.list(folder)
    assert info.size == 5
    assert abs(info.modified - time.time()) < 60


_SEGMENTS = st.sampled_from(
    [
        "a",
        "a-b",
        "a.b",
        "a0",
        "aa",
        "A",
        "é",
        "写",
        "\U0001f600",
        "\uffee",
        "\U0010ffff",
        "not utf-8 \udce9",
        "\udcff",
        " ",
    ]
)
_TREES = st.lists(st.lists(_SEGMENTS, min_size=1, max_size=4).map("/".join), unique=True, max_size=25)


def _make_tree(root: Path, names: list[str]) -> list[str]:
    """The names of the tree, in the order of their bytes; a name that another needs as a folder is none."""
    files = [name for name in names if not any(other.startswith(f"{name}/") for other in names)]
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return sorted(files, key=os.fsencode)


@given(_TREES)
@example(["a/x", "a-b/x", "a.b", "a0", "a0b/x", "aa"])
@example(["\U0010ffff/\U0010ffff", "\U0010ffff/a"])
@example(["\udcff", "\U0001f600"])
@settings(max_examples=60)
def test_list_is_in_the_order_of_bytes_and_goes_on_after_any_name(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        storage, folder = Storage(), f"file://{directory}"
        ordered = _make_tree(Path(directory), names)
        whole = list(storage.list(folder))
        assert [relative_to(folder, info.uri) for info in whole] == ordered
        for after in {*ordered, *names, "", "a", "a/", "a/\U0010ffff", "\U0010ffff/\U0010ffff", "zz"}:
            wanted = [name for name in ordered if os.fsencode(name) > os.fsencode(after)]
            assert [relative_to(folder, info.uri) for info in storage.list(folder, join_uri(folder, after))] == wanted


@given(_TREES, st.integers(1, 4))
@settings(max_examples=40)
def test_pages_of_any_length_give_every_object_once(names: list[str], length: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        storage, folder = Storage(), f"file://{directory}"
        ordered = _make_tree(Path(directory), names)
        found: list[str] = []
        while page := list(islice(storage.list(folder, found[-1] if found else None), length)):
            found += [info.uri for info in page]
        assert [relative_to(folder, uri) for uri in found] == ordered


def test_list_of_a_folder_that_does_not_exist_is_empty(storage: Storage, folder: str) -> None:
    assert list(storage.list(join_uri(folder, "nowhere"))) == []


def test_list_of_a_file_names_it(storage: Storage, write: Write) -> None:
    uri = write("a")
    with pytest.raises(StorageError, match=uri):
        list(storage.list(uri))


def test_scratch_and_locks_are_not_listed(storage: Storage, folder: str) -> None:
    with storage.scratch(folder) as scratch, storage.exclusive(folder):
        (scratch / "half").write_bytes(b"")
        assert list(storage.list(folder)) == []
    assert list(storage.list(folder)) == []


def test_links_to_folders_and_files_are_followed(storage: Storage, folder: str, tmp_path: Path, write: Write) -> None:
    outside = tmp_path / "outside"
    write("outside/file", b"data")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "folder").symlink_to(outside)
    (tmp_path / "in" / "file").symlink_to(outside / "file")
    found = {info.uri: storage.read(info.uri) for info in storage.list(join_uri(folder, "in"))}
    assert found == {join_uri(folder, "in/folder/file"): b"data", join_uri(folder, "in/file"): b"data"}


@pytest.mark.parametrize(
    ("target", "error", "said"),
    [("nowhere", DanglingLinkError, "leads nowhere"), ("link.jpg", UnreadableError, "round in a circle")],
)
def test_a_link_to_nothing_is_listed_and_says_what_it_is_when_it_is_read(
    storage: Storage, folder: str, tmp_path: Path, target: str, error: type[StorageError], said: str
) -> None:
    (tmp_path / "link.jpg").symlink_to(target)
    [info] = storage.list(folder)
    assert info.uri == join_uri(folder, "link.jpg")
    with pytest.raises(error, match=rf"link\.jpg.*{said}"):
        storage.read(info.uri)


def test_a_file_that_may_not_be_read_is_listed_and_says_so_when_it_is_read(storage, write, nobody: Any) -> None:
    uri = write("a.jpg")
    Path(uri.removeprefix("file://")).chmod(0)
    with nobody():
        [info] = storage.list(uri.rpartition("/")[0])
        with pytest.raises(UnreadableError, match=r"may not read .*a\.jpg"):
            storage.read(info.uri)


def test_a_link_to_a_folder_that_it_is_in_is_passed_over(storage: Storage, folder: str, tmp_path: Path, write) -> None:
    """Other links to folders are followed."""
    write("a/x.jpg")
    (tmp_path / "a/round").symlink_to(tmp_path / "a")
    (tmp_path / "a/up").symlink_to("../..")
    (tmp_path / "b").symlink_to("a")
    passed: list[tuple[str, object]] = []
    listing = storage.list(folder, passed_over=lambda uri, why: passed.append((uri.removeprefix(f"{folder}/"), why)))
    assert [info.uri.removeprefix(f"{folder}/") for info in listing] == ["a/x.jpg", "b/x.jpg"]
    assert passed == [(f"{name}/{link}", "loop of links") for name in "ab" for link in ("round", "up")]
    assert len(list(storage.list(folder))) == 2


def test_pipes_and_sockets_are_no_objects(storage: Storage, folder: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to").symlink_to("pipe")
    passed: list[object] = []
    assert list(storage.list(folder, passed_over=lambda *each: passed.append(each))) == []
    assert passed == [(join_uri(folder, name), "not a file") for name in ("pipe", "to")]
    assert list(storage.list(folder)) == []
    assert storage.stat(join_uri(folder, "pipe")) is None


def test_a_folder_that_cannot_be_listed_is_an_error_unless_it_is_passed_over(
    storage: Storage, folder: str, tmp_path: Path, write: Any, nobody: Any
) -> None:
    write("a.jpg")
    (tmp_path / "lost+found").mkdir(mode=0)
    passed: list[str] = []
    with nobody():
        with pytest.raises(StorageError, match=r"lost\+found.*Permission denied"):
            list(storage.list(folder))
        listing = list(storage.list(folder, passed_over=lambda uri, why: passed.append(f"{uri}: {why}")))
    assert [info.uri for info in listing] == [join_uri(folder, "a.jpg")]
    assert passed == [f"{folder}/lost+found/: cannot list {folder}/lost+found: Permission denied"]


@pytest.mark.parametrize("name", ["missing", "file/below", "folder", "x" * 300])
def test_what_is_no_object_has_no_stat(storage: Storage, folder: str, tmp_path: Path, write: Write, name: str) -> None:
    write("file")
    (tmp_path / "folder").mkdir()
    assert storage.stat(join_uri(folder, name)) is None


@pytest.mark.parametrize("name", ["missing", "file/below", "x" * 300])
def test_reading_what_is_not_there_names_the_uri(storage: Storage, folder: str, write: Write, name: str) -> None:
    write("file")
    uri = join_uri(folder, name)
    with pytest.raises(FileNotFoundError) as caught:
        storage.read(uri)
    assert uri in str(caught.value)


def test_reading_a_folder_is_an_error_that_names_it(storage: Storage, folder: str) -> None:
    with pytest.raises(StorageError, match=folder):
        storage.read(folder)


@pytest.mark.parametrize("verb", ["publish", "replace", "delete", "scratch", "exclusive"])
def test_refusals_of_the_operating_system_are_storage_errors_that_name_the_uri(
    storage: Storage, folder: str, tmp_path: Path, write: Write, verb: str
) -> None:
    write("file")
    below, data = join_uri(folder, "file/below"), tmp_path / "data"
    data.write_bytes(b"")
    (tmp_path / "folder").mkdir()
    calls: dict[str, Callable[[], object]] = {
        "publish": lambda: storage.publish(data, below),
        "replace": lambda: storage.replace(below, b"", None),
        "delete": lambda: storage.delete(join_uri(folder, "folder")),
        "scratch": lambda: storage.scratch(below).__enter__(),
        "exclusive": lambda: storage.exclusive(below).__enter__(),
    }
    with pytest.raises(StorageError, match=join_uri(folder, "f(ile|older)")):
        calls[verb]()


def test_an_unsupported_scheme_is_a_configuration_error_that_says_what_is_supported(storage: Storage) -> None:
    for call in (storage.list, storage.stat, storage.read, storage.delete, storage.scratch, storage.exclusive):
        with pytest.raises(ConfigurationError, match=r"ftp://host/x.*file://"):
            call("ftp://host/x")


def test_a_storage_pickles(storage: Storage) -> None:
    assert pickle.loads(pickle.dumps(storage)) == storage


@pytest.mark.parametrize("mode", ["ab", "r+b"])
def test_a_file_that_grows_or_is_overwritten_while_it_is_read_is_no_version(write: Write, mode: str) -> None:
    uri = write("a", b"1234")
    file = Path(uri.removeprefix("file://"))
    os.utime(file, (1, 1))  # so that the next write is at another time, however coarse the clock is

    class Written(LocalStore):
        def open(self, uri: str) -> tuple[object, ObjectInfo]:  # type: ignore[override]
            stream, info = super().open(uri)
            with file.open(mode) as other:
                other.write(b"5")
            return stream, info

    with pytest.raises(ChangedError, match=uri):
        Written().read_version(uri)


# Publish


def test_a_reader_never_sees_part_of_a_published_file(storage: Storage, folder: str) -> None:
    uri = join_uri(folder, "shard.tar")
    size = 1 << 18
    seen: list[bytes] = []
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            try:
                data = storage.read(uri)
            except FileNotFoundError:
                continue
            seen.append(data[:1] if data == data[:1] * size else b"part")

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        for number in range(200):
            with storage.scratch(folder) as scratch:
                (scratch / "data").write_bytes(bytes([number]) * size)
                storage.publish(scratch / "data", uri)
    finally:
        done.set()
        reader.join()
    assert b"part" not in seen
    assert len(set(seen)) > 10


def test_publish_makes_the_folders_and_replaces_what_stood_there(storage: Storage, folder: str, tmp_path: Path) -> None:
    uri = join_uri(folder, "a/b/c")
    for data in (b"first", b"second"):
        (tmp_path / "data").write_bytes(data)
        storage.publish(tmp_path / "data", uri)
        assert storage.read(uri) == data
    assert not (tmp_path / "data").exists()


# Replace


def test_the_bytes_are_on_the_disk_before_the_name_is(
    storage: Storage, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a machine that loses its power leaves a whole name over half a file."""
    target = tmp_path / "a/b.tar"
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_ino, target.exists())))
    with storage.scratch(folder) as scratch:
        (scratch / "data").write_bytes(b"data")
        storage.publish(scratch / "data", f"file://{target}")
    assert synced == [(target.stat().st_ino, False)]


def test_replace_creates_only_what_does_not_exist(storage: Storage, folder: str) -> None:
    uri = join_uri(folder, "a/index.json")
    version = storage.replace(uri, b"one", None)
    with pytest.raises(ConflictError, match=uri):
        storage.replace(uri, b"two", None)
    assert storage.read_version(uri)[0] == b"one"
    assert storage.read_version(uri)[1].version == version


def test_replace_wants_the_version_that_stands(storage: Storage, folder: str) -> None:
    uri = join_uri(folder, "index.json")
    first = storage.replace(uri, b"one", None)
    storage.replace(uri, b"two", first)
    with pytest.raises(ConflictError, match=uri):
        storage.replace(uri, b"three", first)
    storage.delete(uri)
    with pytest.raises(ConflictError, match=uri):
        storage.replace(uri, b"four", first)
    assert storage.stat(uri) is None


def test_every_replacement_has_another_version_even_within_a_tick_of_the_clock(
    storage: Storage, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = join_uri(folder, "index.json")
    write_bytes = Path.write_bytes

    def at_one_time(self: Path, data: bytes) -> int:
        size = write_bytes(self, data)
        os.utime(self, ns=(10**18, 10**18))
        return size

    monkeypatch.setattr(Path, "write_bytes", at_one_time)
    versions: list[str | None] = [None]
    for number in range(20):
        versions.append(storage.replace(uri, b"%02d" % number, versions[-1]))
    assert len(set(versions)) == len(versions)


def test_replace_leaves_nothing_beside_the_object(storage: Storage, folder: str, tmp_path: Path) -> None:
    storage.replace(join_uri(folder, "index.json"), b"one", None)
    assert [file.name for file in tmp_path.rglob("*") if file.name != SCRATCH] == ["index.json"]


RACER = """
import sys
from shardmill.errors import ConflictError
from shardmill.storage import Storage
uri, me, expected = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
try:
    Storage().replace(uri, me.encode(), expected or None)
except ConflictError:
    print("lost")
else:
    print("won")
"""


@pytest.mark.parametrize("existing", [False, True])
def test_of_racing_processes_exactly_one_replaces(storage: Storage, folder: str, start: Start, existing: bool) -> None:
    uri = join_uri(folder, "index.json")
    expected = storage.replace(uri, b"-", None) if existing else ""
    racers = {str(number): start(RACER, uri, str(number), expected) for number in range(6)}
    for racer in racers.values():
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers.values():
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    results = {name: racer.communicate()[0].strip() for name, racer in racers.items()}
    winners = [name for name, result in results.items() if result == "won"]
    assert sorted(results.values()) == ["lost"] * 5 + ["won"]
    assert storage.read(uri).decode() == winners[0]


# Delete


@pytest.mark.parametrize("name", ["missing", "file/below"])
def test_deleting_what_is_not_there_is_no_error(storage: Storage, folder: str, write: Write, name: str) -> None:
    write("file")
    storage.delete(join_uri(folder, name))
    assert storage.read(join_uri(folder, "file")) == b"data"


# Scratch


def test_scratch_is_private_and_gone_afterwards(storage: Storage, folder: str, tmp_path: Path) -> None:
    with storage.scratch(folder) as one, storage.scratch(folder) as two:
        assert one != two
        assert list(one.iterdir()) == list(two.iterdir()) == []
        (one / "half").write_bytes(b"")
    assert list(tmp_path.rglob("*")) == [tmp_path / SCRATCH]


def test_scratch_is_gone_after_an_error(storage: Storage, folder: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage.scratch(folder) as scratch:
        (scratch / "missing").read_bytes()
    assert list(tmp_path.rglob("*")) == [tmp_path / SCRATCH]


HOLDER = """
import sys, time
from shardmill.storage import Storage
with Storage().scratch(sys.argv[1]) as scratch:
    (scratch / "half").write_bytes(b"half a shard")
    print(scratch, flush=True)
    sys.stdin.readline()
"""


def _scratch_of(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def test_scratch_of_a_killed_process_is_swept_by_the_next_user_and_that_of_a_living_one_is_not(
    storage: Storage, folder: str, start: Start
) -> None:
    killed, living = start(HOLDER, folder), start(HOLDER, folder)
    left, held = _scratch_of(killed), _scratch_of(living)
    killed.kill()
    killed.wait()
    assert (left / "half").exists()
    with storage.scratch(folder):
        assert not left.exists()
        assert (held / "half").read_bytes() == b"half a shard"
    living.communicate("\n")
    assert not held.exists()


def test_scratch_of_other_threads_is_not_swept(storage: Storage, folder: str, tmp_path: Path) -> None:
    problems: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(60):
                with storage.scratch(folder) as scratch:
                    (scratch / "file").write_bytes(b"data")
                    assert (scratch / "file").read_bytes() == b"data"
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert list(tmp_path.rglob("*")) == [tmp_path / SCRATCH]


# Exclusive


def test_exclusive_keeps_other_processes_and_threads_out(
    storage: Storage, folder: str, tmp_path: Path, start: Start
) -> None:
    code = """
import sys, time
from pathlib import Path
from shardmill.storage import Storage
counter = Path(sys.argv[2])
for _ in range(20):
    with Storage().exclusive(sys.argv[1]):
        value = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(value + 1))
"""
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count() -> None:
        for _ in range(20):
            with storage.exclusive(folder):
                value = int(counter.read_text())
                time.sleep(0.001)
                counter.write_text(str(value + 1))

    processes = [start(code, folder, str(counter)) for _ in range(2)]
    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in processes] == [0, 0]
    assert counter.read_text() == "80"


def test_exclusive_is_let_go_when_its_process_is_killed(storage: Storage, folder: str, start: Start) -> None:
    holder = start(
        "import sys\nfrom shardmill.storage import Storage\n"
        "with Storage().exclusive(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.readline()",
        folder,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    with storage.exclusive(folder):
        pass


def test_an_error_inside_an_exclusive_section_stays_what_it_is(storage: Storage, folder: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage.exclusive(folder):
        (tmp_path / "missing").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {LOCK}


# URIs


def test_bare_paths_become_absolute_file_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert absolute_uri("data") == f"file://{tmp_path}/data"
    assert absolute_uri(Path("data")) == f"file://{tmp_path}/data"
    assert absolute_uri("/a//b/./c/") == absolute_uri("file:///a/b/c/") == "file:///a/b/c"
    assert absolute_uri("~/data") == "file:///home/somebody/data"
    assert absolute_uri("s3://bucket/a b%20c/") == "s3://bucket/a b%20c"


@pytest.mark.parametrize("path", ["a\0b", "~nobody-of-this-name/x"])
def test_what_cannot_be_a_path_is_a_configuration_error(path: str) -> None:
    with pytest.raises(ConfigurationError, match="not a path"):
        absolute_uri(path)


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("s3:/photos/raw", "s3://photos/raw"),
        (Path("gs://photos/raw"), "gs://photos/raw"),
        ("S3:photos", "s3://photos"),
        ("gcs:/photos", "gs://photos"),
        ("file:/data/raw", "file:///data/raw"),
    ],
)
def test_a_uri_that_lacks_a_slash_is_no_folder(uri: str | Path, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=f"lacks a slash: {meant}, or \\./"):
        absolute_uri(uri)


def test_a_folder_may_have_the_name_of_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("./s3:/a") == f"file://{tmp_path}/s3:/a"
    assert absolute_uri("s3") == f"file://{tmp_path}/s3"


@pytest.mark.parametrize("uri", ["gs://", "s3:///photos"])
def test_a_uri_without_a_bucket_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="names no bucket"):
        absolute_uri(uri)


@given(
    st.sampled_from(["file:///", "file:///a", "file:///a b/c", "s3://bucket/x/"]),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1),
)
def test_relative_to_undoes_join(folder: str, name: str) -> None:
    assert relative_to(folder, join_uri(folder, name)) == name


def test_the_root_folder_is_joined_like_any_other() -> None:
    assert join_uri("file:///", "a") == "file:///a"


def test_relative_to_refuses_what_is_not_below() -> None:
    with pytest.raises(ValueError, match="not below"):
        relative_to("file:///a", "file:///ab/c")


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_a_lock_is_shared_with_whom_the_folder_is(
    storage: Storage, folder: str, tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        with storage.exclusive(folder):
            assert (tmp_path / LOCK).stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root may")
def test_another_user_who_may_only_read_a_lock_is_kept_out_by_it_too(
    storage: Storage, folder: str, tmp_path: Path, start: Start
) -> None:
    with storage.exclusive(folder):
        pass
    (tmp_path / LOCK).chmod(0o644)
    for directory in (tmp_path, *tmp_path.parents):
        if directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    code = f"""
import os, sys
import shardmill.storage.local
from shardmill.storage import Storage
os.setgid(65534); os.setuid(65534)
print("waits", flush=True)
with Storage().exclusive("{folder}"):
    print("held", flush=True)
"""
    with storage.exclusive(folder):
        process = start(code)
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        assert process.poll() is None
    assert process.stdout.readline() == "held\n"


def test_a_move_is_whole_and_takes_the_time_of_the_move(storage: Storage, folder: str, write: Write) -> None:
    source, target = write("a/x", b"data"), join_uri(folder, "b/c/x")
    os.utime(source.removeprefix("file://"), (1, 1))
    storage.move(source, target)
    info = storage.stat(target)
    assert storage.stat(source) is None
    assert info is not None
    assert info.modified > 1
    assert storage.read(target) == b"data"
    with pytest.raises(FileNotFoundError, match="a/x does not exist"):
        storage.move(source, target)
    assert storage.read(target) == b"data"


def test_sweep_removes_the_scratch_of_the_dead_and_no_other(
    storage: Storage, folder: str, tmp_path: Path, start: Start
) -> None:
    code = f"""
import os
from shardmill.storage import Storage
with Storage().scratch("{folder}/d/side") as scratch:
    (scratch / "data").write_text("half")
    os._exit(1)
"""
    start(code).wait()
    with storage.scratch(join_uri(folder, "d/other")) as alive:
        assert [file.name for file in tmp_path.rglob("data")] == ["data"]
        storage.sweep(join_uri(folder, "d"))
        assert list(tmp_path.rglob("data")) == []
        assert alive.is_dir()


def test_folders_on_two_file_systems_are_refused_before_anything_is_made(
    storage: Storage, folder: str, tmp_path: Path
) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no other file system at /dev/shm")
    other = Path(tempfile.mkdtemp(dir=elsewhere))
    try:
        (tmp_path / "data").symlink_to(other)
        storage.check_movable(join_uri(folder, "a"), join_uri(folder, "b"))
        with pytest.raises(ConfigurationError, match="on two file systems"):
            storage.check_movable(join_uri(folder, "a"), join_uri(folder, "data"))
    finally:
        other.rmdir()


def test_a_file_uri_names_this_machine_or_nothing() -> None:
    assert absolute_uri("file://localhost/mnt/a") == absolute_uri("file:///mnt/a") == "file:///mnt/a"
    for uri in ("file://server/mnt/a", "file://mnt", "file://"):
        with pytest.raises(ConfigurationError, match="names the host"):
            absolute_uri(uri)
