"""What networks and overloaded stores do: results are right all the same, or there is one clear error in time."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardmill.errors import AccessDeniedError, ConflictError, StorageError
from shardmill.storage import Storage, block_reader, gcs, retries, s3
from tests.servers import FaultProxy
from tests.servers.faults import KINDS
from tests.servers.fixtures import StartProxy
from tests.shardmill.storage.conftest import Place

PATIENT: dict[str, Any] = {"request_seconds": 0.8, "deadline_seconds": 200}
STALL_SECONDS = 1.0
"""Longer than a patient client waits for an answer."""


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tries, so that many faults take little time."""
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0.2)


@pytest.fixture(params=KINDS)
def proxy(request: pytest.FixtureRequest, place: Place, fault_proxy: StartProxy) -> FaultProxy:
    """A fifth of the requests to the place's server is broken, in one way."""
    return fault_proxy(place.server_url, rate=0.2, seed=7, kinds=(request.param,), stall_seconds=STALL_SECONDS)


@pytest.fixture
def bad_proxy(place: Place, fault_proxy: StartProxy) -> FaultProxy:
    """A fifth of the requests to the place's server is broken, in every way."""
    return fault_proxy(place.server_url, rate=0.2, seed=11, stall_seconds=STALL_SECONDS)


def every_verb(place: Place, storage: Storage, tmp_path: Path, rounds: int, objects: int = 12) -> None:
    """Use every verb and look at the results through the storage that sees no faults."""
    names = {f"{number:02d}": os.urandom(100 * number) for number in range(objects)}
    for name, data in names.items():
        place.put(place.uri(f"in/{name}"), data)
    version = None
    for number in range(rounds):
        infos = list(storage.list(place.uri("in")))
        assert [info.uri for info in infos] == [place.uri(f"in/{name}") for name in names]
        for name, data in list(names.items())[number :: rounds + 1]:
            uri = place.uri(f"in/{name}")
            assert storage.read(uri) == data
            stream, info = storage.open(uri)
            with stream:
                assert stream.read() == data
            assert info.size == len(data)
            assert storage.read_range(uri, 3, 50) == data[3:53]
        published = os.urandom(1000 + number)
        (tmp_path / "file").write_bytes(published)
        storage.publish(tmp_path / "file", place.uri("out/a"))
        assert place.storage.read(place.uri("out/a")) == published
        version = storage.replace(place.uri("out/index"), published, version)
        data, info = place.storage.read_version(place.uri("out/index"))
        assert (data, info.version) == (published, version)
        storage.delete(place.uri("out/a"))
        assert place.storage.stat(place.uri("out/a")) is None


def test_every_verb_is_right_under_each_kind_of_fault(
    place: Place, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_waits: None
) -> None:
    for module in (gcs, s3):
        monkeypatch.setattr(module, "_PAGE", 5)
    monkeypatch.setattr(block_reader, "BLOCK_BYTES", 400)
    [kind] = proxy.kinds
    rounds, objects = (1, 6) if kind in ("slow", "stall") else (3, 12)
    every_verb(place, place.through(proxy.url, **PATIENT), tmp_path, rounds, objects)
    assert proxy.counts[kind] > 1


@pytest.mark.slow
def test_every_verb_is_right_under_all_kinds_of_faults_for_long(
    place: Place, bad_proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_waits: None
) -> None:
    for module in (gcs, s3):
        monkeypatch.setattr(module, "_PAGE", 3)
    monkeypatch.setattr(block_reader, "BLOCK_BYTES", 100)
    every_verb(place, place.through(bad_proxy.url, **PATIENT), tmp_path, rounds=12)


