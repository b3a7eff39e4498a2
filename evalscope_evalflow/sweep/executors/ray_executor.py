"""The executor `ray`: answers on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from evalscope_evalflow.sweep.cluster.cluster_executor import ClusterExecutor
from evalscope_evalflow.sweep.cluster.cluster_options import GIB, ClusterOptions
from evalscope_evalflow.sweep.cluster.job_folder import LOG
from evalscope_evalflow.sweep.cluster.node_main import node_command
from evalscope_evalflow.sweep.cluster.ray_scheduler import RayScheduler, RaySettings
from evalscope_evalflow.sweep.cluster.scheduler import Scheduler

CPU, GPU, MEMORY = "CPU", "GPU", "memory"


class RayOptions(ClusterOptions):
    """How the cluster is reached, and what each job reserves beside its GPUs."""

    address: str = Field(
        "auto",
        description='of the cluster: "auto" on one of its nodes, "HOST:6379", or "ray://HOST:10001" from elsewhere',
    )
    resources: dict[str, float] = Field(
        default_factory=dict,
        description="what each job reserves beside its GPUs, by Ray's names: CPU (default: 1), memory (bytes), others",
    )
    runtime_env: dict[str, Any] = Field(
        default_factory=dict, description="Ray's runtime environment of the jobs, such as pip or image_uri"
    )
    python: str | None = Field(
        None, description="the interpreter with EvalFlow on the nodes; default: the one that Ray runs on there"
    )

    @field_validator("resources")
    @classmethod
    def _no_gpus(cls, value: Mapping[str, float]) -> Mapping[str, float]:
        if GPU in value:
            raise ValueError("GPUs follow from the model and tensor_parallel; leave GPU out")
        if any(amount < 0 for amount in value.values()):
            raise ValueError("an amount is negative")
        return value

    @field_validator("runtime_env")
    @classmethod
    def _no_variables(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        if "env_vars" in value:
            raise ValueError("Ray's dashboard shows env_vars to everybody; name the variables in pass_env instead")
        return value


class RayExecutor(ClusterExecutor):
    """Runs each engine as a job on a Ray cluster, which decides where and when."""

    name = "ray"
    interface_version = 1

    class Options(RayOptions):
        """Those of this executor."""

    def make_scheduler(self) -> Scheduler:
        options = self.options
        assert isinstance(options, RayOptions)
        others = {name: amount for name, amount in options.resources.items() if name not in (CPU, MEMORY)}
        memory, gpu = options.resources.get(MEMORY), options.gpu_memory_gib
        settings = RaySettings(
            address=options.address,
            cpus=options.resources.get(CPU, 1),
            memory=None if memory is None else int(memory),
            resources=others,
            runtime_env=options.runtime_env,
            environment={name: os.environ[name] for name in options.pass_env if name in os.environ},
            gpus_per_node=options.gpus_per_node,
            gpu_bytes=None if gpu is None else int(gpu * GIB),
            python=options.python,
        )
        return RayScheduler(settings, lambda folder: _command(folder, options.python), LOG)


def _command(folder: Path, python: str | None) -> list[str]:
    return node_command(folder) if python is None else node_command(folder, python)
