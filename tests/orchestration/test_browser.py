"""The Dagster UI, in a real browser: what a person sees and clicks."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from tests.servers.processes import free_ports
from tests.small import ASSETS, BASIS

GOOD = "2026-03"  # one reject of 34 samples
BAD, ALSO_BAD = "2026-01", "2026-02"  # two rejects of 35 samples: more than max_reject_ratio
WAIT = 60_000
"""Milliseconds that a page may take on a busy machine."""
expect.set_options(timeout=WAIT)
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


TWO = """\
type: orchestration.component.ImageDataset
attributes:
  name: two
  source: {uri: "{{ context.project_root }}/data/demo/raw/2026-03"}
  partitions: [only]
  root: "{{ context.project_root }}/data/assets"
  max_reject_ratio: 0.05
  transforms:
    tiles: {operations: [{operation: Resize, arguments: {size: 96}}], masks: [mask.png]}
    views: {of: transformed_shards_tiles, operations: [{operation: RandomHorizontalFlip}], masks: [mask.png]}
  embedders:
    views: {of: transformed_shards_views}
    raw: {of: webdataset_shards, component: jpg, dtype: float16}
"""


class Ui:
    """A running `dagster dev`, and a page that shows it."""

    def __init__(self, url: str, page: Page) -> None:
        self.url = url
        self.page = page
        self.page.set_default_timeout(WAIT)

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)

    def keep(self, name: str) -> None:
        """Save a screenshot if somebody wants to look at it."""
        if folder := os.environ.get("SHARDMILL_SCREENSHOTS"):
            self.page.wait_for_timeout(700)  # dialogs fade in
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder, f"{name}.png"))

    def query(self, text: str) -> Any:
        """Ask the server's GraphQL."""
        request = urllib.request.Request(
            f"{self.url}/graphql", json.dumps({"query": text}).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)["data"]

    def runs(self) -> list[tuple[str, str, str]]:
        """(id, status, partition) of every run."""
        answer = self.query("{runsOrError {... on Runs {results {id status tags {key value}}}}}")
        results = answer["runsOrError"]["results"]
        tags = [{tag["key"]: tag["value"] for tag in run["tags"]} for run in results]
        return [
            (run["id"], run["status"], tag.get("dagster/partition") or tag["dagster/asset_partition_range_start"])
            for run, tag in zip(results, tags, strict=True)
        ]

    def materialize_by_clicking(self, partition: str, group: str = "demo") -> tuple[str, str]:
        """Materialize the group's assets as a person does. Returns the run's id and how it ended."""
        self.open(f"/locations/shardmill/asset-groups/{group}")
        self.page.get_by_role("button", name="Materialize all").click()
        self.page.get_by_text("Select a partition or create one").click()
        self.page.get_by_text(partition, exact=True).first.click()
        self.keep(f"launch-{partition}")
        self.page.get_by_role("button", name="Launch 1 run").click()
        return self.wait_for(partition)

    def wait_for(self, partition: str, known: Collection[str] = ()) -> tuple[str, str]:
        """The first run over a partition, or a range from it on, that ends and is not `known`; and how it ended."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            for run, status, of in self.runs():
                if of == partition and run not in known and status in ("SUCCESS", "FAILURE", "CANCELED"):
                    return run, status
            time.sleep(0.5)
        raise AssertionError(f"the run did not end: {self.runs()}")

    def shown_picture(self, path: str, name: str) -> tuple[int, int]:
        """Open the one Markdown value on a page and return the size of the picture that it shows."""
        self.open(path)
        self.page.get_by_text("[Show Markdown]").click()
        picture = self.page.locator("img[src^='data:image']").last
        expect(picture).to_be_visible()
        self.page.wait_for_function("[...document.images].every(image => image.complete)")
        self.keep(name)
        return picture.evaluate("image => [image.naturalWidth, image.naturalHeight]")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium: install Debian's package `chromium`")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"),
            executable_path=program,
            args=CHROMIUM_OPTIONS,
            viewport={"width": 1500, "height": 1000},
        )
        yield context
        context.close()


@pytest.fixture(scope="module")
def server(browser: BrowserContext, demo_project: Path, environment: Callable[[Path], dict[str, str]]) -> Iterator[str]:
    """URL of `dagster dev` on the demo project. Asks for the browser first: without one, nothing is started."""
    [port] = free_ports(1)
    dataset = demo_project / "orchestration/defs/demo/defs.yaml"
    dataset.write_text(f"{dataset.read_text()}  partitions_per_run: 2\n")
    (demo_project / "orchestration/defs/two").mkdir()
    (demo_project / "orchestration/defs/two/defs.yaml").write_text(TWO)
    log = demo_project / "dev.log"
    command = [str(Path(sys.executable).parent / "dagster"), "dev", "-w", "workspace.yaml"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "-p", str(port)],
            cwd=demo_project,
            env=environment(demo_project),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _await_ready(url, process, log)
        yield url
    finally:
        _stop(process)


def _await_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=30):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()
            time.sleep(0.25)
    raise AssertionError(f"dagster dev did not become ready:\n{log.read_text()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started: the process group is its own."""
    os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)


