"""`python -m orchestration.materialize`: a dataset brought up to date through Dagster, on real photographs."""

import base64
import hashlib
import os
import re
import resource
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from orchestration.materialize import main
from shardmill.demo import planted_rejects
from tests.small import ASSETS, BASIS

GOOD = "2026-03"
SAMPLES, REJECTS = 34, 1
DEMO = "orchestration/defs/demo/defs.yaml"

Metadata = dict[str, dg.MetadataValue[Any]]


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(file.relative_to(folder)): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.fixture(scope="module")
def project(demo_project: Path, new_project: Callable[[], Path]) -> Path:
    """A project of its own, so that the browser's runs don't show here; on the same raw photographs."""
    project = new_project()
    (project / "data").mkdir()
    (project / "data/demo").symlink_to(demo_project / "data/demo")
    return project


@pytest.fixture(scope="module")
def first(project: Path, run_in: Callable[..., Any]) -> Any:
    """The first run: the first two partitions hold more rejects than allowed, the third does not."""
    return run_in(project, "python", "-m", "orchestration.materialize", DEMO)


@pytest.fixture(scope="module")
def instance(first: Any, project: Path) -> Iterator[dg.DagsterInstance]:
    """The project's Dagster instance, after the first run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(project / ".dagster"))
        with dg.DagsterInstance.get() as opened:
            yield opened


@pytest.fixture(scope="module")
def metadata(instance: dg.DagsterInstance) -> dict[str, Metadata]:
    """Of the good partition's materialization of each asset."""
    found = {}
    for asset in ASSETS:
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(["demo", asset]), asset_partitions=[GOOD]), limit=10
        ).records
        [record] = records
        assert record.asset_materialization is not None
        found[asset] = dict(record.asset_materialization.metadata)
    return found


def picture(value: dg.MetadataValue[Any]) -> np.ndarray[Any, Any]:
    assert isinstance(value, dg.MarkdownMetadataValue)
    match = re.fullmatch(r"!\[[^]]*\]\(data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)\)", value.md_str or "")
    assert match
    with Image.open(BytesIO(base64.b64decode(match[2], validate=True))) as image:
        return np.asarray(image.convert("RGB"))


def test_a_partition_with_too_many_rejects_fails_in_plain_words_and_the_others_are_made(first: Any) -> None:
    assert first.returncode == 1
    ends = first.stdout[first.stdout.rindex("Stored below") - 4000 :]
    ends = re.sub(r"\s+", " ", ends)
    for partition in ("2026-01", "2026-02"):
        assert f"{partition} failed: demo/webdataset_shards/{partition}: 2 of 35 samples (5.7%) were rejected" in ends
    assert "raise max_reject_ratio" in ends
    assert f"{GOOD} failed" not in ends


def test_it_ends_with_a_table_of_what_is_stored(first: Any) -> None:
    [row] = [line for line in first.stdout.splitlines() if line.startswith(f"│ {GOOD}")]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:6] == [GOOD, str(SAMPLES), *[str(SAMPLES - REJECTS)] * 4]
    assert re.fullmatch(r"[\d.]+ MB", cells[6])
    assert cells[7:] == ["1 × too many pixels"]


def test_it_says_how_fast_each_asset_was_made(first: Any) -> None:
    [row] = [line for line in first.stdout.splitlines() if line.startswith("│ embeddings ")]
    name, samples, seconds, rate, milliseconds = (cell.strip() for cell in row.strip("│").split("│"))
    assert (name, samples) == ("embeddings", str(SAMPLES - REJECTS))
    assert float(seconds) > 0
    assert 0.9 < float(rate.replace(",", "")) * float(milliseconds) / 1e3 < 1.1


def test_an_error_is_told_once_and_not_as_a_crash_of_our_own(first: Any) -> None:
    """Dagster's log shows the step's failure; our process ends by itself."""
    assert "Traceback (most recent call last)" not in first.stdout[first.stdout.rindex("Stored below") :]
    assert "BetaWarning" not in first.stdout
    assert "DeprecationWarning" not in first.stdout


