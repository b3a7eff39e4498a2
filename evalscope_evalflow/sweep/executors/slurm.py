"""A Slurm cluster: each engine with its models is a job there."""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.sweep.cluster.cluster_executor import ClusterExecutor
from evalscope_evalflow.sweep.cluster.cluster_options import GIB, ClusterOptions
from evalscope_evalflow.sweep.cluster.node_main import node_command
from evalscope_evalflow.sweep.cluster.scheduler import Scheduler
from evalscope_evalflow.sweep.cluster.slurm_queue import expanded
from evalscope_evalflow.sweep.cluster.slurm_settings import RESERVED, SlurmSettings, minutes


def _lines(value: Any) -> Any:
    return value.splitlines() if isinstance(value, str) else value


def _words(value: Any) -> Any:
    return shlex.split(value) if isinstance(value, str) else value


def _hosts(value: Any) -> Any:
    return list(expanded(value)) if isinstance(value, str) else value


def _time(value: Any) -> Any:
    return minutes(value) if isinstance(value, str) else value


class Slurm(ClusterExecutor):
    """Submits jobs by submitit, as arrays where they are alike."""

    name = "slurm"

    class Options(ClusterOptions):
        """Options of `executor: {name: slurm, …}`."""

        partition: str = Field("", description="the partition; default: the cluster's default")
        account: str = Field("", description="the account that is charged; default: the user's default")
        qos: str = Field("", description="the quality of service; default: the user's default")
        time: Annotated[int | None, BeforeValidator(_time)] = Field(
            None,
            gt=0,
            description='time limit of a job, in minutes or as Slurm has it, in quotes, such as `"12:00:00"`; a job '
            "that reaches it is started again and goes on; default: the partition's",
        )
        constraint: str = Field("", description="features that nodes must have, such as `a100&ib`")
        nodelist: Annotated[list[str], BeforeValidator(_hosts)] = Field(
            default_factory=list, description="the only nodes that jobs may run on, such as `gpu[01-08]`; default: any"
        )
        gpu_type: str = Field("", description="the type of GPU, as `sinfo` names it, such as `h100`; default: any")
        array_parallelism: int = Field(256, gt=0, description="jobs of one array that run at once, at most")
        setup: Annotated[list[str], BeforeValidator(_lines)] = Field(
            default_factory=list, description="lines of shell that run on the node first, such as `module load cuda`"
        )
        container_image: str = Field("", description="the image that jobs run in, by pyxis; default: none")
        container_mounts: Annotated[list[str], BeforeValidator(_words)] = Field(
            default_factory=list, description="what pyxis mounts there besides the task's own folders: `/from:/to`"
        )
        container_prefix: Annotated[list[str], BeforeValidator(_words)] = Field(
            default_factory=list,
            description="words before the interpreter, such as `apptainer exec --nv /images/evalflow.sif`",
        )
        additional: dict[str, Any] = Field(
            default_factory=dict, description="any other option of sbatch, by its name there: `{mem: 64G}`"
        )
        poll_s: float = Field(
            10.0, ge=1, description="seconds between two requests to squeue at least, each for all jobs"
        )
        probe_s: float = Field(
            20.0,
            ge=0,
            description="seconds that a job of one second may wait for a node before the start; it looks whether nodes "
            "see the task's folders and have the same versions; 0: none is started",
        )

        @field_validator("additional")
        @classmethod
        def _not_reserved(cls, value: dict[str, Any]) -> dict[str, Any]:
            names = {str(name).replace("_", "-"): setting for name, setting in value.items()}
            for name in names:
                if RESERVED.get(name):
                    raise ValueError(f"{name} is an option of its own: executor.{RESERVED[name]}")
                if name in RESERVED:
                    raise ValueError(f"{name} is set by EvalFlow; leave it out")
            return names

    def make_scheduler(self) -> Scheduler:
        if find_spec("submitit") is None:
            todo = f"{install_command('slurm')}, or choose `executor: local`."
            what = "the executor slurm needs submitit, which is not installed in this environment"
            raise ConfigError(Problem("evalflow.executor", what, todo))
        from evalscope_evalflow.sweep.cluster.slurm_scheduler import SlurmScheduler

        options = self.options
        assert isinstance(options, Slurm.Options)
        python = options.python or sys.executable
        memory = options.gpu_memory_gib
        settings = SlurmSettings(
            python=python,
            partition=options.partition,
            account=options.account,
            qos=options.qos,
            time_min=options.time,
            constraint=options.constraint,
            nodes=tuple(options.nodelist),
            gpu_type=options.gpu_type,
            array_parallelism=options.array_parallelism,
            setup=tuple(options.setup),
            container_image=options.container_image,
            container_mounts=tuple(options.container_mounts),
            container_prefix=tuple(options.container_prefix),
            additional=options.additional,
            pass_env=tuple(options.pass_env),
            gpus_per_node=options.gpus_per_node,
            gpu_bytes=None if memory is None else int(memory * GIB),
            max_requeues=options.max_requeues,
            poll_s=options.poll_s,
            probe_s=options.probe_s,
        )
        return SlurmScheduler(settings, lambda folder: node_command(folder, python))
