"""Leases: a device belongs to one process and its workers at a time, on the whole machine.

A lease is a lock (`flock`) on a file that stands for the device. The kernel lets go of it when the last descriptor is
closed: that of the process which took it, and those of the workers that it was handed to. However they die, a device is
free when nobody can be using it any more, and not before.

Who waits holds a ticket: a numbered file, locked by its owner for as long as that lives, that lists the devices it
could use. Nobody takes a device that an earlier ticket lists, so all are served in the order in which they came, and
those who wait for different devices do not wait for each other. What is done with tickets and devices is done under one
more lock, so that several devices are taken all at once or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shardmill.devices.visible import Device
from shardmill.errors import ConfigurationError
from shardmill.progress import format_duration

LOCKS = "SHARDMILL_DEVICE_LOCKS"
"""Environment variable: the folder of the locks, the same for all who share the devices."""
_DEFAULT_LOCKS = "/tmp/shardmill-devices"  # not TMPDIR, which differs between users and jobs

_TICKET = re.compile("ticket-[0-9]{8,}")
_POLL = 0.2
_TELL = 60.0


@dataclass(frozen=True)
class Lease:
    """Devices of this process alone. Handed to a worker as an argument of its start, it lasts as long as the worker."""

    devices: tuple[str, ...]
    """What CUDA_VISIBLE_DEVICES takes."""
    _descriptors: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _hand_over, (self.devices, [DupFd(descriptor) for descriptor in self._descriptors])


def _hand_over(devices: tuple[str, ...], handed: Sequence[Any]) -> Lease:
    descriptors = tuple(each.detach() for each in handed)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)  # what the worker starts in its turn shall not prolong the lease
    return Lease(devices, descriptors)


@contextmanager
def lease(devices: Sequence[Device], count: int, task: str, say: Callable[[str], None]) -> Iterator[Lease]:
    """Hold `count` of these devices for `task`; wait until it is one's turn.

    While it waits, `say` is told at once and then every minute who holds the devices. First come, first served. What
    `say` raises ends the wait.

    Raises:
        ConfigurationError: The folder of the locks cannot be used.
    """
    assert 1 <= count <= len(devices)  # else it would wait for ever
    with ExitStack() as held:
        descriptors = _wait(held, devices, count, task, say)
        yield Lease(tuple(device.name for device in descriptors), tuple(descriptors.values()))


def _wait(
    held: ExitStack, devices: Sequence[Device], count: int, task: str, say: Callable[[str], None]
) -> dict[Device, int]:
    """The devices that it took, and their descriptors, which `held` closes."""
    with _folder_is_usable():
        folder = _folder()
    started = time.monotonic()
    told: float | None = None
    with ExitStack() as ticket:
        number: int | None = None
        while True:
            with _folder_is_usable(), _locked(folder / "mutex"):
                if number is None:
                    number = _draw(ticket, folder, devices)
                earlier = _earlier(folder, number)
                reserved = set[str]().union(*earlier)
                allowed = [device for device in devices if _quoted(device) not in reserved]
                if taken := _take(held, folder, allowed, count, task):
                    return taken
                holders = _holders(folder, devices)
            now = time.monotonic()
            if told is None or now - told >= _TELL:
                told = now
                say(_waiting(count, task, holders, len(earlier), now - started))
            time.sleep(_POLL)


@contextmanager
def _folder_is_usable() -> Iterator[None]:
    """Explain an OSError of the block.

    Raises:
        ConfigurationError: The folder of the locks cannot be used.
    """
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"cannot lock devices below {_folder_name()}: {error.strerror}. All users of the devices must be able "
            f"to write to that folder (mode 1777); {LOCKS} may name another"
        ) from error


def _waiting(count: int, task: str, holders: Sequence[str], earlier: int, seconds: float) -> str:
    wanted = "a CUDA device" if count == 1 else f"{count} CUDA devices"
    turn = f"; {earlier} came earlier" if earlier else ""
    return f"{task} has waited {format_duration(seconds)} for {wanted}. Held: {', '.join(holders) or 'none'}{turn}"


def _take(held: ExitStack, folder: Path, devices: Sequence[Device], count: int, task: str) -> dict[Device, int]:
    """Lock the first `count` that are free, and write down for whom; none if there are fewer."""
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S%z")
    taken: dict[Device, int] = {}
    with ExitStack() as locks:
        for device in devices:
            if (descriptor := _lock(_file(folder, device), fcntl.LOCK_NB)) is None:
                continue
            locks.callback(os.close, descriptor)
            _write(descriptor, f"process {os.getpid()} since {since} for {task}")
            taken[device] = descriptor
            if len(taken) == count:
                held.push(locks.pop_all())
                return taken
    return {}


def _holders(folder: Path, devices: Sequence[Device]) -> list[str]:
    """What the holders of devices wrote down."""
    found = []
    for device in devices:
        file = _file(folder, device)
        free = _lock(file, fcntl.LOCK_NB)
        if free is None:
            found.append(f"{device.name} by {_read(file)}")
        else:
            os.close(free)
    return found


def _draw(ticket: ExitStack, folder: Path, devices: Sequence[Device]) -> int:
    """A ticket behind all others. It is given back when `ticket` closes."""
    number = max((_number(file) for file in _tickets(folder)), default=0) + 1
    file = folder / f"ticket-{number:08}"
    descriptor = _lock(file)
    assert descriptor is not None  # it is new, and nobody else draws now
    ticket.callback(os.close, descriptor)
    ticket.callback(file.unlink, missing_ok=True)
    _write(descriptor, " ".join(map(_quoted, devices)))
    return number


def _earlier(folder: Path, number: int) -> list[set[str]]:
    """What those who came earlier, and still live, could use. Tickets of the dead are removed."""
    waiting = []
    for file in _tickets(folder):
        if _number(file) >= number or file.is_symlink() or not file.is_file():
            continue
        with contextlib.suppress(FileNotFoundError):  # given back meanwhile
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(PermissionError):  # another user's; it hinders nobody
                    file.unlink()
            except BlockingIOError:
                waiting.append(set(_read(file).split()))
            finally:
                os.close(descriptor)
    return waiting


def _tickets(folder: Path) -> list[Path]:
    """Whatever is called like one. The folder is everybody's."""
    return [file for file in folder.glob("ticket-*") if _TICKET.fullmatch(file.name)]


