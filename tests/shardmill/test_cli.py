"""The command line: a run as a subprocess that writes into a pipe, the rest in this process."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

Run = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, images, write_dataset) -> Path:
    """A folder with a dataset file over two partitions of small images."""
    folder = tmp_path_factory.mktemp("cli [deep] folder" + "_with_a_long_name" * 5)
    for number, partition in enumerate(("a", "b")):
        images(folder / "raw" / partition, 20, first=100 * number)
    (folder / "raw/a/empty.jpg").write_bytes(b"")
    write_dataset(
        folder / "d.yaml", folder / "raw/{partition}", folder / "root", partitions=["a", "b"], max_reject_ratio=0.1
    )
    return folder


def in_a_process(command: list[str], *arguments: object) -> Run:
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def after_run(base: Path, command) -> Run:
    return in_a_process(command, "run", base / "d.yaml", "-p", "a")


def rows(output: str) -> list[list[str]]:
    return [line.split("\t") for line in output.splitlines()]


def test_run_says_a_plain_line_for_each_asset(after_run: Run) -> None:
    assert after_run.returncode == 0, after_run.stderr
    assert "\x1b" not in after_run.stdout
    lines = after_run.stdout.splitlines()
    for start in (
        "a raw_images: 21 samples, 1 shards (1 made), ",
        "a webdataset_shards: 20 samples, 2 shards (2 made), ",
        "a transformed_shards: 20 samples, 2 shards (2 made), ",
        "a embeddings: 20 samples, 2 shards (2 made), ",
        "a embedding_map: 20 samples, 1 shards (1 made), ",
        "a: done in ",
    ):
        assert any(line.startswith(start) for line in lines), (start, lines)
    assert any(line.endswith(", 1 rejects") for line in lines)
    assert any(line.startswith("pack d/webdataset_shards/a: 21 of 21 samples") for line in lines)


def test_a_second_run_makes_nothing(base: Path, after_run: Run, call_command) -> None:
    done = call_command("run", base / "d.yaml", "-p", "a")
    assert done.returncode == 0
    assert done.stdout.count("(0 made)") == 5


def test_partitions_lists_states_a_line_each(base: Path, after_run: Run, call_command) -> None:
    found = rows(call_command("partitions", base / "d.yaml").stdout)
    assert found[0] == ["partition", "asset", "state", "samples", "shards", "bytes", "rejects", "digest"]
    assert [row[:3] for row in found[1:6]] == [
        ["a", asset, "up to date"]
        for asset in ("raw_images", "webdataset_shards", "transformed_shards", "embeddings", "embedding_map")
    ]
    assert found[2][3:5] == ["20", "2"]
    assert found[2][6] == "1"
    assert all(row[0] == "b" and row[2] == "missing" for row in found[6:])
    assert len(found) == 11


def test_a_touched_file_makes_its_partition_stale(base: Path, after_run: Run, call_command) -> None:
    file = base / "raw/a/image_00003.jpg"
    before = file.stat()
    os.utime(file)
    try:
        found = rows(call_command("partitions", base / "d.yaml").stdout)
    finally:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [row[2] for row in found[1:6]] == ["stale"] * 5


def test_verify_says_ok_or_names_what_is_wrong(base: Path, after_run: Run, call_command) -> None:
    done = call_command("verify", base / "d.yaml", "-p", "a")
    assert done.returncode == 0, done.stdout
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == ["ok"] * 5
    tar = min(base.glob("root/d/transformed_shards/a/*.tar"))
    whole = tar.read_bytes()
    tar.write_bytes(whole[:700] + b"!" + whole[701:])
    try:
        done = call_command("verify", base / "d.yaml", "-p", "a")
    finally:
        tar.write_bytes(whole)
    assert done.returncode == 1
    assert tar.name in done.stdout
    assert "Traceback" not in done.stderr
    done = call_command("verify", base / "d.yaml", "-p", "b")
    assert done.returncode == 1
    assert "nothing is committed" in done.stdout


def test_show_prints_a_sample_and_where_it_comes_from(base: Path, after_run: Run, call_command, tmp_path: Path) -> None:
    done = call_command("show", base / "d.yaml", "a", "image_00005", "--save", tmp_path / "saved")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("image_00005 in ")
    cells = {row[0]: row for row in rows(done.stdout) if len(row) == 6}
    assert cells["jpg"][2] == "48 × 48"
    for component in ("jpg", "cls"):
        raw = base / f"raw/a/image_00005.{component}"
        assert cells[component][3] == f"file://{raw}"
        assert cells[component][5] == hashlib.sha256(raw.read_bytes()).hexdigest()
    assert any(line.startswith("embedding: 1280 dimensions, [") for line in lines)
    assert any(line.startswith("map: x = ") for line in lines)
    assert (tmp_path / "saved/image_00005.cls").read_text() == "2"
    assert (tmp_path / "saved/image_00005.jpg").stat().st_size == int(cells["jpg"][1].replace(",", ""))


def test_an_error_ends_the_process_with_one_sentence_and_status_1(base: Path, command) -> None:
    done = in_a_process(command, "run", base / "d.yaml", "-p", "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.yaml"], "cannot read the dataset file nowhere.yaml"),
        (["show", "{file}", "b"], "is not there yet: run `shardmill run"),
        (["show", "{file}", "a", "nobody"], "has no sample 'nobody'"),
        (["run", "{file}", "-p", "nowhere"], "nowhere"),
        (["verify", "{file}", "-p", "nowhere"], "there is no partition 'nowhere'; there are a, b"),
        (["show", "{file}", "nowhere"], "there is no partition 'nowhere'; there are a, b"),
    ],
)
def test_an_error_is_one_sentence_and_exit_status_1(
    base: Path, after_run: Run, call_command, arguments: list[str], message: str
) -> None:
    done = call_command(*(argument.format(file=base / "d.yaml") for argument in arguments))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_an_error_of_a_run_is_one_sentence_too(base: Path, call_command, write_dataset, tmp_path: Path) -> None:
    file = write_dataset(tmp_path / "d.yaml", base / "raw/a", tmp_path / "root")
    done = call_command("run", file)
    assert done.returncode == 1
    assert done.stderr.startswith("error: d/webdataset_shards/p: 1 of 21 samples (4.8%) were rejected")
    assert len(done.stderr.splitlines()) == 1


def test_a_mistake_in_the_dataset_file_is_named_with_its_field(
    call_command, base: Path, write_dataset, tmp_path: Path
) -> None:
    file = write_dataset(tmp_path / "d.yaml", base / "raw/a", tmp_path / "root", shards={"max_sample": 3})
    done = call_command("run", file)
    assert done.returncode == 1
    assert "shards.max_sample" in done.stderr
    assert "Traceback" not in done.stderr
