"""The command line: a run as a subprocess that writes into a pipe, the rest in this process."""

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from shardmill.cli.showing import _cells

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
        "a raw_images: 21 samples, 1 shard (1 made), ",
        "a webdataset_shards: 20 samples, 2 shards (2 made), ",
        "a transformed_shards: 20 samples, 2 shards (2 made), ",
        "a embeddings: 20 samples, 2 shards (2 made), ",
        "a embedding_basis: 3 samples, 1 shard (1 made), ",
        "a embedding_map: 20 samples, 1 shard (1 made), ",
        "a: done in ",
    ):
        assert any(line.startswith(start) for line in lines), (start, lines)
    assert any(line.endswith(", 1 reject (1 × empty file)") for line in lines)
    assert any(line.startswith("pack d/webdataset_shards/a: 21 of 21 samples") for line in lines)


def test_run_says_of_how_many_files_nothing_was_made(tmp_path: Path, write_dataset, call_command) -> None:
    (tmp_path / "raw").mkdir()
    for name, text in {"a": "one", "none": ""}.items():
        (tmp_path / "raw" / f"{name}.txt").write_text(text)
    stage = {"name": "made", "use": "tests.shardmill.stages.test_files:Words"}
    fields = {"transform": None, "embedder": None, "stages": [stage]}
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", **fields)
    assert ", 1 filtered\n" in call_command("run", file).stdout
    records = map(json.loads, call_command("run", file, "--json").stdout.splitlines())
    assert [record["filtered"] for record in records if record.get("asset") == "made"] == [1]


def test_a_second_run_makes_nothing(base: Path, after_run: Run, call_command) -> None:
    done = call_command("run", base / "d.yaml", "a")
    assert done.returncode == 0
    assert done.stdout.count("(0 made)") == 6


def test_partitions_lists_states_a_line_each(base: Path, after_run: Run, call_command) -> None:
    found = rows(call_command("partitions", base / "d.yaml").stdout)
    assert found[0] == ["partition", "asset", "state", "samples", "shards", "bytes", "rejects", "left out", "digest"]
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
    records = map(json.loads, call_command("partitions", base / "d.yaml", "a", "--json").stdout.splitlines())
    size = sum(file.stat().st_size for file in (base / "root/d/embeddings/a").iterdir())
    assert [row["bytes"] for row in records if row["asset"] == "embeddings"] == [size]


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
    found = {tuple(row[:2]): row for row in rows(planned.stdout) if len(row) == 9}
    assert found["a", "webdataset_shards"][2:5] == ["stale", "1 of 2 shards", found["a", "webdataset_shards"][4]]
    assert "raw_images has changed; 1 shard is new or changed" in found["a", "webdataset_shards"][8]
    assert found["a", "webdataset_shards"][5] == "1"  # the others are copied
    assert found["b", "raw_images"][2:5] == ["missing", "1 of 1 shard", "20"]
    assert found["b", "raw_images"][8] == "nothing is committed"
    assert planned.stdout.splitlines()[-1].startswith("13 shards to make, about ")
    records = {row["asset"]: row for row in map(json.loads, as_json.stdout.splitlines())}
    assert records["transformed_shards"]["to_make"] == records["transformed_shards"]["to_compute"] == 1
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
    assert call_command("verify", base / "d.yaml").stdout.count("embedding_basis") == 1  # all partitions have one


