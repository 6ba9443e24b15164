"""How the embeddings ask for GPUs: a pool, tags, and a pod that Kubernetes accepts."""

import json
from typing import Any

import kubernetes.client
import kubernetes_validate
import pytest
from dagster_k8s import DagsterK8sJobConfig, construct_dagster_k8s_job
from dagster_k8s.job import get_user_defined_k8s_config

from assets.build import build_assets
from assets.gpu import gpu_options
from shardmill.dataset import DatasetSpec
from shardmill.devices import GPUSpec
from shardmill.graph import build_graph

ALL = {"count": 2, "memory": 16, "accelerator": "nvidia-l4"}


def tags_of(gpu: Any) -> dict[str, str]:
    """Of the step, as an executor reads them."""
    fields = {"name": "d", "root": "/r", "source": {"uri": "/s"}, "partitions": ["p"], "gpu": gpu, "embedder": {}}
    spec = DatasetSpec.model_validate(fields)
    [asset] = [each for each in build_assets(spec, build_graph(spec)) if each.key.path[-1] == "embeddings"]
    return dict(asset.op.tags)


def pod_of(tags: dict[str, str]) -> dict[str, Any]:
    """The pod of the step's job, as dagster-k8s hands it to the cluster; a job that Kubernetes accepts."""
    config = DagsterK8sJobConfig(job_image="image", dagster_home="/home")
    job = construct_dagster_k8s_job(config, ["dagster"], "job", get_user_defined_k8s_config(tags))
    manifest = kubernetes.client.ApiClient().sanitize_for_serialization(job)
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    return manifest["spec"]["template"]["spec"]


def test_the_tags_say_what_the_dataset_file_says() -> None:
    tags = tags_of(ALL)
    assert {name: tags[name] for name in tags if name.startswith("shardmill/")} == {
        "shardmill/gpu": "2",
        "shardmill/gpu-memory": "16",
        "shardmill/gpu-accelerator": "nvidia-l4",
    }
    assert tags["dagster-celery/queue"] == "gpu"


def test_a_pod_gets_devices_on_a_node_that_has_such() -> None:
    pod = pod_of(tags_of(ALL))
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["nodeSelectorTerms"] == [
        {"matchExpressions": [{"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["16383"]}]}
    ]


def test_a_pod_for_any_device_asks_for_no_node_in_particular() -> None:
    pod = pod_of(tags_of(True))
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    assert pod.get("nodeSelector") is None
    assert pod.get("affinity") is None


def test_a_cluster_with_other_labels_has_the_label_in_the_dataset_file() -> None:
    pod = pod_of(tags_of({"accelerator": "nvidia.com/gpu.product=NVIDIA-A100-SXM4-80GB"}))
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}


def test_dagster_refuses_a_key_that_kubernetes_does_not_know() -> None:
    """So that `pod_of` is worth something."""
    config = gpu_options(GPUSpec())["op_tags"]["dagster-k8s/config"]
    config["pod_spec_config"]["toleration"] = config["pod_spec_config"].pop("tolerations")
    with pytest.raises(Exception, match="'toleration'"):
        pod_of({"dagster-k8s/config": json.dumps(config)})
