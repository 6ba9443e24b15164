"""How much memory is to be had, as the kernel and a container's limits say."""

from pathlib import Path

import pytest

from shardmill import memory

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB to spare, in no container."""
    (tmp_path / "meminfo").write_text(f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\nMemAvailable: {8 << 20} kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path)
    return tmp_path


def contain(folder: Path, limit: object, in_use: int = 0, files: int = 0) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{in_use}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {files}\n")


def test_it_is_what_the_kernel_calls_available(machine: Path) -> None:
    assert memory.available_bytes() == 8 * GIB
    contain(machine, "max")
    assert memory.available_bytes() == 8 * GIB


def test_a_container_has_no_more_than_its_limit_leaves(machine: Path) -> None:
    contain(machine, 4 * GIB, in_use=3 * GIB)
    assert memory.available_bytes() == GIB
    contain(machine, 4 * GIB, in_use=3 * GIB, files=2 * GIB)  # of files that were read
    assert memory.available_bytes() == 3 * GIB
    contain(machine, 100 * GIB)
    assert memory.available_bytes() == 8 * GIB


def test_nothing_is_known_where_nothing_says_it(machine: Path) -> None:
    (machine / "meminfo").unlink()
    assert memory.available_bytes() is None
