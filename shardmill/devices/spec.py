"""What a dataset file says about the GPUs that its embeddings need."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from shardmill.spec import Spec


def _label(text: str) -> str:
    if not re.fullmatch(r"([\w./-]+=)?[\w.-]+", text):
        raise ValueError(f"{text!r} is no label: write its value, such as nvidia-l4, or <label>=<value>")
    return text


class GPUSpec(Spec):
    """CUDA devices for the embeddings of one partition."""

    count: PositiveInt = 1
    """Devices in use at once, each by processes of its own on shards of their own."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Part of a device that each process takes. None: a whole one on Ray; on one machine as many processes feed it as
    its cores and memory allow."""
    memory: PositiveInt | None = None
    """GiB that each device has at least, as `nvidia-smi` reports it: a card of 24 GB may have 22."""
    accelerator: Annotated[str, AfterValidator(_label)] | None = None
    """Which nodes of a Kubernetes cluster: a value of GKE's label (`nvidia-l4`), or `<label>=<value>` of any other."""

    @property
    def node_label(self) -> tuple[str, str] | None:
        """Name and value of the label that a node with the accelerator has."""
        if self.accelerator is None:
            return None
        label, _, value = self.accelerator.rpartition("=")
        return label or "cloud.google.com/gke-accelerator", value


def _said_in_a_word(value: Any) -> Any:
    """`true` is one device of any kind, `false` none."""
    return {True: GPUSpec(), False: None}[value] if isinstance(value, bool) else value


GPUField = Annotated[GPUSpec | None, BeforeValidator(_said_in_a_word, json_schema_input_type=GPUSpec | bool | None)]
"""A field of a dataset file: `true`, `false`, or a `GPUSpec`."""
