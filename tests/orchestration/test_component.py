"""The `ImageDataset` component: from YAML to definitions, and from nothing to YAML."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from assets.common import partitions_of
from orchestration.component import ImageDataset, dataset_definitions
from orchestration.definitions import build_defs
from shardmill.dataset import load_dataset
from shardmill.partitions import TimePartitioning, partitioning_of

ATTRIBUTES = {
    "name": "tiny",
    "root": "/data/assets",
    "source": {"uri": "/data/raw/{partition}"},
    "partitions": ["a", "b"],
}
DEMO = "orchestration/defs/demo/defs.yaml"


def component(**changes: Any) -> ImageDataset:
    return ImageDataset.from_attributes_dict(attributes={**ATTRIBUTES, **changes})


def causes(error: BaseException | None) -> list[BaseException]:
    return [error, *causes(error.__cause__ or error.__context__)] if error else []


def test_a_variable_of_the_environment_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "/mnt/bucket")
    assert component(root="{{ env.BUCKET }}/assets").spec.root == "/mnt/bucket/assets"
    assert component(root="{{ env('BUCKET') }}/assets").spec.root == "/mnt/bucket/assets"


def test_a_variable_that_is_not_set_takes_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUCKET", raising=False)
    assert component(root="{{ env('BUCKET', '/tmp') }}/assets").spec.root == "/tmp/assets"


@pytest.mark.parametrize("template", ["{{ env.BUCKET }}/assets", "{{ env('BUCKET') }}/assets"])
def test_a_variable_that_is_not_set_is_an_error(monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    """And never the folder `None/assets`."""
    monkeypatch.delenv("BUCKET", raising=False)
    with pytest.raises(Exception, match="BUCKET") as caught:
        component(root=template)
    assert any("is not set" in str(error) for error in causes(caught.value))


def test_the_project_root_is_filled_in(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    assert component(root="{{ context.project_root }}/data").spec.root == f"{repository}/data"


def test_an_unknown_field_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="max_reject_ration") as caught:
        component(max_reject_ration=0.5)
    assert "is no field; did you mean 'max_reject_ratio'?" in str(caught.value)


def test_an_unknown_field_of_a_file_is_named_with_its_place(
    new_project: Callable[[], Path], run_in: Callable[..., Any]
) -> None:
    project = new_project()
    file = project / DEMO
    file.write_text(file.read_text().replace("max_reject_ratio", "max_reject_ration"))
    done = run_in(project, "dg", "check", "defs")
    assert done.returncode != 0
    assert "max_reject_ration" in done.stdout
    assert DEMO in done.stdout


def test_partitions_that_would_hold_the_same_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="every partition would hold the same samples"):
        component(source={"uri": "/data/raw"})


def test_both_loaders_read_the_same_dataset(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    attributes = yaml.safe_load(Path(DEMO).read_text())["attributes"]
    assert ImageDataset.from_attributes_dict(attributes=attributes).spec == load_dataset(Path(DEMO)).spec


def test_two_datasets_live_side_by_side() -> None:
    datasets = [dataset_definitions(component(name=name).spec) for name in ("one", "two")]
    defs = build_defs(dg.Definitions.merge(*datasets))
    assert {spec.key.path[0] for spec in defs.resolve_all_asset_specs()} == {"one", "two", "health"}
    assert len(list(defs.resolve_all_asset_specs())) == 6
    assert {job.name for job in defs.resolve_all_job_defs()} >= {"one_job", "two_job"}


@pytest.mark.slow
def test_a_copied_folder_is_another_dataset_and_a_scaffolded_one_too(
    new_project: Callable[[], Path], run_in: Callable[..., Any]
) -> None:
    """Adding a dataset needs no Python."""
    project = new_project()
    copy = project / "orchestration/defs/copied"
    shutil.copytree(project / "orchestration/defs/demo", copy)
    (copy / "defs.yaml").write_text((copy / "defs.yaml").read_text().replace("name: demo", "name: copied"))

    done = run_in(project, "dg", "scaffold", "defs", "orchestration.component.ImageDataset", "my-pets")
    assert done.returncode == 0, done.stdout
    scaffolded = load_dataset(project / "orchestration/defs/my-pets/defs.yaml").spec
    assert scaffolded.name == "my_pets"
    assert scaffolded.root == f"{project}/data/my_pets/assets"

    for check in ("defs", "yaml"):
        done = run_in(project, "dg", "check", check)
        assert done.returncode == 0, done.stdout
    code = """
from orchestration.definitions import build_defs
for spec in build_defs().resolve_all_asset_specs():
    if spec.key.path[0] != "health":
        print("asset", spec.key.to_user_string(), spec.metadata["shardmill/root"])
"""
    done = run_in(project, "python", "-W", "ignore", "-c", code)
    assets = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("asset ")]
    names = [name.partition("/")[0] for name, _ in assets]
    assert {name: names.count(name) for name in names} == {"demo": 6, "copied": 6, "my_pets": 6}
    assert {root for name, root in assets if name.startswith("demo/")} == {f"{project}/data/assets"}


def test_what_keeps_a_dataset_up_to_date_is_there_if_it_is_declared_and_on() -> None:
    plain = dataset_definitions(component().spec)
    assert [each.name for each in (*(plain.sensors or ()), *(plain.schedules or ()))] == ["tiny_committed"]
    declared = {"sensor": {}, "backfill": {"cron": "0 3 * * *"}, "automation": True, "fresh_hours": 24, "embedder": {}}
    kept = dataset_definitions(component(**declared, partitions_per_run=7).spec)
    sensors = {sensor.name: sensor.default_status for sensor in kept.sensors or ()}
    assert sensors == dict.fromkeys(
        ["tiny_committed", "tiny_new_objects", "tiny_automation"], dg.DefaultSensorStatus.RUNNING
    )
    schedules = {schedule.name: schedule.default_status for schedule in kept.schedules or ()}
    assert schedules == dict.fromkeys(["tiny_backfill", "tiny_health"], dg.DefaultScheduleStatus.RUNNING)
    assets = [asset for asset in kept.assets or () if isinstance(asset, dg.AssetsDefinition)]
    assert len(assets) == 5
    for asset in assets:
        assert asset.backfill_policy == dg.BackfillPolicy.multi_run(7)
        spec = asset.get_asset_spec()
        assert spec.freshness_policy is not None
        assert (spec.automation_condition is not None) == (asset.key.path[-1] != "raw_images")


@pytest.mark.parametrize(("every", "key"), [("hour", "2026-11-01-00"), ("day", "2026-11-01"), ("month", "2026-11")])
def test_dagster_s_windows_are_the_library_s(every: str, key: str) -> None:
    template = {"hour": "%Y/%m/%d/%H", "day": "%Y-%m-%d", "month": "%Y-%m"}[every]
    time = {"by": "time", "every": every, "start": "2026-11-01", "timezone": "UTC"}
    spec = component(source={"uri": f"/data/raw/{template}"}, partitions=time).spec
    definition = partitions_of(spec)
    keys = definition.get_partition_keys()
    assert keys[0] == key
    layout = partitioning_of(spec.partitions, spec.source.uri or "")
    assert isinstance(layout, TimePartitioning)
    now = datetime.now(UTC)
    assert list(keys) == layout.between(datetime(2026, 11, 1, tzinfo=UTC), now)