@pytest.fixture(scope="module")
def complete(first: Any, instance: dg.DagsterInstance, metadata: Any, project: Path, run_in: Any) -> Any:
    """The second run, after max_reject_ratio was raised: all three partitions are there."""
    file = project / DEMO
    file.write_text(file.read_text().replace("max_reject_ratio: 0.05", "max_reject_ratio: 0.06"))
    return run_in(project, "python", "-m", "orchestration.materialize", DEMO)


def test_the_next_run_makes_what_is_missing_and_nothing_else(complete: Any) -> None:
    assert complete.returncode == 0, complete.stdout
    assert "2026-01: materializing" in complete.stdout
    assert f"{GOOD}: materializing" not in complete.stdout


def processor_seconds() -> float:
    """Of the processes that this one has started and waited for: a busy machine adds none."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_run_with_nothing_to_do_says_so_takes_seconds_and_rewrites_nothing(
    complete: Any, project: Path, run_in: Callable[..., Any]
) -> None:
    before = snapshot(project / "data/assets")
    used = processor_seconds()
    done = run_in(project, "python", "-m", "orchestration.materialize", DEMO)
    assert processor_seconds() - used < 20
    assert done.returncode == 0
    assert "no work was done" in done.stdout
    assert "materializing" not in done.stdout
    assert snapshot(project / "data/assets") == before


def test_a_source_that_moved_fails_its_partition_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}")
    for partition in ("a", "b"):
        (tmp_path / "raw" / partition).mkdir(parents=True)
        for number in range(3):
            image = Image.effect_noise((40 + number, 40), 60).convert("RGB")
            image.save(tmp_path / "raw" / partition / f"{partition}{number}.png")
    file = tmp_path / "tiny.yaml"
    file.write_text(
        f"{{name: tiny, root: {tmp_path}/out, partitions: [a, b], source: {{uri: '{tmp_path}/raw/{{partition}}'}}}}"
    )
    assert main(file) == 0

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "raw/b").rename(tmp_path / "elsewhere/b")
    file.write_text(file.read_text().replace(f"{tmp_path}/raw/", f"{tmp_path}/elsewhere/"))
    Image.effect_noise((50, 40), 60).save(tmp_path / "elsewhere/b/new.png")
    capsys.readouterr()
    assert main(file) == 1
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert f"a failed: no object below file://{tmp_path}/elsewhere/a/: check the source's uri" in said
    assert "b failed" not in said
    assert "│ b │ 4 " in said


def test_a_file_that_is_no_dataset_is_told_in_one_line(project: Path, run_in: Callable[..., Any]) -> None:
    done = run_in(project, "python", "-m", "orchestration.materialize", "nothing.yaml")
    assert done.returncode == 1
    assert done.stdout == "error: cannot read the dataset file nothing.yaml: No such file or directory\n"


def test_without_an_instance_it_says_what_to_set(
    project: Path, run_in: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_in(project, "env", "-u", "DAGSTER_HOME", "python", "-m", "orchestration.materialize", DEMO)
    assert done.returncode == 1
    assert "The environment variable $DAGSTER_HOME is not set" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("asset", ASSETS)
def test_metadata_holds_counts_rate_and_place(metadata: dict[str, Metadata], project: Path, asset: str) -> None:
    values = {name: value.value for name, value in metadata[asset].items()}
    rows = SAMPLES if asset == "raw_images" else SAMPLES - REJECTS
    rejects = REJECTS if asset == "webdataset_shards" else 0
    assert values["dagster/row_count"] == rows
    assert values["samples in"] == rows + rejects
    assert values["rejects"] == rejects
    assert values["filtered"] == 0
    assert values["shards"] == values["shards made"] == 1
    assert values["seconds"] > 0
    exact = values["seconds"] - 0.006, values["seconds"] + 0.006  # it is rounded
    assert rows / exact[1] - 1 <= values["samples per second"] <= rows / max(exact[0], 1e-3) + 1
    assert values["dagster/uri"] == f"file://{project}/data/assets/demo/{asset}/{GOOD}"
    [file] = (project / "data/assets/demo" / asset / GOOD).iterdir()
    assert values["bytes"] == file.stat().st_size
    assert {"python", "shardmill"} <= values["software"].keys()


@pytest.mark.parametrize("asset", ASSETS)
def test_the_metadata_of_a_materialization_is_small(metadata: dict[str, Metadata], asset: str) -> None:
    """Every page of the UI loads it."""
    assert sum(len(str(value.value)) for value in metadata[asset].values()) < 300_000


def test_rejects_are_listed_with_their_reason(metadata: dict[str, Metadata], project: Path) -> None:
    [(key, reason)] = planted_rejects(GOOD).items()
    counts, rejected = (metadata["webdataset_shards"][name] for name in ("rejects by reason", "rejected samples"))
    assert isinstance(counts, dg.TableMetadataValue)
    assert isinstance(rejected, dg.TableMetadataValue)
    assert [record.data for record in counts.records] == [{"reason": reason, "samples": 1}]
    [record] = [record.data for record in rejected.records]
    assert (record["key"], record["reason"]) == (key, reason)
    assert record["object"] == f"file://{project}/data/demo/raw/{GOOD}/{key}.jpg"
    assert "rejects by reason" not in metadata["transformed_shards"]


@pytest.mark.parametrize(
    ("asset", "columns"),
    [
        ("raw_images", {"key", "component", "uri", "size", "version"}),
        ("embeddings", {"key", "embedding", "cls", "source_uri", "source_version", "source_sha256"}),
        ("embedding_map", {"key", "x", "y", "cls"}),
    ],
)
def test_a_table_shows_its_schema(metadata: dict[str, Metadata], asset: str, columns: set[str]) -> None:
    schema = metadata[asset]["dagster/column_schema"].value
    assert isinstance(schema, dg.TableSchema)
    assert {column.name for column in schema.columns} >= columns
    if asset == "embeddings":
        [embedding] = [column for column in schema.columns if column.name == "embedding"]
        assert embedding.type == "fixed_size_list<element: float not null>[1280]"
        assert embedding.constraints.nullable is False


@pytest.mark.parametrize("asset", ["webdataset_shards", "transformed_shards"])
def test_a_contact_sheet_shows_photographs(metadata: dict[str, Metadata], asset: str) -> None:
    pixels = picture(metadata[asset]["contact sheet"])
    assert pixels.shape == (6 + 3 * 133, 6 + 8 * 118, 3)  # three rows of eight tiles
    for row in range(3):
        for column in range(8):
            tile = pixels[6 + row * 133 :, 6 + column * 118 :][:112, :112]
            assert tile.std() > 10, "a blank tile"


def test_the_map_shows_points_of_many_colours(metadata: dict[str, Metadata]) -> None:
    pixels = picture(metadata["embedding_map"]["map"])
    assert pixels.shape == (560, 840, 3)
    saturated = pixels[(np.ptp(pixels.astype(int), axis=2) > 60)]
    assert len(np.unique(saturated // 64, axis=0)) >= 6


def test_every_check_ran_on_the_partition_and_passed(instance: dg.DagsterInstance) -> None:
    [run] = [run for run in instance.get_runs() if run.tags["dagster/partition"] == GOOD]
    logs = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    evaluations = [entry.get_dagster_event().asset_check_evaluation_data for entry in logs]
    found = {(evaluation.asset_key.path[-1], evaluation.check_name) for evaluation in evaluations}
    assert found == {
        *((asset, "nothing_lost") for asset in ASSETS[1:]),
        ("webdataset_shards", "accounted_for"),
        ("webdataset_shards", "readable"),
        ("transformed_shards", "readable"),
        ("embeddings", "sound"),
        ("embeddings", "one_model"),
        ("embeddings", "same_class_neighbours"),
    }
    assert all(evaluation.passed for evaluation in evaluations), evaluations
    assert {evaluation.partition for evaluation in evaluations} == {GOOD}


def test_the_log_has_a_few_readable_lines_an_asset(instance: dg.DagsterInstance) -> None:
    [run] = [run for run in instance.get_runs() if run.tags["dagster/partition"] == GOOD]
    lines = [entry.user_message for entry in instance.all_logs(run.run_id) if entry.dagster_event is None]
    made = [line for line in lines if line.startswith(f"demo/embeddings/{GOOD}: ")]
    assert len(made) == 1
    assert re.fullmatch(r".*: 1 of 1 shards made, 0 stood already; \d+ samples computed, 0 copied", made[0])
    assert len(lines) <= 3 * len([*ASSETS, BASIS]), os.linesep.join(lines)
    assert all(len(line) < 200 for line in lines)