def _number(ticket: Path) -> int:
    return int(ticket.name.removeprefix("ticket-"))


def _quoted(device: Device) -> str:
    """The device's name as part of a file's name."""
    return quote(device.name, safe="")


def _file(folder: Path, device: Device) -> Path:
    return folder / f"device-{_quoted(device)}"


def _folder_name() -> str:
    return os.environ.get(LOCKS) or _DEFAULT_LOCKS


def _folder() -> Path:
    """Made for all users; with the sticky bit, so that none removes the locks of another."""
    folder = Path(_folder_name())
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(0o1777)
    return folder


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    descriptor = _lock(file)
    assert descriptor is not None  # it waited
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(file: Path, flags: int = 0) -> int | None:
    """The descriptor that holds the exclusive lock on the file, made if need be. None if it is held and LOCK_NB."""
    while True:
        descriptor = _open(file)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # what clears old temporary files was faster: the name means another file now


def _open(file: Path) -> int:
    """For reading and writing, through no link. Who makes it lets all users write to it."""
    while True:
        # Without O_CREAT: with it, the kernel refuses files of others in a folder with the sticky bit.
        with contextlib.suppress(FileNotFoundError):
            return os.open(file, os.O_RDWR | os.O_NOFOLLOW)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL)
            os.fchmod(descriptor, 0o666)
            return descriptor


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _read(file: Path) -> str:
    """On one line: anybody may have written it."""
    return " ".join(file.read_text(errors="replace").split())[:10_000]
