"""What an earlier run of a task has left on the cluster: jobs to adopt, to cancel, or to forget."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.sweep.cluster import job_folder
from evalscope_evalflow.sweep.cluster.cluster_job import ClusterJob, ids_of
from evalscope_evalflow.sweep.cluster.job_folder import Fate
from evalscope_evalflow.sweep.cluster.scheduler import JobStatus, Scheduler, SchedulerSilent, Stage

GONE_POLL_S = 1.0
_LISTED = 5  # jobs that a message names
T = TypeVar("T")


@dataclass(frozen=True)
class Earlier:
    """Jobs of an earlier run.

    Attributes:
        adopted: they are queued or running, and do what is wanted.
        others: they are queued or running, and do something else, with the reason.
    """

    adopted: list[ClusterJob] = field(default_factory=list)
    others: list[tuple[ClusterJob, str]] = field(default_factory=list)


def look_back(
    work_dir: Path, identities: Mapping[str, str], executor: str, scheduler: Scheduler, warn: Callable[[str], None]
) -> Earlier:
    """Find the jobs of earlier runs that are still there; folders of those that are not are removed.

    Args:
        work_dir: the task's folder.
        identities: of the models that are to be answered on the cluster, by name.
        executor: its name.
        scheduler: the cluster's, which is asked once for all of them.
        warn: is called with a line while the scheduler does not answer.

    Raises:
        ConfigError: jobs of another executor may be there.
    """
    found = [
        ClusterJob(folder, written)
        for folder in job_folder.folders(work_dir)
        if (written := job_folder.read_submission(folder)) is not None
    ]
    foreign = [job for job in found if _name_of(job) != executor and not job_folder.read_result(job.folder).ended]
    if foreign:
        what = f"{_names(foreign)} may run there yet, submitted by the executor {_name_of(foreign[0])}"
        raise ConfigError(Problem("work_dir", what, f"`evalflow stop {work_dir}` ends them."))
    statuses = patient(lambda: scheduler.statuses(ids_of(found)), warn) if ids_of(found) else {}
    earlier = Earlier()
    for job in found:
        job.is_at(statuses.get(job.id, JobStatus(Stage.GONE)))
        if not job.id or job.status.stage is Stage.GONE or job_folder.read_result(job.folder).ended:
            job_folder.remove(job.folder)  # one that was about to be submitted finds nothing to do
            continue
        why = _why_not_adopted(job, identities)
        if why:
            earlier.others.append((job, why))
        else:
            earlier.adopted.append(job)
    return earlier


def end_others(
    others: Sequence[tuple[ClusterJob, str]],
    scheduler: Scheduler,
    ask: Callable[[str], bool | None],
    warn: Callable[[str], None],
) -> None:
    """Cancel jobs that do something else than what is wanted, after a question.

    Args:
        others: the jobs, with why they are not adopted.
        scheduler: the cluster's.
        ask: asks a question; None: there is nobody to ask.
        warn: is called with a line while the scheduler does not answer.

    Raises:
        ConfigError: they are not to be cancelled, or nobody can be asked.
    """
    jobs = [job for job, _ in others]
    if not jobs:
        return
    lines = [f"{job.written.name} (job {job.id}, {job.status.stage.value}): {why}" for job, why in others[:_LISTED]]
    if len(others) > _LISTED:
        lines.append(f"and {len(others) - _LISTED} more")
    what = "\n    ".join([f"{len(jobs)} cluster jobs of an earlier run do something else:", *lines])
    if not ask(f"{what}\n  Cancel them, and submit this task's?"):
        todo = f"Run the earlier task again to adopt them, or end them: evalflow stop {_work_dir(jobs[0])}"
        raise ConfigError(Problem("work_dir", what, todo))
    cancel_and_wait(jobs, scheduler, warn)


def cancel_and_wait(
    jobs: Collection[ClusterJob], scheduler: Scheduler, warn: Callable[[str], None], *, keep_folders: bool = False
) -> None:
    """Cancel jobs, wait until the scheduler runs none of them any more, and remove their folders.

    Args:
        jobs: them.
        scheduler: the cluster's.
        warn: is called with a line while it does not answer, or if it takes long.
        keep_folders: leave the folders to whoever follows the jobs.
    """
    for job in jobs:
        job_folder.mark_stopped(job.folder)
    left = [job for job in jobs if job.id and job.status.stage is not Stage.GONE]
    if left:
        patient(lambda: scheduler.cancel(ids_of(left)), warn)
    began = warned = time.monotonic()
    while left:
        ids = ids_of(left)
        statuses = patient(partial(scheduler.statuses, ids), warn)
        for job in left:
            job.is_at(statuses.get(job.id, JobStatus(Stage.GONE)))
        left = [job for job in left if job.status.stage is not Stage.GONE]
        if left and time.monotonic() - warned > 30:
            warned = time.monotonic()
            warn(f"{_names(left)} not gone from the cluster after {warned - began:.0f} s; waiting")
        if left:
            time.sleep(GONE_POLL_S)
    for job in jobs if not keep_folders else ():
        job_folder.remove(job.folder)


def patient(request: Callable[[], T], warn: Callable[[str], None]) -> T:
    """The answer to a request; a scheduler that is silent, as while its controller is restarted, is waited for."""

    def say(state: RetryCallState) -> None:
        if state.attempt_number in (1, 10):
            why = state.outcome.exception() if state.outcome else None
            warn(f"the cluster's scheduler does not answer; waiting for it: {why}")

    again = Retrying(
        retry=retry_if_exception_type(SchedulerSilent), wait=wait_exponential(1, max=10), before_sleep=say, reraise=True
    )
    return again(request)


def _why_not_adopted(job: ClusterJob, identities: Mapping[str, str]) -> str:
    """Why a job of an earlier run does not do what is wanted now; empty if it does."""
    outcomes = job_folder.read_result(job.folder).outcomes
    for model, value in job.written.identities.items():
        outcome = outcomes.get(model)
        if outcome is not None and outcome.fate is Fate.ANSWERED:
            continue
        if model not in identities:
            return f"{model} is not to be answered now"
        if identities[model] != value:
            return f"{model} is to be answered with other settings"
    return ""


def _name_of(job: ClusterJob) -> str:
    choice = job.written.executor
    return str(choice.get("name") if isinstance(choice, Mapping) else choice)


def _names(jobs: Sequence[ClusterJob]) -> str:
    named = ", ".join(job.written.name for job in jobs[:_LISTED])
    more = f" and {len(jobs) - _LISTED} more" if len(jobs) > _LISTED else ""
    return f"{'job' if len(jobs) == 1 else 'jobs'} {named}{more}"


def _work_dir(job: ClusterJob) -> Path:
    return job.folder.parents[2]
