"""The transform server's image, its spec for AIStore and its manifest: they fit the code, the SDK and Kubernetes."""

import base64
import io
import pickle
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from aistore.sdk.etl.etl import Etl
from aistore.sdk.etl.webserver.base_etl_server import ETLServer
from packaging.requirements import Requirement

from shardmill.dataset import load_dataset
from shardmill.serving.server import DatasetServer
from tests.deploy.conftest import DEPLOY

FOLDER = DEPLOY / "serve"
ROOT = DEPLOY.parent
RECIPE = re.sub(r"\\\n\s*", "", (FOLDER / "Dockerfile").read_text())
SPEC: dict[str, Any] = yaml.safe_load((FOLDER / "etl.yaml").read_text())


class Cluster:
    """Stands in for the SDK's client: what it was asked to request."""

    def __init__(self) -> None:
        self.message: dict[str, Any] = {}

    def request(self, method: str, path: str, timeout: object, json: dict[str, Any]) -> httpx.Response:
        assert (method, path) == ("put", "etl")
        self.message = json
        return httpx.Response(200, text="job")


def test_what_the_image_copies_is_there_and_let_through() -> None:
    copied = {source for line in re.findall(r"^COPY (.*)$", RECIPE, re.MULTILINE) for source in line.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    ignore = (FOLDER / "Dockerfile.dockerignore").read_text()
    assert set(re.findall(r"^!(.+)$", ignore, re.MULTILINE)) == copied


def test_the_image_installs_the_extra() -> None:
    [install] = [shlex.split(line) for line in re.findall(r"^RUN (pip install .*)$", RECIPE, re.MULTILINE)]
    assert install[install.index("--constraint") + 1] == "constraints.txt"
    extras = Requirement(f"shardmill{install[install.index('--editable') + 1].removeprefix('.')}").extras
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"serve"} <= extras <= set(offered)


def test_the_dataset_file_can_be_served() -> None:
    DatasetServer(load_dataset(FOLDER / "dataset.yaml"))


def test_the_spec_is_what_the_sdk_sends() -> None:
    cluster = Cluster()
    etl = Etl(cluster, SPEC["name"])
    etl.init(
        SPEC["runtime"]["image"],
        SPEC["runtime"]["command"],
        comm_type="hpush",
        init_timeout=SPEC["init_timeout"],
        obj_timeout=SPEC["obj_timeout"],
        direct_put=True,
    )
    assert cluster.message == SPEC


def test_a_class_goes_to_aistores_runtime_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime takes nothing but subclasses of `ETLServer` that it can import, and makes one without arguments."""
    cluster, text = Cluster(), (FOLDER / "dataset.yaml").read_text()
    sent = Etl(cluster, "pets-crops").init_class(dependencies=["shardmill[serve]"], SHARDMILL_DATASET=text)(
        DatasetServer
    )
    assert sent is DatasetServer
    variables = {each["name"]: each["value"] for each in cluster.message["runtime"]["env"]}
    assert variables["PACKAGES"] == "shardmill[serve]"

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = super().find_class(module, name)
            assert issubclass(found, ETLServer)
            return found

    loaded = Restricted(io.BytesIO(base64.b64decode(variables["ETL_CLASS_PAYLOAD"]))).load()
    monkeypatch.setenv("SHARDMILL_DATASET", variables["SHARDMILL_DATASET"])
    monkeypatch.setenv("AIS_TARGET_URL", "http://127.0.0.1:9")
    assert loaded().host_target == "http://127.0.0.1:9"
    file = tmp_path / "dataset.yaml"
    file.write_text(text)
    monkeypatch.setenv("SHARDMILL_DATASET", str(file))
    loaded()


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_kubernetes_knows_every_field_of_the_manifest(version: str) -> None:
    deployment, service = yaml.safe_load_all((FOLDER / "deployment.yaml").read_text())
    for manifest in (deployment, service):
        kubernetes_validate.validate(manifest, version, strict=True)
    pod = deployment["spec"]["template"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"] == deployment["spec"]["selector"]["matchLabels"]
    [container] = pod["spec"]["containers"]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert f"--port={container['ports'][0]['containerPort']}" in container["args"]