@pytest.fixture(scope="module")
def ui(browser: BrowserContext, server: str) -> Ui:
    return Ui(server, browser.new_page())


@pytest.fixture(scope="module")
def good_run(ui: Ui) -> str:
    """A partition materialized by clicking; the run's id."""
    run, status = ui.materialize_by_clicking(GOOD)
    assert status == "SUCCESS"
    return run


def test_the_asset_graph_shows_the_assets_of_the_demo_dataset(ui: Ui) -> None:
    ui.open("/locations/shardmill/asset-groups/demo")
    for asset in (*ASSETS, BASIS):
        expect(ui.page.get_by_text(asset, exact=True).first).to_be_visible()
    ui.keep("asset-graph")


def test_two_transforms_and_two_embedders_are_drawn_and_materialized_by_clicking(ui: Ui) -> None:
    ui.open("/locations/shardmill/asset-groups/two")
    expect(ui.page.get_by_text("embeddings_views", exact=True).first).to_be_visible()  # longer names are cut
    ui.keep("two-by-two")
    group = '{groupName: "two", repositoryName: "__repository__", repositoryLocationName: "shardmill"}'
    nodes = ui.query(f"{{assetNodes(group: {group}) {{assetKey {{path}} dependencyKeys {{path}}}}}}")["assetNodes"]
    found = {node["assetKey"]["path"][-1]: {key["path"][-1] for key in node["dependencyKeys"]} for node in nodes}
    assert found["transformed_shards_views"] == {"transformed_shards_tiles"}
    assert found["embeddings_views"] == {"transformed_shards_views"}
    assert found["embeddings_raw"] == {"webdataset_shards"}
    assert found["embedding_map_raw"] == {"embeddings_raw", "embedding_basis_raw"}
    run, status = ui.materialize_by_clicking("only", "two")
    assert status == "SUCCESS"
    ui.open(f"/runs/{run}")
    expect(ui.page.get_by_text("10 assets")).to_be_visible()


def test_a_partition_is_materialized_by_clicking(ui: Ui, good_run: str) -> None:
    ui.open(f"/runs/{good_run}")
    expect(ui.page.get_by_text("Success", exact=True).first).to_be_visible()
    expect(ui.page.get_by_text("6 assets")).to_be_visible()
    ui.keep("run")


@pytest.mark.parametrize("asset", ["webdataset_shards", "transformed_shards"])
def test_a_contact_sheet_shows_pictures(ui: Ui, good_run: str, asset: str) -> None:
    width, height = ui.shown_picture(f"/assets/demo/{asset}?view=partitions&partition={GOOD}", f"sheet-{asset}")
    assert width > 800
    assert height > 200


