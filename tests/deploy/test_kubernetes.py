"""The manifests are what Kubernetes accepts and fit together, and the Jobs that Dagster makes of runs are as well."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import kubernetes_validate
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.deploy.conftest import DEPLOY, MakeInstance
from tests.deploy.kubernetes_api import KubernetesAPI
from tests.deploy.services import Services

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
LAUNCHER: dict[str, Any] = yaml.safe_load((FOLDER / "run_launcher.yaml").read_text())["run_launcher"]["config"]
NAMESPACE = KUSTOMIZATION["namespace"]
VERSIONS = ("1.31", "1.37")  # the oldest and the newest that deploy/README.md promises


def manifests() -> list[dict[str, Any]]:
    return [
        manifest for name in KUSTOMIZATION["resources"] for manifest in yaml.safe_load_all((FOLDER / name).read_text())
    ]


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {manifest["metadata"]["name"]: manifest for manifest in manifests() if manifest["kind"] == kind}


def container(deployment: str) -> dict[str, Any]:
    [only] = named("Deployment")[deployment]["spec"]["template"]["spec"]["containers"]
    return dict(only)


def variables() -> dict[str, str]:
    """Of the ConfigMap that every container reads."""
    [literals] = [
        each["literals"] for each in KUSTOMIZATION["configMapGenerator"] if each["name"] == "shardmill-environment"
    ]
    return dict(literal.split("=", 1) for literal in literals)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(version: str) -> None:
    for manifest in manifests():
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize(("field", "value"), [("replicas", "one"), ("replica", 1)])
def test_a_wrong_field_would_be_seen(field: str, value: object) -> None:
    broken = named("Deployment")["daemon"]
    broken["spec"][field] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_kustomize_builds_them(kubectl: str, tmp_path: Path) -> None:
    for file in FOLDER.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    parts = [DEPLOY / "dagster.yaml", DEPLOY / "compute_logs/gcs.yaml", FOLDER / "run_launcher.yaml"]
    (tmp_path / "dagster.yaml").write_text("".join(part.read_text() for part in parts))
    built = subprocess.run([kubectl, "kustomize", str(tmp_path)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for manifest in yaml.safe_load_all(built.stdout):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
        assert manifest["metadata"].get("namespace", NAMESPACE) == NAMESPACE


def test_names_fit_together(deploy: Path) -> None:
    generated = {each["name"] for each in KUSTOMIZATION["configMapGenerator"]}
    [account] = named("ServiceAccount")
    assert (LAUNCHER["job_namespace"], LAUNCHER["service_account_name"]) == (NAMESPACE, account)
    assert {LAUNCHER["instance_config_map"], *LAUNCHER["env_config_maps"]} == generated
    for name, deployment in named("Deployment").items():
        pod = deployment["spec"]["template"]["spec"]
        sources = container(name)["envFrom"]
        assert pod["serviceAccountName"] == account
        assert [source["configMapRef"]["name"] for source in sources[:1]] == LAUNCHER["env_config_maps"]
        assert [source["secretRef"]["name"] for source in sources[1:]] == LAUNCHER["env_secrets"]
        assert {volume["configMap"]["name"] for volume in pod["volumes"]} <= generated
    [server] = yaml.safe_load((FOLDER / "workspace.yaml").read_text())["load_from"]
    [port] = named("Service")[server["grpc_server"]["host"]]["spec"]["ports"]
    assert port["port"] == server["grpc_server"]["port"]
    [image] = KUSTOMIZATION["images"]
    assert {container(name)["image"] for name in named("Deployment")} == {image["name"]}
    assert variables()["DAGSTER_CURRENT_IMAGE"] == f"{image['newName']}:{image['newTag']}"
    read = set(re.findall(r"env: (\w+)", "".join(file.read_text() for file in deploy.rglob("*.yaml"))))
    assert read - set(variables()) == {"DAGSTER_POSTGRES_PASSWORD"}  # in the Secret


@pytest.mark.slow
def test_a_run_is_a_job_that_kubernetes_accepts_and_that_ends_well(
    deploy: Path, new_project: Callable[[], Path], make_instance: MakeInstance
) -> None:
    project = new_project()
    photographs = project / "data/demo/raw/2026-01"
    photographs.mkdir(parents=True)
    (photographs / "cat.jpg").write_bytes(b"listed, not read")
    image = variables()["DAGSTER_CURRENT_IMAGE"]
    instance = make_instance("kubernetes/run_launcher.yaml", DAGSTER_CURRENT_IMAGE=image)
    with KubernetesAPI() as api:
        # Outside a cluster there is no service account's token: a file says where the API is.
        kubeconfig = instance.home / "kubeconfig"
        api.write_kubeconfig(kubeconfig)
        file = instance.home / "dagster.yaml"
        where = f"load_incluster_config: false\n    kubeconfig_file: {kubeconfig}\n    job_namespace"
        file.write_text(file.read_text().replace("job_namespace", where))
        paths = {
            "/opt/dagster/dagster_home/workspace.yaml": str(project / "workspace.yaml"),
            "/opt/shardmill": str(project),
            "0.0.0.0": "127.0.0.1",
        }
        with Services(project, instance, FOLDER / "workspace.yaml", paths) as services:
            for name in named("Deployment"):
                program, *arguments = container(name)["args"]
                services.start(name, [str(Path(sys.executable).with_name(program)), *arguments])
            run = services.submit(["demo", "raw_images"], "2026-01")
            services.wait_until(lambda: bool(api.jobs))
            assert ready(services.code_port, container("code-location")["readinessProbe"]["grpc"]["service"])
        [(path, job)] = api.jobs.items()

        assert path == f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/dagster-run-{run}"
        for version in VERSIONS:
            kubernetes_validate.validate(job, version, strict=True)
        assert instance.database.password not in json.dumps(job)
        pod = job["spec"]["template"]["spec"]
        [worker] = pod["containers"]
        assert worker["image"] == image
        assert worker["envFrom"] == container("daemon")["envFrom"]
        # What the namespace's `restricted` asks of every pod.
        assert pod["securityContext"] == named("Deployment")["daemon"]["spec"]["template"]["spec"]["securityContext"]
        assert worker["securityContext"] == container("daemon")["securityContext"]

        program, *arguments = worker["args"]
        instance.environment["PYTHONPATH"] = str(project)
        instance.run(program, *arguments)
    assert instance.rows("SELECT run_id, status FROM runs") == [(run, "SUCCESS")]


def ready(port: int, service: str) -> bool:
    """What Kubernetes' gRPC probe asks."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_a_step_that_needs_gpus_has_the_launcher_s_settings_and_those_of_its_dataset(
    new_project: Callable[[], Path], environment: Callable[[Path], dict[str, str]]
) -> None:
    project = new_project()
    gpu = {"count": 2, "memory": 16, "accelerator": "nvidia-l4"}
    dataset = {
        "name": "tiny",
        "source": {"uri": "/raw"},
        "partitions": ["all"],
        "root": "/out",
        "gpu": gpu,
        "embedder": {},
    }
    component = {"type": "orchestration.component.ImageDataset", "attributes": dataset}
    (project / "orchestration/defs/demo/defs.yaml").write_text(yaml.safe_dump(component))
    image = variables()["DAGSTER_CURRENT_IMAGE"]
    with KubernetesAPI() as api:
        kubeconfig = project / "kubeconfig"
        api.write_kubeconfig(kubeconfig)
        where = f"load_incluster_config: false\n    kubeconfig_file: {kubeconfig}\n    job_namespace"
        launcher = (FOLDER / "run_launcher.yaml").read_text().replace("job_namespace", where)
        with (project / ".dagster/dagster.yaml").open("a") as file:
            file.write(launcher)
        config = {"execution": {"config": {"job_image": image}}}  # elsewhere it is that of the code location
        target = ["-m", "orchestration.definitions", "--select", "key:tiny/embeddings", "--partition", "all"]
        program = str(Path(sys.executable).with_name("dagster"))
        with (project / "log").open("w") as log:
            run = subprocess.Popen(
                [program, "asset", "materialize", *target, "--config-json", json.dumps(config)],
                cwd=project,
                env=environment(project) | {"SHARDMILL_EXECUTOR": "kubernetes"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            deadline = time.monotonic() + 300
            while not api.jobs:
                assert run.poll() is None, (project / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            run.kill()  # the step would never end
            run.wait()
    [(path, job)] = api.jobs.items()
    assert path.startswith(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/dagster-step-")
    for version in VERSIONS:
        kubernetes_validate.validate(job, version, strict=True)
    assert (
        job["spec"]["ttlSecondsAfterFinished"]
        == LAUNCHER["run_k8s_config"]["job_spec_config"]["ttl_seconds_after_finished"]
    )
    pod = job["spec"]["template"]["spec"]
    [worker] = pod["containers"]
    # The launcher's, as a run's own pod has them.
    assert worker["image"] == image
    assert worker["envFrom"] == container("daemon")["envFrom"]
    assert worker["securityContext"] == container("daemon")["securityContext"]
    assert pod["securityContext"] == named("Deployment")["daemon"]["spec"]["template"]["spec"]["securityContext"]
    assert pod["serviceAccountName"] == LAUNCHER["service_account_name"]
    # Both: neither replaces the other.
    limits = {**LAUNCHER["resources"]["limits"], "nvidia.com/gpu": "2"}
    assert worker["resources"] == {"requests": LAUNCHER["resources"]["requests"], "limits": limits}
    # The dataset's.
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert "nvidia.com/gpu.memory" in json.dumps(pod["affinity"])
