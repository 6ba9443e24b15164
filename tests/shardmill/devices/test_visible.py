"""Visible devices: what `nvidia-smi` lists, cut down by an inherited CUDA_VISIBLE_DEVICES as CUDA reads it."""

from pathlib import Path
from typing import Any

import pytest

from shardmill.devices import visible_devices


def names() -> list[str]:
    return [device.name for device in visible_devices()]


def test_without_the_variable_all_that_are_listed_with_their_memory(simulate: Any) -> None:
    uuids = simulate(4, memory=80)
    assert names() == uuids
    assert {device.memory for device in visible_devices()} == {80 * 1024}


@pytest.mark.parametrize(
    ("inherited", "expected"),
    [
        ("2,0", [2, 0]),
        (" 1 , 3", [1, 3]),
        ("1,1", [1]),
        ("GPU-cccccccc-0000-4000-8000-000000000000", [2]),
        ("GPU-d,0", [3, 0]),
        ("", []),
        ("-1", []),
        ("0,-1,1", [0]),
        ("0,7,1", [0]),
        ("NoDevFiles", []),
    ],
)
def test_the_variable_by_index_or_uuid_in_its_order_up_to_what_is_no_device(
    simulate: Any, monkeypatch: pytest.MonkeyPatch, inherited: str, expected: list[int]
) -> None:
    uuids = simulate(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    assert names() == [uuids[index] for index in expected]


def test_parts_of_a_device_are_named_by_the_variable_alone(simulate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uuids = simulate(1)
    part = "MIG-11111111-0000-4000-8000-000000000000"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{part},0")
    assert names() == [part, uuids[0]]


@pytest.mark.parametrize("program", ["exit 9", "echo '[N/A]'; exit 1", None])
def test_where_nvidia_smi_cannot_say_the_variable_is_taken_at_its_word(
    simulate: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str | None
) -> None:
    simulate(1)
    file = tmp_path / "bin/nvidia-smi"
    if program is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        file.write_text(f"#!/bin/sh\n{program}\n")
    assert names() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-abc,-1,0")
    assert names() == ["1", "GPU-abc"]