def test_verify_names_what_webdataset_does_not_read(
    base: Path, after_run: Run, call_command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardmill.shards.verify.read_with_webdataset", lambda _: (19, 0))
    done = call_command("verify", base / "d.yaml", "a")
    assert done.returncode == 1
    assert done.stdout.count("webdataset reads 19 samples, index.json says 20") == 2


def test_gc_spares_what_is_younger_than_the_grace_and_partitions_that_are_not_named(
    call_command, tmp_path: Path, write_dataset
) -> None:
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw/{partition}", tmp_path / "root", partitions=["a", "b"])
    orphans = [tmp_path / f"root/d/webdataset_shards/{name}/000000-{'0' * 12}-{'0' * 8}.tar" for name in ("a", "b")]
    half_an_hour_ago = time.time() - 1800
    for orphan in orphans:
        orphan.parent.mkdir(parents=True)
        orphan.write_bytes(b"rubbish")
        os.utime(orphan, (half_an_hour_ago, half_an_hour_ago))
    assert call_command("gc", file, "--grace-hours", "1").stdout == "0 files, 0 bytes\n"
    assert call_command("gc", file, "a", "--grace-hours", "0.25").stdout.splitlines()[-1] == "1 files, 7 bytes"
    assert [orphan.exists() for orphan in orphans] == [False, True]


def test_a_plan_without_a_rate_foretells_no_time(call_command, tmp_path: Path, images, write_dataset) -> None:
    images(tmp_path / "raw", 3)
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", embedder=None)
    planned = call_command("plan", file).stdout
    assert planned.splitlines()[-1] == "3 shards to make"
    assert [row[7] for row in rows(planned) if len(row) == 9] == ["time", *["unknown"] * 3]


def test_a_partition_whose_state_cannot_be_told_fails_the_command_and_hides_no_other(
    call_command, tmp_path: Path, images, write_dataset
) -> None:
    images(tmp_path / "raw/b", 3)
    fields = {"partitions": ["a", "b"], "embedder": None}
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw/{partition}", tmp_path / "root", **fields)
    for verb in ("plan", "partitions"):
        done = call_command(verb, file)
        assert done.returncode == 1
        assert done.stderr.startswith("error: no object below")
        assert [row[0] for row in rows(done.stdout)][:4] == ["partition", "b", "b", "b"]


def test_what_is_wrong_with_all_partitions_is_said_once(call_command, tmp_path: Path, images, write_dataset) -> None:
    for partition in ("a", "b"):
        images(tmp_path / "raw" / partition, 3)
    fields = {"partitions": ["a", "b"], "embedder": {"model": "timm/resnet1"}}
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw/{partition}", tmp_path / "root", **fields)
    assert call_command("plan", file).stderr.count("'timm/resnet1' is unknown") == 1
    records = call_command("plan", file, "--json").stdout.splitlines()
    assert [json.loads(record)["partition"] for record in records if "error" in record] == ["a", "b"]


@pytest.mark.parametrize("engine", ["local", "beam"])
def test_what_a_stage_prints_is_no_result(
    command, tmp_path: Path, images, write_dataset, write_module, engine: str
) -> None:
    code = """
        from shardmill import SampleStage

        class Talks(SampleStage):
            name = "talks"

            def process(self, sample):
                print("on the way")
                return [sample]
    """
    images(tmp_path / "raw", 40)
    fields = {"transform": None, "embedder": None, "stages": [{"name": "own", "use": f"{write_module(code)}:Talks"}]}
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", **fields)
    done = in_a_process(command, "run", file, "--json", "--engine", engine, "--workers", 8)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["asset"] for line in done.stdout.splitlines()][-1] == "own"
    assert done.stderr.count("on the way") == 40


def test_what_the_dataset_has_once_is_planned_if_any_partition_needs_it(
    call_command, tmp_path: Path, images, write_dataset, embedder_of_tests
) -> None:
    (tmp_path / "raw/2026-01-01").mkdir(parents=True)
    images(tmp_path / "raw/2026-01-02", 3)
    days = {"by": "time", "every": "day", "start": "2026-01-01"}
    fields = {"partitions": days, "embedder": embedder_of_tests}
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw/%Y-%m-%d", tmp_path / "root", **fields)
    done = call_command("plan", file, "2026-01-01", "2026-01-02", "--json")
    [basis] = [row for row in map(json.loads, done.stdout.splitlines()) if row["asset"] == "embedding_basis"]
    assert basis["to_make"] == 1


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


def test_show_takes_a_key_as_it_stands_in_the_source(call_command, tmp_path: Path, images, write_dataset) -> None:
    images(tmp_path / "raw", 1)
    (tmp_path / "raw/image_00000.jpg").rename(tmp_path / "raw/an odd name.jpg")
    (tmp_path / "raw/image_00000.cls").unlink()
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", embedder=None)
    assert call_command("run", file).returncode == 0
    done = call_command("show", file, "--key", "an odd name")
    assert done.returncode == 0, done.stderr
    assert f"file://{tmp_path}/raw/an odd name.jpg" in done.stdout
    (tmp_path / "raw/an odd name.jpg").unlink()
    (tmp_path / "raw/empty.jpg").write_bytes(b"")
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", embedder=None, max_reject_ratio=1)
    assert call_command("run", file).returncode == 0
    assert "transformed_shards of p holds no samples" in call_command("show", file).stderr


