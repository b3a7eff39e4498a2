"""The jobs of a task: one for each model, with what is left of it and the devices that it may be given."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices.claims import Claim, claim
from evalscope_evalflow.devices.nvml import cached_reads
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.run.preflight import judges
from evalscope_evalflow.run.resume import Needs, Survey
from evalscope_evalflow.sweep.job import Job, alone
from evalscope_evalflow.sweep.order import Order, Part, best_order
from evalscope_evalflow.sweep.size import samples, size

JUDGED_AT_ONCE = 4  # models with nothing to ask: each has a process that imports EvalScope


def jobs(task: Task, survey: Survey | None = None) -> list[Job]:
    """The jobs of a task that has passed preflight, in the order of its models.

    Args:
        task: it.
        survey: what preflight has seen of its models; default: a new one.

    Raises:
        ConfigError: a model fits nowhere.
    """
    survey = survey or Survey(task)
    counted = samples(task)
    judged = bool(judges(task))
    found = []
    with cached_reads():
        for model in task.models:
            left = survey.needs(model)
            todo = size(task, model, left, counted, judged)
            found.append(Job(alone(task, model), todo, _claim(task, model, left), serves=bool(left.infer)))
    return found


def order_of(jobs: Sequence[Job]) -> Order:
    """The order in which jobs are begun."""
    parts = []
    for job in jobs:
        engine_s = job.size.engine_s(job.claim.needs)
        parts.append(Part(job.claim.devices, job.claim.needs, engine_s, job.size.judge_s))
    verdicts = [job.size.verdicts for job in jobs if job.size.verdicts]
    if not verdicts:
        return best_order(parts)
    at_once = max(job.size.verdicts_at_once for job in jobs)
    return best_order(parts, judges=max(1, at_once * len(verdicts) // max(1, sum(verdicts))))


def _claim(task: Task, model: ModelConfig, left: Needs) -> Claim:
    """The devices that a model may be given, or what stands for them: an API, a place among those that are judged."""
    if not left.phases:
        return Claim()
    if not left.infer:
        return Claim(tuple(f"judging {number}" for number in range(JUDGED_AT_ONCE)), 1)
    deploy = task.flow.deploy_for(model)
    engine = resolve_engine(model, deploy)
    if not engine.local:
        return Claim((f"the API at {urlsplit(model.api_url or '').netloc}",), 1)
    return claim(engine, model, deploy)
