"""Makes the README's pictures: `.venv/bin/python docs/draw_pictures.py`. Needs Chromium for the graph.

Runs the demo in a temporary folder, through Dagster, and takes what a user sees there: from its UI, and from metadata
of its materializations.
"""

import base64
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import dagster as dg
from PIL import Image
from playwright.sync_api import sync_playwright

from shardmill.demo import make_demo_dataset
from tests.projects import CONTROL_PLANE
from tests.servers.processes import free_ports

REPOSITORY = Path(__file__).parents[1]
PICTURES = REPOSITORY / "docs/pictures"
DEMO = "orchestration/defs/demo/defs.yaml"
PARTITION = "2026-01"
SIZE = {"width": 1500, "height": 620}


def main() -> None:
    """Draw them all."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        for name in CONTROL_PLANE:
            copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
            copy(REPOSITORY / name, project / name)
        (project / ".dagster").mkdir()
        (project / ".dagster/dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
        make_demo_dataset(project / "data/demo/raw")
        os.environ |= {"DAGSTER_HOME": str(project / ".dagster"), "PYTHONPATH": str(project)}
        subprocess.run([sys.executable, "-m", "orchestration.materialize", DEMO], cwd=project, check=True)
        with dg.DagsterInstance.get() as instance:
            keep("contact_sheet", shown(instance, "transformed_shards", "contact sheet"))
            keep("map", shown(instance, "embedding_map", "map"))
        keep("graph", graph(project))


def shown(instance: dg.DagsterInstance, asset: str, name: str) -> bytes:
    """A picture in the metadata of an asset's materialization."""
    filters = dg.AssetRecordsFilter(dg.AssetKey(["demo", asset]), asset_partitions=[PARTITION])
    [record] = instance.fetch_materializations(filters, limit=1).records
    assert record.asset_materialization is not None
    found = re.search(r"base64,([A-Za-z0-9+/=]+)", str(record.asset_materialization.metadata[name].value))
    assert found is not None
    return base64.b64decode(found[1])


def graph(project: Path) -> bytes:
    """The demo's assets as Dagster's UI draws them."""
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    program = str(Path(sys.executable).with_name("dagster-webserver"))
    command = [program, "-w", "workspace.yaml", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not answers(f"{url}/server_info"):
            time.sleep(0.5)
        with sync_playwright() as playwright:
            program = shutil.which("chromium") or sys.exit("install Chromium first")
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
            page.goto(f"{url}/locations/shardmill/asset-groups/demo")
            page.get_by_text("embedding_map", exact=True).first.wait_for()
            page.wait_for_timeout(5_000)  # the states of the partitions come one by one
            picture = page.screenshot()
            browser.close()
        return picture
    finally:
        server.terminate()
        server.wait(30)


def answers(url: str) -> bool:
    """Whether there is a server by now."""
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except OSError:
        return False


def keep(name: str, data: bytes) -> None:
    """Write a small PNG."""
    with Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("RGB").quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        small.save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
