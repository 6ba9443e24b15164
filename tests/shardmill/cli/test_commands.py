"""The command line: a run as a subprocess that writes into a pipe, the rest in this process."""

import hashlib
import json
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
    return in_a_process(command, "run", base / "d.yaml", "a")


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
        "a embedding_basis: 3 samples, 1 shards (1 made), ",
        "a embedding_map: 20 samples, 1 shards (1 made), ",
        "a: done in ",
    ):
        assert any(line.startswith(start) for line in lines), (start, lines)
    assert any(line.endswith(", 1 rejects") for line in lines)
    assert any(line.startswith("pack d/webdataset_shards/a: 21 of 21 samples") for line in lines)


def test_a_second_run_makes_nothing(base: Path, after_run: Run, call_command) -> None:
    done = call_command("run", base / "d.yaml", "a")
    assert done.returncode == 0
    assert done.stdout.count("(0 made)") == 6


def test_partitions_lists_states_a_line_each(base: Path, after_run: Run, call_command) -> None:
    found = rows(call_command("partitions", base / "d.yaml").stdout)
    assert found[0] == ["partition", "asset", "state", "samples", "shards", "bytes", "rejects", "digest"]
    assert [row[:3] for row in found[1:7]] == [
        ["a", "raw_images", "up to date"],
        ["a", "webdataset_shards", "up to date"],
        ["a", "transformed_shards", "up to date"],
        ["a", "embeddings", "up to date"],
        ["all", "embedding_basis", "up to date"],
        ["a", "embedding_map", "up to date"],
    ]
    assert found[2][3:5] == ["20", "2"]
    assert found[2][6] == "1"
    assert all(row[0] == "b" and row[2] == "missing" for row in found[7:])
    assert len(found) == 12


def test_a_touched_file_makes_its_partition_stale(base: Path, after_run: Run, call_command) -> None:
    file = base / "raw/a/image_00003.jpg"
    before = file.stat()
    os.utime(file)
    try:
        found = rows(call_command("partitions", base / "d.yaml").stdout)
    finally:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [row[2] for row in found[1:7]] == [*["stale"] * 4, "up to date", "stale"]


def test_a_plan_says_what_a_run_would_make_and_why(base: Path, after_run: Run, call_command) -> None:
    file = base / "raw/a/image_00003.jpg"
    before = file.stat()
    os.utime(file)
    try:
        planned = call_command("plan", base / "d.yaml")
        as_json = call_command("plan", base / "d.yaml", "a", "--json")
    finally:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = {tuple(row[:2]): row for row in rows(planned.stdout) if len(row) == 8}
    assert found["a", "webdataset_shards"][2:5] == ["stale", "1 of 2 shards", found["a", "webdataset_shards"][4]]
    assert "raw_images has changed; 1 shard is new or changed" in found["a", "webdataset_shards"][7]
    assert found["b", "raw_images"][2:5] == ["missing", "1 of 1 shards", "20"]
    assert found["b", "raw_images"][7] == "nothing is committed"
    assert planned.stdout.splitlines()[-1].startswith("13 shards to make, about ")
    records = {row["asset"]: row for row in map(json.loads, as_json.stdout.splitlines())}
    assert records["transformed_shards"]["to_make"] == 1
    assert records["embedding_basis"]["why"] == []
    assert records["embedding_map"]["seconds"] > 0


def test_a_run_goes_on_after_a_partition_that_fails(call_command, tmp_path: Path, images, write_dataset) -> None:
    for number, partition in enumerate(("a", "b")):
        images(tmp_path / "raw" / partition, 3, first=100 * number)
    (tmp_path / "raw/a/image_00000.jpg").write_bytes(b"")
    file = write_dataset(
        tmp_path / "d.yaml", tmp_path / "raw/{partition}", tmp_path / "root", partitions=["a", "b"], embedder=None
    )
    done = call_command("run", file, "--json")
    assert done.returncode == 1
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["partition"], row.get("asset")) for row in records] == [
        ("a", "raw_images"),
        ("a", None),
        ("b", "raw_images"),
        ("b", "webdataset_shards"),
        ("b", "transformed_shards"),
    ]
    assert "1 of 3 samples (33.3%) were rejected" in records[1]["error"]
    assert "1 of 2 partitions are up to date" in done.stderr
    assert call_command("run", file, "b", "b").stdout.count("(0 made)") == 3


def test_verify_says_ok_or_names_what_is_wrong(base: Path, after_run: Run, call_command) -> None:
    done = call_command("verify", base / "d.yaml", "a")
    assert done.returncode == 0, done.stdout
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == ["ok"] * 6
    tar = min(base.glob("root/d/transformed_shards/a/*.tar"))
    whole = tar.read_bytes()
    tar.write_bytes(whole[:700] + b"!" + whole[701:])
    try:
        done = call_command("verify", base / "d.yaml", "a")
    finally:
        tar.write_bytes(whole)
    assert done.returncode == 1
    assert tar.name in done.stdout
    assert "Traceback" not in done.stderr
    done = call_command("verify", base / "d.yaml", "b")
    assert done.returncode == 1
    assert "nothing is committed" in done.stdout


def test_show_prints_a_sample_and_where_it_comes_from(base: Path, after_run: Run, call_command, tmp_path: Path) -> None:
    done = call_command("show", base / "d.yaml", "a", "--key", "image_00005", "--save", tmp_path / "saved")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("image_00005 in ")
    cells = {row[0]: row for row in rows(done.stdout) if len(row) == 6}
    assert cells["jpg"][2] == "48 × 48"
    for component in ("jpg", "cls"):
        raw = base / f"raw/a/image_00005.{component}"
        assert cells[component][3] == f"file://{raw}"
        assert cells[component][5] == hashlib.sha256(raw.read_bytes()).hexdigest()
    [embedding] = [line for line in lines if line.startswith("embeddings: 1280 dimensions, [")]
    assert "model = efficientnet-lite0" in embedding
    assert any(line.startswith("embedding_map: x = ") for line in lines)
    assert (tmp_path / "saved/image_00005.cls").read_text() == "2"
    assert (tmp_path / "saved/image_00005.jpg").stat().st_size == int(cells["jpg"][1].replace(",", ""))


def test_an_error_ends_the_process_with_one_sentence_and_status_1(base: Path, command) -> None:
    done = in_a_process(command, "run", base / "d.yaml", "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.yaml"], "cannot read the dataset file nowhere.yaml"),
        (["show", "{file}", "b"], "is not there yet: run `shardmill run"),
        (["show", "{file}", "a", "-k", "nobody"], "has no sample 'nobody'"),
        (["run", "{file}", "nowhere"], "nowhere"),
        (["verify", "{file}", "nowhere"], "there is no partition 'nowhere'; there are a, b"),
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
