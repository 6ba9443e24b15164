"""How a step asks for GPUs: a pool, and tags, of which each executor reads its own."""

from typing import Any

from shardmill.devices import GPUSpec

GPU_POOL = "gpu"
"""Admits steps across runs; its limit is the deployment's."""
GPU_TAG = "shardmill/gpu"
"""Its value is the number of devices."""
_RESOURCE = "nvidia.com/gpu"
_MEMORY_LABEL = "nvidia.com/gpu.memory"
"""MiB, on nodes that NVIDIA's GPU feature discovery labels."""


def gpu_options(gpu: GPUSpec) -> dict[str, Any]:
    """Options of a step for an asset that needs GPUs."""
    tags: dict[str, Any] = {GPU_TAG: str(gpu.count)}
    if gpu.memory is not None:
        tags[f"{GPU_TAG}-memory"] = str(gpu.memory)
    if gpu.accelerator is not None:
        tags[f"{GPU_TAG}-accelerator"] = gpu.accelerator
    return {
        "pool": GPU_POOL,
        "op_tags": {**tags, "dagster-k8s/config": _kubernetes(gpu), "dagster-celery/queue": GPU_POOL},
    }


def _kubernetes(gpu: GPUSpec) -> dict[str, Any]:
    """Merged by dagster-k8s into the pod of the step."""
    pod: dict[str, Any] = {"tolerations": [{"key": _RESOURCE, "operator": "Exists", "effect": "NoSchedule"}]}
    if gpu.node_label is not None:
        pod["node_selector"] = dict([gpu.node_label])
    if gpu.memory is not None:
        enough = {"key": _MEMORY_LABEL, "operator": "Gt", "values": [str(gpu.memory * 1024 - 1)]}
        terms = {"node_selector_terms": [{"match_expressions": [enough]}]}
        pod["affinity"] = {"node_affinity": {"required_during_scheduling_ignored_during_execution": terms}}
    return {
        "container_config": {"resources": {"limits": {_RESOURCE: str(gpu.count)}}},
        "pod_spec_config": pod,
    }
