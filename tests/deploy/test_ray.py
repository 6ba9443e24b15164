"""KubeRay's manifests: pods as Kubernetes accepts them, and names that fit those of the other manifests and of Ray."""

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from shardmill.devices import GPUSpec
from shardmill.engines.ray_sizes import ActorSize
from tests.deploy.conftest import DEPLOY
from tests.deploy.test_kubernetes import KUSTOMIZATION, VERSIONS, container, named

FOLDER = DEPLOY / "ray"
OWN: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
CLUSTER: dict[str, Any] = yaml.safe_load((FOLDER / "cluster.yaml").read_text())
HEAD: dict[str, Any] = CLUSTER["spec"]["headGroupSpec"]
WORKERS: list[dict[str, Any]] = CLUSTER["spec"]["workerGroupSpecs"]
FIELDS = {
    "": {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"},
    "autoscalerOptions": {"idleTimeoutSeconds", "imagePullPolicy", "resources", "securityContext"},
    "headGroupSpec": {"serviceType", "rayStartParams", "template"},
    "workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}
"""Those of a RayCluster of `ray.io/v1` that are used. What a template holds is Kubernetes' own."""


def test_they_have_the_fields_of_a_ray_cluster() -> None:
    assert (CLUSTER["apiVersion"], CLUSTER["kind"]) == ("ray.io/v1", "RayCluster")
    assert set(CLUSTER["spec"]) == FIELDS[""]
    assert set(CLUSTER["spec"]["autoscalerOptions"]) == FIELDS["autoscalerOptions"]
    assert set(HEAD) == FIELDS["headGroupSpec"]
    for group in WORKERS:
        assert set(group) == FIELDS["workerGroupSpecs"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (HEAD, *WORKERS):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field_of_the_pods(version: str) -> None:
    for group in (HEAD, *WORKERS):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, version, strict=True)
    for policy in yaml.safe_load_all((FOLDER / "access.yaml").read_text()):
        kubernetes_validate.validate(policy, version, strict=True)


def test_kustomize_builds_them(kubectl: str) -> None:
    built = subprocess.run([kubectl, "kustomize", str(FOLDER)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    [image] = OWN["images"]
    assert built.stdout.count(f"image: {image['newName']}:{image['newTag']}") == 1 + len(WORKERS)


def test_image_variables_secrets_and_account_are_those_of_the_others() -> None:
    assert OWN["images"] == KUSTOMIZATION["images"]
    assert OWN["namespace"] == KUSTOMIZATION["namespace"]
    assert set(OWN["resources"]) == {file.name for file in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    [account] = named("ServiceAccount")
    for group in WORKERS:
        pod = group["template"]["spec"]
        [worker] = pod["containers"]
        assert pod["serviceAccountName"] == account
        assert worker["envFrom"] == container("daemon")["envFrom"]
    for group in (HEAD, *WORKERS):
        pod = group["template"]["spec"]
        assert pod["securityContext"] == named("Deployment")["daemon"]["spec"]["template"]["spec"]["securityContext"]
        [only] = pod["containers"]
        assert only["image"] == container("daemon")["image"]
        assert only["securityContext"] == container("daemon")["securityContext"]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in only["env"]


def test_ray_is_the_version_that_is_installed() -> None:
    pins = (DEPLOY.parent / "constraints.txt").read_text()
    assert re.findall(r"^ray==(.*)$", pins, re.MULTILINE) == [CLUSTER["spec"]["rayVersion"]]


def test_the_label_of_the_gpu_workers_is_what_the_engine_asks_for() -> None:
    [group] = [each for each in WORKERS if each["groupName"] == "l4"]
    asked = ActorSize(7, 2 << 30, GPUSpec(accelerator="nvidia-l4")).options()["label_selector"]
    assert asked == dict([group["rayStartParams"]["labels"].split("=")])
    assert asked == group["template"]["spec"]["nodeSelector"]


def test_the_address_in_the_documents_is_that_of_the_head_s_service() -> None:
    service = f"ray://{CLUSTER['metadata']['name']}-head-svc:"
    [head] = HEAD["template"]["spec"]["containers"]
    [port] = [each["containerPort"] for each in head["ports"] if each["name"] == "client"]
    for page in (DEPLOY / "README.md", Path(DEPLOY.parent / "docs/engines.md")):
        assert re.findall(r"ray://[\w-]+svc:\d+", page.read_text()) in ([f"{service}{port}"], [f"{service}{port}"] * 2)
