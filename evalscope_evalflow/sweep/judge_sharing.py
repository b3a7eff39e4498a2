"""Which models' engines the sweep's judge can go on with: the same engine, or one that differs in weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.own_judge import judge_deploy
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.serving.engine_identity import differ_in_weights_alone, identity
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.order import Order, Part, makespan


def can_go_on_with(judge: ModelConfig, deploy: DeployConfig, job: Job) -> bool:
    """Whether a judge can go on with the engine of a job, as far as their settings go.

    Args:
        judge: the judge.
        deploy: how it is served, before devices were chosen for it.
        job: one of the sweep's.
    """
    engine, other = resolve_engine(judge, deploy), resolve_engine(job.model, job.deploy)
    if not job.asks_model or not engine.local or engine.name != other.name:
        return False
    wanted, found = identity(engine, judge, deploy), identity(other, job.model, job.deploy)
    return wanted == found or differ_in_weights_alone(found, wanted)


def lenders(jobs: Sequence[Job]) -> set[int]:
    """The numbers of the jobs whose engines the judge can go on with; empty where no judge is deployed."""
    flow = jobs[0].task.flow if jobs else None
    if flow is None or flow.judge is None or not any(job.asks_own_judge for job in jobs):
        return set()
    deploy = judge_deploy(flow)
    return {number for number, job in enumerate(jobs) if can_go_on_with(flow.judge, deploy, job)}


def lender_last(order: Order, jobs: Sequence[Job], parts: Sequence[Part], judges: int) -> Order:
    """The same order, or one in which such a job comes last, with those that share its engine: the judge follows it.

    Args:
        order: the best order without a thought of the judge.
        jobs: the jobs.
        parts: what each takes.
        judges: how many jobs can be judged at once, each at its full pace.
    """
    lending = lenders(jobs)
    found = [number for number in order.jobs if number in lending]
    if not found:
        return order
    last = found[-1]
    members = {number for number in order.jobs if jobs[number].group and jobs[number].group == jobs[last].group}
    members.add(last)
    if order.jobs[-1] in members:
        return order
    moved = (*(n for n in order.jobs if n not in members), *(n for n in order.jobs if n in members))
    changed = replace(order, jobs=moved)
    changed = replace(changed, makespan_s=makespan(parts, changed, judges))
    return changed if changed.makespan_s <= order.makespan_s + jobs[last].size.start_s else order
