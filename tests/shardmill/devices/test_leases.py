"""Leases: one holder a device, whoever dies; first come, first served; a message for those who wait."""

import fcntl
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shardmill.devices import lease, visible_devices
from shardmill.errors import ConfigurationError

HOLDER = """
import json, sys, time
from shardmill.devices import lease, visible_devices

log, name, count, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])

def tell(event, value):
    with open(log, "a") as stream:
        stream.write(json.dumps([name, event, value, time.monotonic()]) + "\\n")

with lease(visible_devices(), count, name, lambda text: tell("waits", text)) as held:
    tell("takes", held.devices)
    time.sleep(seconds)
    tell("leaves", held.devices)
"""
PARENT = """
import multiprocessing, sys, time
from {module} import worker
from shardmill.devices import lease, visible_devices

if __name__ == "__main__":
    with lease(visible_devices(), 1, "parent", print) as held:
        process = multiprocessing.get_context("forkserver").Process(target=worker, args=(held, sys.argv[1]))
        process.start()
        time.sleep(300)
"""
WORKER = """
    import pathlib, time

    def worker(held, folder):
        begun = time.monotonic()
        pathlib.Path(folder, "begun").touch()
        while not pathlib.Path(folder, "end").exists() and time.monotonic() < begun + 300:
            time.sleep(0.02)
"""

Event = tuple[str, str, Any, float]


