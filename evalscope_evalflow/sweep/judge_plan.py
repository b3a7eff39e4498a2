"""What `check` says of the judge that a sweep deploys: which engine, where, and when its turn comes."""

from __future__ import annotations

from collections.abc import Sequence

from evalscope_evalflow.config.own_judge import judge_deploy
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices.claims import claim
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.local_claims import claims_here


def judge_lines(task: Task, jobs: Sequence[Job]) -> list[str]:
    """The judge in words; nothing where none is deployed for these jobs."""
    judged = [job for job in jobs if job.asks_own_judge]
    judge = task.flow.judge
    if judge is None or not judged:
        return []
    deploy = judge_deploy(task.flow)
    engine = resolve_engine(judge, deploy)
    wanted = claim(engine, judge, deploy)
    answering = [job for job in jobs if job.asks_model]
    held = [set(found.devices) for found in claims_here(answering)] if answering else []
    where = ", ".join(wanted.devices)
    where = where if len(wanted.devices) == wanted.needs else f"{wanted.needs} of the devices {where}"
    if not any(devices & set(wanted.devices) for devices in held):
        turn = "at once"
    elif len(wanted.devices) == wanted.needs:
        turn = "after the last model's answers there"
    else:
        turn = "when they are free and no model waits for them"
    number = f"{len(judged)} model{'s' * (len(judged) != 1)}"
    return [f"judge {judge.name}: {engine.name} on {where}, {turn}; one start for {number}, not in the estimate"]