def test_only_a_vector_of_more_elements_than_are_shown_is_cut() -> None:
    assert list(_cells({"v": [0.5] * 6})) == [f"6 dimensions, [{', '.join(['0.500'] * 6)}]"]
    assert list(_cells({"v": [0.5] * 7})) == [f"7 dimensions, [{', '.join(['0.500'] * 6)}, …]"]


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
        (
            ["show", "{file}", "a", "--asset", "embeddings"],
            "embeddings holds no samples; webdataset_shards, transformed_shards do",
        ),
        (["run", "{file}", "nowhere"], "nowhere"),
        (["verify", "{file}", "nowhere"], "there is no partition 'nowhere'; there are a, b"),
        (["plan", "{file}", "nowhere"], "there is no partition 'nowhere'; there are a, b"),
        (["partitions", "{file}", "nowhere"], "there is no partition 'nowhere'; there are a, b"),
        (["show", "{file}", "nowhere"], "there is no partition 'nowhere'; there are a, b"),
        (["show", "{file}", "a", "b"], "transformed_shards of b is not there; a sample is named by --key"),
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


def test_a_plan_says_of_how_many_partitions_it_could_say_nothing(base: Path, after_run: Run, call_command) -> None:
    done = call_command("plan", base / "d.yaml", "a", "nowhere")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "0 shards to make; 1 partition could not be planned"


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


def test_a_plan_says_beside_its_lines_how_far_it_has_looked_at_a_table(
    base: Path, tmp_path: Path, call_command
) -> None:
    (tmp_path / "t.csv").write_text(f"uri\n{base}/raw/a/image_00000.jpg\n")
    source = {"table": str(tmp_path / "t.csv"), "allow": [str(base / "raw")]}
    declared = {"name": "d", "root": str(tmp_path / "root"), "partitions": ["p"], "source": source}
    file = tmp_path / "d.yaml"
    file.write_text(json.dumps(declared))  # JSON is YAML
    done = call_command("plan", file)
    assert done.returncode == 0
    assert f"look up the objects of file://{tmp_path}/t.csv: 1 of 1 objects" in done.stderr
    assert [row[:2] for row in rows(done.stdout)][:2] == [["partition", "asset"], ["p", "raw_images"]]


def test_what_becomes_of_every_object_is_said(tmp_path: Path, images: Any, call_command) -> None:
    """By `run`, `partitions` and `plan`, for people and for scripts; also what lies beside the partitions."""
    images(tmp_path / "raw/a", 3)
    for name in ("a/._1.jpg", "a/.DS_Store", "a/x.txt", "loose.jpg"):
        (tmp_path / "raw" / name).write_bytes(b"x")
    (tmp_path / "raw/a/image_00000.jpg").rename(tmp_path / "raw/a/image_00000.png")  # is a JPEG
    source = {"uri": f"{tmp_path}/raw/{{partition}}", "exclude": ["*.txt"]}
    fields = {"source": source, "partitions": {"by": "prefix"}, "max_reject_ratio": 0.5}
    file = tmp_path / "d.yaml"
    declared = {"name": "d", "root": str(tmp_path / "root"), **fields}
    file.write_text(yaml.safe_dump(declared))
    by_rule = "3 left out (1 default: .DS_Store, 1 default: ._*, 1 exclude: *.txt)"
    done = call_command("run", file)
    assert f"a: 9 objects: 4 in samples, 2 in rejects, {by_rule}" in done.stdout.splitlines()
    for command in ("partitions", "plan"):
        lines = call_command(command, file).stdout.splitlines()
        assert f"9 objects: {by_rule}" in lines
        assert f"1 objects below file://{tmp_path}/raw are in no partition: loose.jpg" in lines
        assert not any("in no partition" in line for line in call_command(command, file, "a").stdout.splitlines())
    first = json.loads(call_command("partitions", file, "--json").stdout.splitlines()[0])
    assert (first["listed"], sum(first["left_out"].values())) == (9, 3)
    assert call_command("verify", file).returncode == 0
    said = call_command("show", file, "--key", "image_00000").stderr
    assert "has no sample 'image_00000': webdataset_shards of a rejected it, wrong extension" in said
    assert "/a/._1.jpg is left out, by default: ._*" in call_command("show", file, "--key", "._1.jpg").stderr
