"""How jobs are submitted to Slurm: the settings, and the parameters of sbatch that are made of them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Slurm has no number for "no limit", and submitit needs one: a year.
NO_LIMIT_MIN = 365 * 24 * 60
GRACE_S = 120  # from the signal before the time limit to the limit: an engine is released, and answers are saved
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
_SHARE_OF_LIMIT = 0.5  # of a short time limit, the grace takes no more
# What is set here, or what the work of a job relies on.
RESERVED = {
    **dict.fromkeys(("array", "chdir", "error", "job-name", "nodes", "ntasks", "open-mode")),
    **dict.fromkeys(("ntasks-per-node", "output", "parsable", "requeue", "no-requeue", "signal", "test-only", "wait")),
    **dict.fromkeys(("wrap", "gpus", "gpus-per-node", "gpus-per-task")),
    **dict.fromkeys(("export", "export-file"), "pass_env"),
    "time": "time",
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "nodelist": "nodelist",
}


@dataclass(frozen=True)
class SlurmSettings:
    """How jobs are submitted.

    Attributes:
        partition: the partition; empty: the cluster's default.
        account: who is charged; empty: the user's default.
        qos: the quality of service; empty: the user's default.
        time_min: time limit of a job (min); None: the partition's.
        constraint: features that nodes must have, as sbatch has it.
        nodes: names of the only nodes that jobs may run on; empty: all of the partition.
        gpu_type: the type of GPU, as sinfo names it; empty: any.
        array_parallelism: jobs of one array that run at once at most.
        setup: lines of shell that run before a job's interpreter.
        container_image: a job runs in this image, by pyxis; empty: in none.
        container_mounts: what pyxis mounts there, besides the folders of the task.
        container_prefix: words before the interpreter, such as `apptainer exec --nv image.sif`.
        additional: anything else, by sbatch's name.
        pass_env: names of the variables that jobs get.
        python: the interpreter on the nodes.
        gpus_per_node: GPUs of the largest node; None: sinfo is asked.
        gpu_bytes: memory of each GPU; None: not known.
        max_requeues: how often a job may be started again after its time limit.
        poll_s: the least time between two requests to squeue.
        probe_s: how long the probe job may wait for a node; 0: there is none.
    """

    python: str
    partition: str = ""
    account: str = ""
    qos: str = ""
    time_min: int | None = None
    constraint: str = ""
    nodes: tuple[str, ...] = ()
    gpu_type: str = ""
    array_parallelism: int = 256
    setup: tuple[str, ...] = ()
    container_image: str = ""
    container_mounts: tuple[str, ...] = ()
    container_prefix: tuple[str, ...] = ()
    additional: Mapping[str, Any] = field(default_factory=dict)
    pass_env: tuple[str, ...] = ()
    gpus_per_node: int | None = None
    gpu_bytes: int | None = None
    max_requeues: int = 3
    poll_s: float = 10.0
    probe_s: float = 20.0

    @property
    def export(self) -> str:
        """What a job gets of the submitting environment: names alone, so that no value is on a command line."""
        return ",".join(self.pass_env) or "NONE"

    def time_limit(self, of_partition: int | None) -> int:
        """The time limit of a job (min).

        Args:
            of_partition: the partition's own; None: it has none.
        """
        return self.time_min or of_partition or NO_LIMIT_MIN

    def selection(self, excluded: Sequence[str] = ()) -> dict[str, str]:
        """Options of sbatch and srun that say where a job may run, and who is charged.

        Args:
            excluded: names of nodes that it may not run on.
        """
        named = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "exclude": ",".join(excluded),
        }
        return {name: value for name, value in named.items() if value}


def parameters(
    settings: SlurmSettings,
    *,
    name: str,
    devices: int,
    folders: Sequence[Path],
    excluded: Sequence[str],
    limit_min: int,
) -> dict[str, Any]:
    """Parameters of submitit's executor for jobs that need so many devices each.

    Args:
        settings: how jobs are submitted.
        name: as squeue lists it.
        devices: of each job.
        folders: where submitit's files are, which a job refuses to load if anybody else could have written them; then
            what else a container has to see.
        excluded: names of nodes that no job may run on.
        limit_min: time limit of a job (min).
    """
    grace_s = min(GRACE_S, int(limit_min * 60 * _SHARE_OF_LIMIT))
    chosen: dict[str, Any] = {
        "job_name": name,
        "time": limit_min,
        "array_parallelism": settings.array_parallelism,
        "signal_delay_s": grace_s,
        "setup": [_refuse_if_not_private(folders[0]), *settings.setup],
        "use_srun": False,
        "wckey": None,  # submitit's own would be unknown to clusters that check them
        **settings.selection(excluded),
    }
    if devices:
        chosen["gpus_per_node"] = f"{settings.gpu_type}:{devices}" if settings.gpu_type else devices
    # The signal goes to the batch shell alone, which has become the job's interpreter: an engine would die of it.
    additional: dict[str, Any] = {"export": settings.export, "signal": f"B:USR2@{grace_s}", "requeue": True}
    if settings.container_image:
        chosen |= {"use_srun": True, "srun_args": container_arguments(settings, folders)}
        additional["signal"] = f"USR2@{grace_s}"  # the interpreter is not the shell, but srun's
    chosen["additional_parameters"] = {**additional, **settings.additional}
    return chosen


def container_arguments(settings: SlurmSettings, folders: Sequence[Path]) -> list[str]:
    """Arguments of srun with which pyxis starts a container; those of its own environment come with it."""
    mounts = [*settings.container_mounts, *(f"{path}:{path}" for path in dict.fromkeys(folders))]
    return ["--export=ALL", f"--container-image={settings.container_image}", f"--container-mounts={','.join(mounts)}"]


def interpreter(settings: SlurmSettings) -> str:
    """The shell's words that start the interpreter of a job.

    `exec` makes it the process that Slurm's signal before the time limit reaches.
    """
    words = [*settings.container_prefix, settings.python]
    return ("" if settings.container_image else "exec ") + shlex.join(words)


def minutes(text: str) -> int | None:
    """A time limit as Slurm writes it: `90`, `1:30:00`, `2-12`; None: no limit, or none that can be read.

    Raises:
        ValueError: it is none.
    """
    if text.strip().lower() in ("", "infinite", "unlimited", "n/a", "none"):
        return None
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no time; write minutes, or hours:minutes:seconds, or days-hours")
    days, parts = int(found["days"] or 0), [int(part) for part in found["parts"].split(":")]
    if found["days"]:  # days-hours:minutes:seconds
        hours, mins, secs = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, mins, secs = parts
    else:  # minutes:seconds
        hours, mins, secs = 0, parts[0], (*parts, 0)[1]
    return max(1, math.ceil(days * 1440 + hours * 60 + mins + secs / 60))


def _refuse_if_not_private(folder: Path) -> str:
    """A line of shell: the job's pickle is loaded only from a folder that nobody else can write or read."""
    quoted = shlex.quote(str(folder))
    what = shlex.quote(f"{folder} is not of mode 0700 and this user's own: its files are not loaded")
    return f'[ "$(stat -c %u:%a {quoted})" = "$(id -u):700" ] || {{ echo {what} >&2; exit 78; }}'