@pytest.mark.parametrize("kinds", [("reset", "500", "503"), ("429", "truncate")])
def test_a_large_upload_is_whole_under_faults(
    place: Place, fault_proxy: StartProxy, tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    proxy = fault_proxy(place.server_url, rate=0.2, seed=3, kinds=kinds)
    storage = place.through(proxy.url, request_seconds=30, deadline_seconds=200)
    for number in range(3):
        data = os.urandom(1 << 20) * 18 + bytes(number)
        (tmp_path / "file").write_bytes(data)
        storage.publish(tmp_path / "file", place.uri("large"))
        assert not (tmp_path / "file").exists()
        assert place.storage.read(place.uri("large")) == data
    assert sum(proxy.counts[kind] for kind in kinds) > 2


def test_a_large_object_is_read_whole_under_faults(place: Place, fault_proxy: StartProxy) -> None:
    data = os.urandom(1 << 20) * 20
    place.put(place.uri("large"), data)
    proxy = fault_proxy(place.server_url, rate=0.4, seed=5, kinds=("truncate", "reset"))
    storage = place.through(proxy.url, request_seconds=15, deadline_seconds=200)
    for _ in range(3):
        stream, _ = storage.open(place.uri("large"))
        with stream:
            assert stream.read() == data
    assert storage.read(place.uri("large")) == data
    assert proxy.counts["truncate"] > 1


# A write whose answer is lost


@pytest.mark.parametrize("kinds", [("reset",), ("500",), ("truncate",), ("stall",)])
def test_a_replacement_whose_answer_was_lost_is_no_conflict(
    place: Place, fault_proxy: StartProxy, kinds: tuple[str, ...], short_waits: None
) -> None:
    proxy = fault_proxy(place.server_url, rate=0.5, seed=2, kinds=kinds, stall_seconds=0.8)
    storage = place.through(proxy.url, request_seconds=0.5, deadline_seconds=200)
    version = None
    for number in range(5):
        version = storage.replace(place.uri("index"), b"%d" % number, version)
        data, info = place.storage.read_version(place.uri("index"))
        assert (data, info.version) == (b"%d" % number, version)
    assert proxy.counts[kinds[0]] > 2


def test_a_conflict_stays_one_under_faults(place: Place, fault_proxy: StartProxy, short_waits: None) -> None:
    proxy = fault_proxy(place.server_url, rate=0.5, seed=4, kinds=("reset", "503", "truncate"))
    storage = place.through(proxy.url, **PATIENT)
    standing = place.storage.replace(place.uri("index"), b"theirs", None)
    for number in range(10):
        with pytest.raises(ConflictError):
            storage.replace(place.uri("index"), b"ours %d" % number, None)
    assert place.storage.read_version(place.uri("index"))[1].version == standing


def test_a_replacement_that_took_effect_though_every_answer_was_lost_is_a_success(
    place: Place, fault_proxy: StartProxy
) -> None:
    """The first try wins, and no later one is answered until the deadline; only the last look is."""
    proxy = fault_proxy(place.server_url)
    storage = place.through(proxy.url, request_seconds=1, deadline_seconds=2)
    assert storage.stat(place.uri("index")) is None
    uri = place.uri("index")
    proxy.kinds, proxy.stall_seconds, proxy.rate = ("stall",), 10.0, 1.0
    with pytest.raises(StorageError, match="gave up"):
        storage.replace(uri, b"ours", None)
    assert place.storage.read(uri) == b"ours"  # so it must not be called a conflict
    proxy.rate = 0.0
    assert storage.read(uri) == b"ours"


# Deadlines

HASTY: dict[str, Any] = {"request_seconds": 0.4, "deadline_seconds": 1.0}


def verbs(place: Place, storage: Storage, tmp_path: Path) -> dict[str, Callable[[], object]]:
    (tmp_path / "small").write_bytes(b"data")
    (tmp_path / "large").write_bytes(bytes(17 << 20))
    uri = place.uri("a")
    return {
        "list": lambda: list(storage.list(place.folder)),
        "stat": lambda: storage.stat(uri),
        "read": lambda: storage.read(uri),
        "read odd": lambda: storage.read(uri + "\n"),
        "open": lambda: storage.open(uri),
        "publish": lambda: storage.publish(tmp_path / "small", uri),
        "publish large": lambda: storage.publish(tmp_path / "large", uri),
        "replace": lambda: storage.replace(uri, b"x", None),
        "delete": lambda: storage.delete(uri),
    }


@pytest.mark.parametrize(
    ("verb", "broken"),
    [
        ("list", "dead"),
        ("list", "503"),
        ("read", "stall"),
        ("publish large", "dead"),
        ("publish large", "503"),
        ("replace", "stall"),
    ],
)
def test_a_broken_server_is_one_clear_error_within_the_deadline(
    place: Place, fault_proxy: StartProxy, tmp_path: Path, verb: str, broken: str
) -> None:
    check_deadline(place, fault_proxy, tmp_path, verb, broken)


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb", ["list", "stat", "read", "read odd", "open", "publish", "publish large", "replace", "delete"]
)
@pytest.mark.parametrize("broken", ["dead", "stall", "500", "503", "429", "truncate"])
def test_a_broken_server_is_one_clear_error_within_the_deadline_of_every_verb(
    place: Place, fault_proxy: StartProxy, tmp_path: Path, verb: str, broken: str
) -> None:
    check_deadline(place, fault_proxy, tmp_path, verb, broken)


def check_deadline(place: Place, fault_proxy: StartProxy, tmp_path: Path, verb: str, broken: str) -> None:
    for name in ("a", "a\n"):
        place.put(place.uri(name), b"data")
    proxy = fault_proxy(place.server_url, kinds=() if broken == "dead" else (broken,), rate=1.0, stall_seconds=120)
    proxy.dead = broken == "dead"
    storage = place.through(proxy.url, **HASTY)
    act = verbs(place, storage, tmp_path)[verb]
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        act()
    seconds = time.monotonic() - started
    message = str(caught.value)
    # A fixed part for a busy machine; a single answer that were waited for would take twice as long.
    assert HASTY["deadline_seconds"] / 4 < seconds < HASTY["deadline_seconds"] + 60
    assert not isinstance(caught.value, AccessDeniedError | ConflictError)
    assert message.startswith("cannot ")
    assert place.folder in message
    assert "gave up after" in message
    assert "\n" not in message
    assert len(message) < 700
    # Not hammered: a few tries a second at most, whatever is wrong.
    if verb != "publish large":
        assert proxy.counts["requests"] + proxy.counts["dead"] < 30


def test_a_server_that_comes_back_is_used_again(place: Place, fault_proxy: StartProxy) -> None:
    place.put(place.uri("a"), b"data")
    proxy = fault_proxy(place.server_url)
    storage = place.through(proxy.url, request_seconds=60, deadline_seconds=1.5)
    for _ in range(2):
        assert storage.read(place.uri("a")) == b"data"
        proxy.dead = True
        with pytest.raises(StorageError):
            storage.read(place.uri("a"))
        proxy.dead = False
