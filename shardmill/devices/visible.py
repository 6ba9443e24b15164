"""Which CUDA devices this process may use, found out without torch: asking CUDA would fix the answer for good."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile

from shardmill.devices.spec import GPUSpec
from shardmill.errors import ConfigurationError, DeviceError

VISIBLE = "CUDA_VISIBLE_DEVICES"
_SECONDS = 20.0
"""The longest that `nvidia-smi` may take: a driver that has to be loaded first takes some seconds."""
_QUERY = ["--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
_TRIES = 3
_PAUSE = 1.0
"""Seconds between them."""
_ENTRY = re.compile("[0-9]+|(GPU|MIG)-.*")
"""Of CUDA_VISIBLE_DEVICES. Others name no device, whatever there is."""


@dataclass(frozen=True)
class Device:
    """A device; equal names are the same device, in every process of the machine that has `nvidia-smi`."""

    name: str
    """What CUDA_VISIBLE_DEVICES takes: the UUID where it is known."""
    memory: int | None = None
    """MiB in all; None if unknown."""


def visible_devices(tries: int = _TRIES) -> list[Device]:
    """The devices that an inherited CUDA_VISIBLE_DEVICES names, in its order, else all that `nvidia-smi` lists.

    Indices are those of `nvidia-smi`. As in CUDA, the list ends at the first entry that names no device. Only where
    there is no `nvidia-smi`, the entries are taken as they are. It is not asked where the variable names no device.

    Raises:
        DeviceError: `nvidia-smi` failed so many times.
    """
    inherited = os.environ.get(VISIBLE)
    if inherited is None:
        return list((_listed(tries) or {}).values())
    entries = list(takewhile(_ENTRY.fullmatch, (entry.strip() for entry in inherited.split(","))))
    listed = _listed(tries) if entries else {}
    found: dict[str, Device] = {}
    for entry in entries:
        device = _named(entry, listed)
        if device is None:
            break
        found.setdefault(device.name, device)
    return list(found.values())


def fitting_devices(gpu: GPUSpec, task: str) -> list[Device]:
    """The visible devices that will do.

    Raises:
        ConfigurationError: They are fewer than asked for.
        DeviceError: `nvidia-smi` fails.
    """
    visible = visible_devices()
    fitting = [
        each for each in visible if gpu.memory is None or each.memory is None or each.memory >= gpu.memory * 1024
    ]
    if len(fitting) >= gpu.count:
        return fitting
    there = [each.name + (f" ({each.memory / 1024:.1f} GiB)" if each.memory else "") for each in visible]
    wanted = f"{gpu.count} CUDA device{'s' * (gpu.count > 1)}" + (f" of at least {gpu.memory} GiB" * bool(gpu.memory))
    inherited = f"{VISIBLE} is {os.environ[VISIBLE]!r}" if VISIBLE in os.environ else f"{VISIBLE} is not set"
    raise ConfigurationError(
        f"{task} needs {wanted}; visible are: {', '.join(there) or 'none'}. {inherited}: it says which devices may be "
        "used, by default all that nvidia-smi lists"
    )


def _named(entry: str, listed: Mapping[str, Device] | None) -> Device | None:
    """By index, by UUID or the beginning of one. What `nvidia-smi` does not list with the others: parts (MIG)."""
    if listed is None or entry.startswith("MIG-"):
        return Device(entry)
    if entry.startswith("GPU-"):
        return next((device for device in listed.values() if device.name.startswith(entry)), None)
    return listed.get(entry)


def _listed(tries: int) -> dict[str, Device] | None:
    """By index; None where there is no `nvidia-smi`.

    One that fails is no such case: who then went by the variable's word would lock `0`, and another, whose call went
    well, the same device by its UUID.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    devices: dict[str, Device] = {}
    for line in _asked(program, tries).splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 3:  # else a sentence: no devices were found
            index, uuid, memory = cells
            devices[index] = Device(uuid, int(memory) if memory.isdecimal() else None)  # `[N/A]` on some
    return devices


def _asked(program: str, tries: int) -> str:
    """What the program prints.

    Raises:
        DeviceError: It fails every time; with what it said at last.
    """
    why = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(_PAUSE)
        try:
            done = subprocess.run(
                [program, *_QUERY], capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            why = f"it took more than {_SECONDS:.0f} s"
        except OSError as error:
            why = str(error.strerror)
        else:
            if not done.returncode:
                return done.stdout
            said = " ".join(f"{done.stdout} {done.stderr}".split())[:1000]
            why = f"exit status {done.returncode}" + (f", {said!r}" if said else "")
    raise DeviceError(
        f"{program} fails to list the CUDA devices: {why}. Without it none can be leased: see that it works, then try "
        f"again; set {VISIBLE} to nothing to use no device"
    )
