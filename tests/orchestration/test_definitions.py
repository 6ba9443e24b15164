"""The code location: it loads light, validates, and holds the assets, their checks and a job."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from orchestration.definitions import build_defs
from resources.engine import EngineResource

ASSETS = [
    *("raw_images", "webdataset_shards", "transformed_shards", "embeddings"),
    *("embedding_basis", "embedding_map"),
]
KINDS = {
    "raw_images": {"parquet"},
    "webdataset_shards": {"webdataset", "tar"},
    "transformed_shards": {"webdataset", "torchvision"},
    "embeddings": {"parquet", "pytorch"},
    "embedding_basis": {"parquet"},
    "embedding_map": {"parquet", "matplotlib"},
}
CHECKS = {
    "raw_images": set(),
    "webdataset_shards": {"accounted_for", "nothing_lost", "readable"},
    "transformed_shards": {"nothing_lost", "readable"},
    "embeddings": {"nothing_lost", "sound", "same_class_neighbours", "one_model"},
    "embedding_basis": set(),
    "embedding_map": {"nothing_lost"},
    "health": {"failed_partitions"},
}
PARTITIONS = ["2026-01", "2026-02", "2026-03"]


@pytest.fixture(scope="module")
def specs() -> dict[str, dg.AssetSpec]:
    found = build_defs().resolve_all_asset_specs()
    assets = {spec.key.path[-1]: spec for spec in found if spec.key.path[0] == "demo"}
    return {**assets, **{spec.key.path[0]: spec for spec in found if spec.key.path == ["health", "demo"]}}


def test_loading_the_code_location_imports_nothing_heavy(run_in: Callable[..., object], demo_project: Path) -> None:
    code = """
import json, sys
import dagster as dg
from orchestration.definitions import build_defs
from resources.engine import EngineResource
dg.Definitions.validate_loadable(build_defs())
heavy = ["torch", "torchvision", "pandas", "pyarrow", "openvino", "matplotlib", "webdataset"]
heavy += ["timm", "open_clip", "huggingface_hub", "ray", "apache_beam"]
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = run_in(demo_project, "python", "-W", "ignore", "-c", code)
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize(
    "command",
    ["dagster definitions validate -w workspace.yaml", "dg check defs", "dg check yaml"],
)
def test_the_code_location_validates(
    repository: Path, demo_project: Path, run_in: Callable[..., object], command: str
) -> None:
    """In the repository itself, on the instance of another folder."""
    done = run_in(repository, *command.split(), home=demo_project / ".dagster")
    assert done.returncode == 0, done.stdout


def test_a_dataset_s_assets_are_made_one_of_the_other(specs: dict[str, dg.AssetSpec]) -> None:
    assert specs.keys() == {*ASSETS, "health"}
    assert [dep.asset_key.path for dep in specs["health"].deps] == [["demo", "embedding_map"]]
    upstream = {asset: [dep.asset_key.path[-1] for dep in specs[asset].deps] for asset in ASSETS}
    assert upstream == {
        "raw_images": [],
        "webdataset_shards": ["raw_images"],
        "transformed_shards": ["webdataset_shards"],
        "embeddings": ["transformed_shards"],
        "embedding_basis": ["embeddings"],
        "embedding_map": ["embeddings", "embedding_basis"],
    }


@pytest.mark.parametrize("asset", ASSETS)
def test_an_asset_says_what_it_is(specs: dict[str, dg.AssetSpec], asset: str) -> None:
    spec = specs[asset]
    assert spec.group_name == "demo"
    assert spec.kinds == KINDS[asset]
    assert spec.owners == ["team:shardmill"]
    assert spec.description is not None
    assert "photographs" in spec.description
    assert spec.code_version is not None
    assert re.fullmatch(r"[a-z]+-\d+-[0-9a-f]{8}", spec.code_version)
    assert spec.partitions_def is not None
    assert spec.partitions_def.get_partition_keys() == PARTITIONS


@pytest.mark.parametrize("asset", CHECKS)
def test_an_asset_has_its_checks(asset: str) -> None:
    keys = {key for checks in build_defs().asset_checks or [] for key in checks.check_keys}
    path = ["health", "demo"] if asset == "health" else ["demo", asset]
    assert {key.name for key in keys if key.asset_key.path == path} == CHECKS[asset]


def test_a_job_holds_the_dataset_with_its_checks() -> None:
    """But not that on failed partitions, which looks at all of them and runs on a schedule."""
    job = build_defs().resolve_job_def("demo_job")
    assert job.partitions_def is not None
    assert job.partitions_def.get_partition_keys() == PARTITIONS
    assert len(job.nodes) == len(ASSETS) + sum(len(CHECKS[asset]) for asset in ASSETS)


def test_no_file_imports_dagsters_private_modules(repository: Path) -> None:
    private = re.compile(r"^\s*(from|import)\s+dagster\w*(\.\w+)*\._", re.MULTILINE)
    folders = ("shardmill", "resources", "assets", "orchestration", "tests", "benchmarks", "examples")
    files = [file for folder in folders for file in (repository / folder).rglob("*.py")]
    assert len(files) > 50
    assert [str(file) for file in files if private.search(file.read_text())] == []


def test_other_resources_reach_the_io_manager_too() -> None:
    engine = EngineResource(workers=1)
    resources = build_defs(resource_overrides={"engine": engine}).resources or {}
    assert resources["engine"] is engine
    assert resources["shard_set_io_manager"].engine is engine


CALLS_OF_A_LOAD = """
import gc
import sys
gc.disable()
calls = 0
def count(frame, event, argument):
    global calls
    calls += event == "call"
import orchestration.definitions
sys.setprofile(count)
definitions = orchestration.definitions.build_defs().get_repository_def()
sys.setprofile(None)
print(len(definitions.sensor_defs), len(definitions.schedule_defs), calls)
"""


@pytest.mark.slow
def test_what_it_takes_to_load_grows_with_the_datasets_and_no_faster(
    new_project: Callable[[], Path], run_in: Callable[..., object]
) -> None:
    project = new_project()
    demo = project / "orchestration/defs/demo/defs.yaml"
    kept_up_to_date = "  sensor: {}\n  backfill: {cron: '0 3 * * *'}\n  automation: true\n"
    calls = []
    for number in range(1, 51):
        copy = project / f"orchestration/defs/d{number}/defs.yaml"
        copy.parent.mkdir()
        copy.write_text(demo.read_text().replace("name: demo", f"name: d{number}") + kept_up_to_date)
        if number in (10, 20, 50):
            done = run_in(project, "python", "-W", "ignore", "-c", CALLS_OF_A_LOAD)
            *defined, called = done.stdout.splitlines()[-1].split()
            assert defined == [str(3 * number + 2), str(2 * number)]
            calls.append(int(called))
    ten, twenty, fifty = calls
    assert fifty - twenty < 1.2 * 3 * (twenty - ten), calls
