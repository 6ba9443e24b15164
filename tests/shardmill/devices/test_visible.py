"""Visible devices: what `nvidia-smi` lists, cut down by an inherited CUDA_VISIBLE_DEVICES as CUDA reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardmill.devices import GPUSpec, fitting_devices, visible_devices
from shardmill.errors import ConfigurationError, DeviceError


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


def test_without_nvidia_smi_the_variable_is_taken_at_its_word(
    simulate: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert names() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-abc,-1,0")
    assert names() == ["1", "GPU-abc"]


def test_devices_fit_that_have_the_memory(simulate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uuids = simulate(2, memory=24)
    assert [device.name for device in fitting_devices(GPUSpec(memory=24), "mine")] == uuids
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [device.name for device in fitting_devices(GPUSpec(), "mine")] == uuids[1:]


@pytest.mark.parametrize(
    ("gpu", "inherited", "message"),
    [
        (GPUSpec(count=3), None, r"mine needs 3 CUDA devices; visible are: GPU-a.* \(24\.0 GiB\), GPU-b.* is not set"),
        (GPUSpec(memory=80), None, "mine needs 1 CUDA device of at least 80 GiB; visible are: GPU-a"),
        (GPUSpec(), "-1", r"visible are: none\. CUDA_VISIBLE_DEVICES is '-1'"),
    ],
)
def test_devices_that_are_not_there_are_an_error_that_says_what_is(
    simulate: Any, monkeypatch: pytest.MonkeyPatch, gpu: GPUSpec, inherited: str | None, message: str
) -> None:
    simulate(2, memory=24)
    if inherited is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    with pytest.raises(ConfigurationError, match=message):
        fitting_devices(gpu, "mine")


@pytest.fixture
def failing(simulate: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """`failing("exit 9", times=1)`: an `nvidia-smi` over one device that does this so many times before it answers."""
    monkeypatch.setattr("shardmill.devices.visible._PAUSE", 0)

    def make(does: str, times: int) -> list[str]:
        uuids: list[str] = simulate(1)
        file = tmp_path / "bin/nvidia-smi"
        answer = file.read_text().removeprefix("#!/bin/sh\n")
        calls = f"echo >> {tmp_path}/calls; [ $(wc -l < {tmp_path}/calls) -le {times} ]"
        file.write_text(f"#!/bin/sh\nif {calls}; then {does}; fi\n{answer}")
        return uuids

    return make


@pytest.mark.parametrize("inherited", [None, "0"])
def test_a_device_has_one_name_also_where_nvidia_smi_failed_for_a_moment(
    failing: Any, monkeypatch: pytest.MonkeyPatch, inherited: str | None
) -> None:
    uuids = failing("exit 255", times=2)
    if inherited is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    assert names() == uuids


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("echo 'no driver to be found' >&2; exit 9", "exit status 9, 'no driver to be found'"),
        ("exit 255", "exit status 255"),
        ("exec sleep 5", "took more than 0 s"),
    ],
)
@pytest.mark.parametrize("inherited", [None, "0"])
def test_an_nvidia_smi_that_goes_on_failing_is_an_error_that_may_pass(
    failing: Any, monkeypatch: pytest.MonkeyPatch, inherited: str | None, does: str, message: str
) -> None:
    failing(does, times=100)
    if "sleep" in does:
        monkeypatch.setattr("shardmill.devices.visible._SECONDS", 0.1)
    if inherited is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    with pytest.raises(DeviceError, match=message) as raised:
        fitting_devices(GPUSpec(), "mine")
    assert not raised.value.final


@pytest.mark.parametrize("inherited", ["", "-1", "NoDevFiles"])
def test_nvidia_smi_is_not_asked_where_the_variable_names_no_device(
    failing: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inherited: str
) -> None:
    failing("exit 9", times=100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    assert names() == []
    assert not (tmp_path / "calls").exists()
