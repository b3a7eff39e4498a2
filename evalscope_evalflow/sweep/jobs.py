"""The jobs of a task, one for each model, and the order in which they are begun."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evalscope_evalflow.config.api_url import api_base
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices.claims import Claim
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.processes import registry
from evalscope_evalflow.run.preflight import judges
from evalscope_evalflow.run.resume import Survey, asks_own_judge
from evalscope_evalflow.sweep.adapter_groups import adapter_lines, share_adapters
from evalscope_evalflow.sweep.engine_groups import ALONE, Sharing, sharing
from evalscope_evalflow.sweep.job import Job, single_model_task
from evalscope_evalflow.sweep.judge_sharing import lender_last
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
    slots, of_judge = request_slots(task), judge_slots(task)
    found = []
    for model in task.models:
        left = survey.remaining(model)
        todo = size(task, model, left, counted, judged)
        alone = replace(single_model_task(task, model), request_slots=slots.get(model.name), judge_slots=of_judge)
        found.append(Job(alone, todo, tuple(left.phases), asks_own_judge=asks_own_judge(task, left)))
    found = share_adapters(found)
    groups = sharing_of(found).groups
    return [job if job.group else replace(job, group=groups.get(job.model.name, ALONE)) for job in found]


def sharing_of(jobs: Sequence[Job]) -> Sharing:
    """Which models of a task share engines: of those that are asked anything."""
    of_weights = [job for job in jobs if job.asks_model and not job.model.served_adapters]
    found = sharing([(job.model, job.deploy) for job in of_weights])
    return replace(found, lines=(*adapter_lines(jobs), *found.lines))


def request_slots(task: Task) -> dict[str, tuple[str, int]]:
    """For each model that shares its API with others: folder and number of the slots for requests at once.

    The limit is the largest `max_num_seqs` among the models of an API.
    """
    limits: dict[str, dict[str, int]] = {}
    for model in task.models:
        deploy = task.flow.deploy_for(model)
        engine = resolve_engine(model, deploy)
        if model.api_url and not engine.local:
            limits.setdefault(api_base(model.api_url), {})[model.name] = engine.max_num_seqs(deploy)
    return {
        name: (_slots_folder(url), max(at_once.values()))
        for url, at_once in limits.items()
        if len(at_once) > 1
        for name in at_once
    }


def judge_slots(task: Task) -> tuple[str, int] | None:
    """The slots for requests to the judge, where several models are judged: one may be asked ahead of its time."""
    urls = [str(judge.get("api_url")) for judge in judges(task) if isinstance(judge, Mapping)]
    if len(task.models) < 2 or not urls or task.flow.judge is not None:
        return None
    return _slots_folder(" ".join(urls)), task.flow.judge_max_num_seqs


def _slots_folder(url: str) -> str:
    return str(registry.folder() / f"requests-{hashlib.sha256(url.encode()).hexdigest()[:12]}")


def order_of(jobs: Sequence[Job], claims: Sequence[Claim]) -> Order:
    """The order in which jobs are best begun.

    Args:
        jobs: the jobs.
        claims: the devices that each may be given.
    """
    parts, judges = parts_of(jobs, claims), judged_at_once(jobs)
    return lender_last(best_order(parts, judges), jobs, parts, judges)


def parts_of(jobs: Sequence[Job], claims: Sequence[Claim]) -> list[Part]:
    """What each job takes, by the estimates."""
    return [
        Part(
            claim.devices,
            claim.needs,
            job.size.engine_s(claim.needs),
            job.size.judge_s,
            job.group.key,
            job.size.heir_s(claim.needs, swaps=job.group.swaps),
        )
        for job, claim in zip(jobs, claims, strict=True)
    ]


def judged_at_once(jobs: Sequence[Job]) -> int:
    """How many jobs the judge can work at, each at its full pace."""
    verdicts = [job.size.verdicts for job in jobs if job.size.verdicts]
    at_once = max((job.size.verdicts_at_once for job in jobs), default=1)
    return max(1, at_once * len(verdicts) // max(1, sum(verdicts)))
