"""What a run's steps run on: one setting for a deployment."""

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import dagster as dg

from assets.gpu import GPU_TAG
from shardmill.devices import visible_devices
from shardmill.errors import ConfigurationError, DeviceError

SETTING = "SHARDMILL_EXECUTOR"
"""Environment variable with the name of an executor."""


def choose_executor(name: str | None = None) -> dg.ExecutorDefinition:
    """The executor of that name, else the one that SHARDMILL_EXECUTOR names, else `in_process`.

    Raises:
        ConfigurationError: There is no such executor, or its package is not installed.
    """
    name = name or os.environ.get(SETTING) or "in_process"
    if name not in EXECUTORS:
        raise ConfigurationError(f"there is no executor {name!r}: set {SETTING} to one of {', '.join(EXECUTORS)}")
    return EXECUTORS[name]()


def _in_process() -> dg.ExecutorDefinition:
    """Steps run in the run's own process: the engine is what keeps the cores busy."""
    return dg.in_process_executor


def _multiprocess() -> dg.ExecutorDefinition:
    """A process a step."""
    try:
        gpus = len(visible_devices(tries=1))
    except DeviceError:  # steps that need no device shall load and run; one that does asks again, and says so
        gpus = 0
    return dg.multiprocess_executor.configured(multiprocess_config(gpus))


def multiprocess_config(gpus: int) -> dict[str, Any]:
    """A step for each GPU at once, and one more that keeps the cores busy meanwhile."""
    return {
        # Imported once, then forked: what every step needs, and neither torch nor a client of a store.
        "start_method": {"forkserver": {"preload_modules": ["orchestration.definitions"]}},
        "max_concurrent": max(gpus, 1) + 1,
        # More would only wait for their devices, in the place of steps that need none.
        "tag_concurrency_limits": [{"key": GPU_TAG, "limit": max(gpus, 1)}],
    }


def _kubernetes() -> dg.ExecutorDefinition:
    """A Kubernetes job a step."""
    return _installed("dagster_k8s", "k8s_job_executor", "kubernetes")


def _celery() -> dg.ExecutorDefinition:
    """A Celery task a step; those that need a GPU in the queue `gpu`."""
    return _installed("dagster_celery", "celery_executor", "celery")


def _installed(module: str, executor: str, extra: str) -> dg.ExecutorDefinition:
    """Imported only where it is chosen: its package takes seconds."""
    try:
        return getattr(import_module(module), executor)
    except ImportError as error:
        raise ConfigurationError(
            f"the executor {extra} needs {module}: pip install 'shardmill[{extra}]' ({error})"
        ) from error


EXECUTORS: dict[str, Callable[[], dg.ExecutorDefinition]] = {
    "in_process": _in_process,
    "multiprocess": _multiprocess,
    "kubernetes": _kubernetes,
    "celery": _celery,
}
