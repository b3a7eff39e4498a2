"""One cluster job as the submitting process sees it: what was submitted, where it is, and which models are left."""

from __future__ import annotations

import dataclasses
import platform
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.sweep.cluster import job_folder
from evalscope_evalflow.sweep.cluster.cluster_work import Unit, identity
from evalscope_evalflow.sweep.cluster.job_folder import Written
from evalscope_evalflow.sweep.cluster.scheduler import JobStatus, Scheduler, Stage, Submission

_NAME_LENGTH = 40  # of a model's name in a job's name


@dataclass(eq=False)
class ClusterJob:
    """A job that was submitted.

    Attributes:
        folder: its own.
        written: what is written down of it.
        status: where the scheduler said it was.
        open: its models whose fate is not known.
        gone_since: when the scheduler first said that it runs no more (s of the monotonic clock).
    """

    folder: Path
    written: Written
    status: JobStatus = field(default_factory=lambda: JobStatus(Stage.QUEUED))
    open: set[str] = field(default_factory=set)
    gone_since: float | None = None

    def __post_init__(self) -> None:
        self.open = self.open or set(self.written.models)

    @property
    def id(self) -> str:
        """The scheduler's."""
        return self.written.id

    @property
    def submission(self) -> Submission:
        """It, as the scheduler takes it."""
        return Submission(self.written.name, self.folder, self.written.devices)

    def is_at(self, status: JobStatus) -> bool:
        """Take note of where it is; whether that is news."""
        news = (status.stage, status.nodes) != (self.status.stage, self.status.nodes)
        self.status = status
        gone = status.stage is Stage.GONE
        self.gone_since = None if not gone else self.gone_since or time.monotonic()
        return news


def submit_units(units: Sequence[Unit], scheduler: Scheduler, work_dir: Path, executor: Any) -> list[ClusterJob]:
    """Submit jobs, in one request where the scheduler can.

    It is written down before that what will be submitted: whoever dies meanwhile leaves folders without an id, and a
    job that finds its folder removed ends at once.

    Args:
        units: what to submit.
        scheduler: the cluster's.
        work_dir: the task's folder.
        executor: name and options of the executor, as in the section.

    Raises:
        ConfigError: the cluster refuses, or the folder is not this user's alone.
        OSError: the folders cannot be written.
    """
    made = []
    try:
        for unit in units:
            name = job_name(unit.models)
            folder = job_folder.make_folder(work_dir, name, unit.jobs)
            identities = {job.model.name: identity(job) for job in unit.jobs}
            run_folders = {job.model.name: str(job.task.folder(job.model)) for job in unit.jobs}
            written = Written(
                name,
                "",
                executor,
                unit.models,
                identities,
                run_folders,
                unit.devices,
                submitted=round(time.time(), 3),
                host=platform.node(),
            )
            made.append(ClusterJob(folder, written))
            job_folder.write_submission(folder, written)
        ids = scheduler.submit([job.submission for job in made]) if made else []
    except BaseException:
        for job in made:
            job_folder.remove(job.folder)
        raise
    for job, number in zip(made, ids, strict=True):
        _write_id(job, number)
    return made


def submit_again(job: ClusterJob, scheduler: Scheduler) -> None:
    """Submit a job that was lost once more; it goes on from what is saved.

    Raises:
        ConfigError: the cluster refuses.
    """
    job_folder.clear_for_resubmission(job.folder)
    (number,) = scheduler.submit([job.submission])
    job.written = dataclasses.replace(job.written, resubmitted=job.written.resubmitted + 1)
    _write_id(job, number)
    job.status, job.gone_since = JobStatus(Stage.QUEUED), None


def _write_id(job: ClusterJob, number: str) -> None:
    job.written = dataclasses.replace(job.written, id=number)
    job_folder.write_submission(job.folder, job.written)


def job_name(models: Sequence[str]) -> str:
    """A name that no other job has, with the first model's in it."""
    first = re.sub(r"[^A-Za-z0-9_.-]+", "-", models[0]).strip("-.")[:_NAME_LENGTH] or "model"
    more = f"-and-{len(models) - 1}-more" if len(models) > 1 else ""
    return f"{first}{more}-{secrets.token_hex(4)}"


def ids_of(jobs: Iterable[ClusterJob]) -> list[str]:
    """The scheduler's ids of jobs that it may still know."""
    return [job.id for job in jobs if job.id and job.status.stage is not Stage.GONE]
