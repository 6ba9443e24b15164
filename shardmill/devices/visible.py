"""Which CUDA devices this process may use, found out without torch: asking CUDA would fix the answer for good."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from shardmill.devices.spec import GPUSpec
from shardmill.errors import ConfigurationError

VISIBLE = "CUDA_VISIBLE_DEVICES"
_SECONDS = 20.0
"""The longest that `nvidia-smi` may take: a driver that has to be loaded first takes some seconds."""
_QUERY = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]


@dataclass(frozen=True)
class Device:
    """A device; equal names are the same device, in every process of the machine that has `nvidia-smi`."""

    name: str
    """What CUDA_VISIBLE_DEVICES takes: the UUID where it is known."""
    memory: int | None = None
    """MiB in all; None if unknown."""


def visible_devices() -> list[Device]:
    """The devices that an inherited CUDA_VISIBLE_DEVICES names, in its order, else all that `nvidia-smi` lists.

    Indices are those of `nvidia-smi`. As in CUDA, the list ends at the first entry that names no device. Where
    `nvidia-smi` cannot say what there is, the entries are taken as they are.
    """
    listed = _listed()
    inherited = os.environ.get(VISIBLE)
    if inherited is None:
        return list(listed.values())
    found: dict[str, Device] = {}
    for entry in inherited.split(","):
        device = _named(entry.strip(), listed)
        if device is None:
            break
        found.setdefault(device.name, device)
    return list(found.values())


def fitting_devices(gpu: GPUSpec, task: str) -> list[Device]:
    """The visible devices that will do. Raises ConfigurationError if they are fewer than asked for."""
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


def _named(entry: str, listed: dict[str, Device]) -> Device | None:
    """By index, by UUID or the beginning of one. What `nvidia-smi` does not list with the others: parts (MIG)."""
    if entry.startswith("MIG-") or (not listed and (entry.isdecimal() or entry.startswith("GPU-"))):
        return Device(entry)
    if entry.startswith("GPU-"):
        return next((device for device in listed.values() if device.name.startswith(entry)), None)
    return listed.get(entry)


def _listed() -> dict[str, Device]:
    """By index. Empty without the program, or where it finds no driver."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    devices: dict[str, Device] = {}
    for line in done.stdout.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 3:  # else a sentence: no devices were found
            index, uuid, memory = cells
            devices[index] = Device(uuid, int(memory) if memory.isdecimal() else None)  # `[N/A]` on some
    return devices
