"""What `ps` prints of cluster jobs, and how `ps`, `stop` and `logs` find them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.display import progress_text as words
from evalscope_evalflow.display.run_list import age
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.sweep.cluster import submitted_here
from evalscope_evalflow.sweep.cluster.cluster_list import ListedJob, listed_jobs

_MOST_MODELS = 3  # of a job that a line names


def jobs_in(folder: str) -> list[ListedJob]:
    """The cluster jobs of a task's folder.

    Args:
        folder: the work_dir.

    Raises:
        ConfigError: there is no such folder.
    """
    path = user_path(folder)
    if not os.path.isdir(path):
        raise ConfigError(Problem(folder, "is no folder", "Give the work_dir of a task."))
    return list(listed_jobs(Path(os.path.abspath(path))))


def jobs_submitted_here() -> list[ListedJob]:
    """The cluster jobs that this user submitted from this host.

    Raises:
        OSError: the list cannot be read.
    """
    return [job for work_dir in submitted_here.work_dirs() for job in listed_jobs(work_dir)]


def job_of_folder(folder: Path) -> ListedJob | None:
    """The cluster job that answers into a run folder, queued or running; None: there is none."""
    found = [*listed_jobs(folder), *listed_jobs(folder.parent)]
    return next((job for job in found if str(folder) in map(os.path.realpath, job.written.folders.values())), None)


def print_jobs(console: Console, jobs: Sequence[ListedJob]) -> None:
    """Print each job with what it does; and each folder once, with who follows its jobs."""
    for work_dir in dict.fromkeys(job.work_dir for job in jobs):
        of_it = [job for job in jobs if job.work_dir == work_dir]
        running = sum(job.is_running for job in of_it)
        console.print(
            Text(f"{work_dir}: {running} running, {len(of_it) - running} queued", style="bold"), soft_wrap=True
        )
        console.print(Text(f"  {_followed(of_it[0])}"), soft_wrap=True)
        for job in sorted(of_it, key=lambda job: (not job.is_running, job.since)):
            console.print(Text(f"  {_line(job, console.width - 2)}"), soft_wrap=True)


def _followed(job: ListedJob) -> str:
    found = job.submitter
    if found is None:
        return f"{job.executor}; nobody follows them: run the same command again, and it adopts them"
    return f"{job.executor}; followed by PID {found.pid} on {found.host}"


def _line(job: ListedJob, width: int) -> str:
    names = ", ".join(job.left[:_MOST_MODELS]) or job.written.name
    more = f" and {len(job.left) - _MOST_MODELS} more" if len(job.left) > _MOST_MODELS else ""
    where = f"on {job.node.host}" if job.node else ""
    since = f"for {age(time.time() - job.since)}"
    again = f"submitted again {job.written.resubmitted}×" if job.written.resubmitted else ""
    model = f"{job.node.model}: " if job.node and job.node.model and len(job.left) > 1 else ""
    head = words.BETWEEN.join(part for part in (f"job {job.written.id}", names + more, where) if part)
    room = max(20, width - len(head) - len(since) - len(again) - 4 * len(words.BETWEEN))
    phase = job.phase if job.progress is None else words.fit(words.parts(job.phase, job.progress), room)
    return words.BETWEEN.join(part for part in (head, model + phase, since, again) if part)
