"""The index that `shardmill index --dali` writes, read as DALI's reader reads it; DALI itself needs a GPU."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shardmill.cli import app
from tests.conformance.conftest import ASSET, Samples, Urls
from tests.conformance.test_documentation import PAGE

Write = Callable[..., dict[str, str]]


@pytest.fixture
def write(file: Path, tmp_path: Path) -> Write:
    """`write("plain")` writes the indexes of that partition and returns each tar's."""

    def call(*partitions: str) -> dict[str, str]:
        done = CliRunner().invoke(app, ["index", "--dali", str(file), ASSET, *partitions, "--output", str(tmp_path)])
        assert done.exit_code == 0, done.stderr
        header, *rows = (line.split("\t") for line in done.stdout.splitlines())
        assert header == ["tar", "index"]
        return dict(rows)

    return call


def entries(tar: str, index: str) -> Iterator[tuple[str, str, bytes]]:
    """Name, component and bytes of each, from the tar at the offsets that the index gives."""
    version, *lines = Path(index).read_text().splitlines()
    assert version == f"v1.2 {len(lines)}"
    data = Path(tar).read_bytes()
    for line in lines:
        words = line.split()
        assert len(words) % 4 == 0
        for component, offset, size, name in zip(*[iter(words)] * 4, strict=True):
            yield name, component, data[int(offset) : int(offset) + int(size)]
            assert int(offset) % 512 == 0
            assert data[int(offset) - 512 :].startswith(name.encode() + b"\0")


@pytest.mark.parametrize("partition", ["plain", "strange", "alike", "texts", "mixed"])
def test_every_offset_is_that_of_the_component(
    partition: str, write: Write, urls: Urls, sources: Mapping[str, Samples]
) -> None:
    written = write(partition)
    assert list(written) == urls(partition)
    found = [entry for tar, index in written.items() for entry in entries(tar, index)]
    assert sorted(found) == sorted(
        (f"{key}.{component}", component, data)
        for key, each in sources[partition].items()
        for component, data in each.items()
    )


def test_indexes_stand_in_the_order_of_their_tars_and_away_from_the_data(
    write: Write, urls: Urls, tmp_path: Path
) -> None:
    written = write()
    names = [Path(tar).with_suffix(".idx").name for tar in urls()]
    assert [Path(index).name for index in written.values()] == names
    below = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file())
    assert below == sorted(f"{ASSET}/{Path(tar).parent.name}/{Path(tar).stem}.idx" for tar in urls())
    assert {each.suffix for tar in urls() for each in Path(tar).parent.iterdir()} == {".tar"}


def test_what_is_committed_no_more_has_no_index(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / ASSET / "texts"
    folder.mkdir(parents=True)
    superseded, mine = folder / "000000-0123456789ab-01234567.idx", folder / "mine.idx"
    superseded.touch()
    mine.touch()
    written = write("texts")
    assert {*folder.iterdir()} == {mine, *map(Path, written.values())}


def test_the_lines_of_the_documentation_hand_over_tars_with_their_indexes(
    file: Path, urls: Urls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Readers:
        @staticmethod
        def webdataset(paths: list[str], index_paths: list[str], **_: Any) -> tuple[list[str], list[str]]:
            return paths, index_paths

    class Functions:
        readers = Readers

    monkeypatch.chdir(tmp_path)
    arguments = ["index", "--dali", str(file), ASSET, "--output", "indexes"]
    (tmp_path / "tars.tsv").write_text(CliRunner().invoke(app, arguments).stdout)
    (code,) = re.findall(r"```python\n(tars, .*?)```", PAGE, re.DOTALL)
    scope = {"Path": Path, "fn": Functions}
    exec(code, scope)
    assert scope["images"] == urls()
    assert [Path(index).stem for index in scope["labels"]] == [Path(url).stem for url in urls()]
    assert all(Path(index).is_file() for index in scope["labels"])