class Log:
    """What holders wrote down, each line `[name, event, value, time]`; `hold` starts one."""

    def __init__(self, file: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
        self.file = file
        self._start = start
        file.touch()

    def hold(self, name: str, count: int = 1, seconds: float = 0) -> subprocess.Popen[str]:
        return self._start(HOLDER, str(self.file), name, str(count), str(seconds))

    def events(self, event: str) -> dict[str, Event]:
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        return {line[0]: line for line in lines if line[1] == event}

    def await_event(self, event: str, name: str) -> Event:
        deadline = time.monotonic() + 120
        while name not in self.events(event):
            assert time.monotonic() < deadline, f"{name} never {event}: {self.file.read_text()}"
            time.sleep(0.02)
        return self.events(event)[name]


@pytest.fixture
def log(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> Log:
    return Log(tmp_path / "log", start)


def refuse_to_wait(text: str) -> None:
    raise AssertionError(f"it has to wait: {text}")


def assert_free(count: int) -> None:
    with lease(visible_devices(), count, "test", refuse_to_wait) as held:
        assert len(set(held.devices)) == count


def test_never_two_on_one_device_and_never_a_leaked_lease_whoever_is_killed(simulate: Any, log: Log) -> None:
    simulate(4)
    rng = random.Random(0)
    names = [f"step{number}" for number in range(12)]
    processes = {name: log.hold(name, 2 if number % 4 == 3 else 1, 0.5) for number, name in enumerate(names)}
    with lease(visible_devices(), 4, "test", refuse_to_wait):
        for name in names:
            log.await_event("waits", name)
    holders, waiters, killed = set(rng.sample(names, 4)), 2, dict[str, float]()
    deadline = time.monotonic() + 300
    while any(process.poll() is None for process in processes.values()) and time.monotonic() < deadline:
        time.sleep(rng.uniform(0, 0.05))
        takes = log.events("takes")
        victims = (holders & takes.keys()) - killed.keys()
        if waiters and (waiting := log.events("waits").keys() - takes.keys() - killed.keys()):
            waiters -= 1
            victims |= {rng.choice(sorted(waiting))}
        for name in victims:
            killed[name] = time.monotonic()
            processes[name].kill()
    took, left = log.events("takes"), log.events("leaves")
    assert len(killed) >= 4
    assert len(set(names) - killed.keys()) >= 6
    for name in set(names) - killed.keys():
        assert processes[name].wait(1) == 0
        assert name in left
    # A process that was killed had its devices until then at least.
    ends = {name: left[name][3] if name in left else killed[name] for name in took}
    uses = [(device, at, ends[name]) for name, _, devices, at in took.values() for device in devices]
    assert {device for device, _, _ in uses} == set(simulate(4))
    for (device, _, end), (next_device, begin, _) in pairwise(sorted(uses)):
        assert device != next_device or end <= begin
    assert_free(4)
    assert not list((log.file.parent / "locks").glob("ticket-*"))


def test_who_comes_first_is_served_first_and_the_dead_hold_nobody_up(simulate: Any, log: Log) -> None:
    simulate(1)
    processes = {}
    with lease(visible_devices(), 1, "test", refuse_to_wait):
        for name in ("first", "killed", "second", "third"):
            processes[name] = log.hold(name)
            log.await_event("waits", name)
        processes["killed"].kill()
        processes["killed"].wait()
        assert not log.events("takes")
    for name in ("first", "second", "third"):
        assert processes[name].wait(120) == 0
    assert list(log.events("takes")) == ["first", "second", "third"]


def test_several_devices_are_taken_at_once_or_not_at_all_and_nobody_slips_by(simulate: Any, log: Log) -> None:
    simulate(2)
    with lease(visible_devices(), 1, "test", refuse_to_wait):
        log.hold("two", 2)
        log.await_event("waits", "two")
        log.hold("one", 1)
        assert "1 came earlier" in log.await_event("waits", "one")[2]
        time.sleep(0.5)
        assert not log.events("takes")  # though one device is free
    log.await_event("leaves", "one")
    assert list(log.events("takes")) == ["two", "one"]


def test_who_waits_for_one_device_does_not_hinder_who_wants_another(
    simulate: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with lease(visible_devices(), 1, "test", refuse_to_wait):
        log.hold("waiting")
        log.await_event("waits", "waiting")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        assert_free(1)


def test_an_index_and_a_uuid_are_the_same_device(simulate: Any, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    uuids = simulate(3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    with lease(visible_devices(), 1, "test", refuse_to_wait) as held:
        assert held.devices == (uuids[2],)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", uuids[2])
        other = log.hold("other")
        log.await_event("waits", "other")
    assert other.wait(120) == 0
    assert log.events("takes")["other"][2] == [uuids[2]]


def test_who_waits_is_told_at_once_and_again_who_holds_what_since_when(
    simulate: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    [uuid] = simulate(1)
    monkeypatch.setattr("shardmill.devices.leases._TELL", 0.5)
    holder = log.hold("embed in gs://a/b", seconds=600)
    log.await_event("takes", "embed in gs://a/b")
    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), lease(visible_devices(), 1, "mine", say):
        pass
    assert re.fullmatch(
        rf"mine has waited 0:\d\d for a CUDA device\. Held: {uuid} by process {holder.pid} since "
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} for embed in gs://a/b",
        told[0],
    )
    assert re.match(r"mine has waited 0:(?!00)\d\d for", told[2])
    holder.kill()
    holder.wait()
    assert_free(1)  # who gave up waiting is in nobody's way


def test_a_lease_that_was_handed_to_a_worker_lasts_as_long_as_the_worker(
    simulate: Any, start: Callable[..., subprocess.Popen[str]], write_module: Callable[[str], str], tmp_path: Path
) -> None:
    simulate(1)
    file = tmp_path / "parent.py"
    file.write_text(PARENT.format(module=write_module(WORKER)))
    parent = start("import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')", str(file), str(tmp_path))
    deadline = time.monotonic() + 120
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    with pytest.raises(AssertionError, match="by process"), lease(visible_devices(), 1, "test", refuse_to_wait):
        pass
    (tmp_path / "end").touch()
    with lease(visible_devices(), 1, "test", lambda _: None) as held:
        assert len(held.devices) == 1


def test_every_user_may_lock_and_none_may_remove_the_locks_of_others(simulate: Any, tmp_path: Path) -> None:
    simulate(1)
    assert_free(1)
    folder = tmp_path / "locks"
    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o666}


@pytest.mark.parametrize("name", ["ticket-old", "ticket-", "ticket-1", "ticket-00000001.bak", "ticket-٠٠٠٠٠٠٠٠"])
def test_a_file_of_somebody_s_in_the_shared_folder_hinders_nobody(simulate: Any, tmp_path: Path, name: str) -> None:
    simulate(1)
    assert_free(1)
    (tmp_path / "locks" / name).write_text("not ours")
    assert_free(1)
    assert (tmp_path / "locks" / name).read_text() == "not ours"


def test_what_is_called_like_a_ticket_and_is_no_file_hinders_nobody(simulate: Any, tmp_path: Path) -> None:
    simulate(1)
    assert_free(1)
    (tmp_path / "locks/ticket-00000001").mkdir()
    (tmp_path / "locks/ticket-00000002").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "locks/ticket-00000003")
    assert_free(1)


def test_a_link_in_the_place_of_a_lock_is_refused_and_not_written_through(simulate: Any, tmp_path: Path) -> None:
    [uuid] = simulate(1)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    assert_free(1)
    (tmp_path / f"locks/device-{uuid}").unlink()
    (tmp_path / f"locks/device-{uuid}").symlink_to(precious)
    with (
        pytest.raises(ConfigurationError, match="SHARDMILL_DEVICE_LOCKS"),
        lease(visible_devices(), 1, "m", refuse_to_wait),
    ):
        pass
    assert precious.read_text() == "mine"


def test_a_lock_that_a_cleaner_of_temporary_files_removed_counts_no_more(simulate: Any, log: Log) -> None:
    simulate(1)
    assert_free(1)
    file = log.file.parent / "locks/mutex"
    with file.open() as old:
        fcntl.flock(old, fcntl.LOCK_EX)
        process = log.hold("waiting")  # for the file that is removed now
        deadline = time.monotonic() + 120
        while not waits_for_a_lock(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        file.unlink()
        new = file.open("w")
        fcntl.flock(new, fcntl.LOCK_EX)
    time.sleep(0.5)
    assert not log.events("takes")
    new.close()
    assert process.wait(120) == 0


def test_what_the_log_raises_is_not_taken_for_a_fault_of_the_locks(simulate: Any) -> None:
    simulate(1)

    def say(text: str) -> None:
        raise OSError(28, f"no space left for {text}")

    with (
        lease(visible_devices(), 1, "test", refuse_to_wait),
        pytest.raises(OSError, match="no space left for mine has waited"),
        lease(visible_devices(), 1, "mine", say),
    ):
        pass
    assert_free(1)


def waits_for_a_lock(pid: int) -> bool:
    """As the kernel lists it: `3: -> FLOCK  ADVISORY  WRITE 123 …`."""
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(line[1] == "->" and line[5] == str(pid) for line in lines)