def test_the_map_shows_its_scatter(ui: Ui, good_run: str) -> None:
    width, height = ui.shown_picture(f"/assets/demo/embedding_map?view=partitions&partition={GOOD}", "scatter")
    assert width > 500
    assert height > 300


@pytest.mark.parametrize("asset", ASSETS)
def test_what_was_just_materialized_is_not_shown_as_stale(ui: Ui, good_run: str, asset: str) -> None:
    with ui.page.expect_response(lambda response: "AssetPartitionStaleQuery" in (response.request.post_data or "")):
        ui.open(f"/assets/demo/{asset}?view=partitions&partition={GOOD}")
    expect(ui.page.get_by_text("Materialized", exact=True).first).to_be_visible()
    expect(ui.page.get_by_text("dagster/row_count", exact=True)).to_be_visible()
    ui.keep(f"partition-{asset}")
    assert ui.page.get_by_text("Unsynced").count() == 0


@pytest.mark.parametrize(
    ("asset", "checks"),
    [
        ("transformed_shards", ["nothing_lost", "readable"]),
        ("embeddings", ["nothing_lost", "sound", "same_class_neighbours", "one_model"]),
    ],
)
def test_the_checks_tab_shows_passed_checks(ui: Ui, good_run: str, asset: str, checks: list[str]) -> None:
    for check in checks:
        ui.open(f"/assets/demo/{asset}?view=checks&checkDetail={check}")
        expect(ui.page.get_by_text(check, exact=True).first).to_be_visible()
        expect(ui.page.get_by_text("Passed", exact=True).first).to_be_visible()
    ui.keep(f"checks-{asset}")


def test_a_failed_run_shows_one_error_in_plain_words(ui: Ui, good_run: str) -> None:
    run, status = ui.materialize_by_clicking(BAD)
    assert status == "FAILURE"
    ui.open(f"/runs/{run}")
    ui.page.get_by_text(re.compile("2 of 35 samples .* were rejected, more than max_reject_ratio")).first.wait_for()
    ui.keep("failed-run")
    ui.open("/locations/shardmill/asset-groups/demo")
    ui.page.get_by_text("embedding_map").first.wait_for()
    ui.keep("asset-graph-afterwards")


@pytest.mark.slow
def test_a_backfill_of_a_range_ends_with_a_result_for_each_partition(ui: Ui, good_run: str) -> None:
    """Two partitions share a run, and one of them fails: the other is carried on with."""
    before = {run for run, _, _ in ui.runs()}
    ui.open("/locations/shardmill/asset-groups/demo")
    ui.page.get_by_role("button", name="Materialize all").click()
    ui.page.get_by_text("Select a partition or create one").click()
    for partition in (ALSO_BAD, GOOD):
        ui.page.get_by_text(partition, exact=True).first.click()
    ui.keep("launch-range")
    ui.page.get_by_role("button", name="Launch backfill").click()

    failed, status = ui.wait_for(ALSO_BAD, before)
    assert status == "FAILURE"
    assert ui.wait_for(GOOD, before)[1] == "SUCCESS"
    width, _ = ui.shown_picture(f"/assets/demo/webdataset_shards?view=partitions&partition={GOOD}", "sheet-range")
    assert width > 800
    ui.open(f"/assets/demo/webdataset_shards?view=partitions&partition={ALSO_BAD}")
    expect(ui.page.get_by_text(re.compile("failed, and did not materialize this asset"))).to_be_visible()
    ui.keep("failed-partition")
    ui.page.get_by_text(failed[:8]).first.click()
    ui.page.get_by_text(re.compile("1 of 2 partitions failed")).first.wait_for()
    ui.page.get_by_text(re.compile(f"{ALSO_BAD}.*2 of 35 samples .* were rejected")).first.wait_for()
    ui.keep("failed-range")
