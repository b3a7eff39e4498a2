"""The jobs of a task, one for each model, and the order in which they are begun."""

from __future__ import annotations

from collections.abc import Sequence

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices.claims import Claim
from evalscope_evalflow.run.preflight import judges
from evalscope_evalflow.run.resume import Survey
from evalscope_evalflow.sweep.job import Job, single_model_task
from evalscope_evalflow.sweep.order import Order, Part, best_order
from evalscope_evalflow.sweep.size import samples, size


def jobs_of(task: Task, survey: Survey | None = None) -> list[Job]:
    """The jobs of a task that has passed preflight, in the order of its models.

    Args:
        task: the task.
        survey: what preflight found left to do of each model; default: the run folders are read.
    """
    survey = survey or Survey(task)
    counted = samples(task)
    judged = bool(judges(task))
    found = []
    for model in task.models:
        left = survey.remaining(model)
        todo = size(task, model, left, counted, judged)
        found.append(Job(single_model_task(task, model), todo, tuple(left.phases)))
    return found


def order_of(jobs: Sequence[Job], claims: Sequence[Claim]) -> Order:
    """The order in which jobs are best begun.

    Args:
        jobs: the jobs.
        claims: the devices that each may be given.
    """
    parts = [
        Part(claim.devices, claim.needs, job.size.engine_s(claim.needs), job.size.judge_s)
        for job, claim in zip(jobs, claims, strict=True)
    ]
    verdicts = [job.size.verdicts for job in jobs if job.size.verdicts]
    if not verdicts:
        return best_order(parts)
    at_once = max(job.size.verdicts_at_once for job in jobs)
    return best_order(parts, judges=max(1, at_once * len(verdicts) // max(1, sum(verdicts))))
