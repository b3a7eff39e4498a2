"""Options that every executor with a cluster behind it has."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from evalscope_evalflow.config.plugin_options import PluginOptions
from evalscope_evalflow.sweep.device_needs import Offer

GIB = 1024**3


def _names(value: object) -> object:
    """One name, or a list of them."""
    return [value] if isinstance(value, str) else value


class ClusterOptions(PluginOptions):
    """Common options; an executor's own `Options` adds its scheduler's."""

    gpus_per_node: int | None = Field(
        None, ge=0, description="GPUs that one job can have, all on one node; default: what the cluster says"
    )
    gpu_memory_gib: float | None = Field(
        None, gt=0, description="memory of each GPU, in GiB; default: what the cluster says, where it does"
    )
    python: str | None = Field(
        None,
        description="the interpreter with EvalFlow on the nodes; default: the one that submits, under the same path",
    )
    pass_env: Annotated[list[str], BeforeValidator(_names)] = Field(
        default_factory=list,
        description="names of environment variables that jobs get; no other is passed on, and keys of judges and APIs "
        "are not needed there",
    )
    max_requeues: int = Field(
        3, ge=0, description="how often a job is submitted again when its node fails or its time is up"
    )
    total_time_h: float | None = Field(
        None,
        gt=0,
        description="hours from a job's first submission after which it is not submitted again; default: no limit",
    )

    def offer(self, found: Offer | None) -> Offer | None:
        """What one job can be given: what is declared, else what the cluster says.

        Args:
            found: what the cluster says; None: it was not asked.

        Returns:
            None: it has to be asked.
        """
        if self.gpus_per_node is None and found is None:
            return None
        devices = self.gpus_per_node if self.gpus_per_node is not None else found.devices if found else 0
        declared = None if self.gpu_memory_gib is None else int(self.gpu_memory_gib * GIB)
        return Offer(devices, declared or (found.device_bytes if found else None))
