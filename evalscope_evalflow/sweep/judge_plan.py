"""What `check` says of the judge that a sweep deploys: which engine, where, and when its turn comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalscope_evalflow.config.own_judge import judge_deploy
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices.claims import claim
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.judge_sharing import lenders
from evalscope_evalflow.sweep.order import Turn
from evalscope_evalflow.sweep.size import Size, stored_bytes


@dataclass(frozen=True)
class JudgeTurn:
    """When the judge has its turn, by the estimates, in seconds from the first start.

    Attributes:
        name: its name.
        engine: its engine's.
        devices: that it may be given.
        needs: how many of them it takes.
        begins_s: when it is started, or takes a model's engine.
        judged_s: when each job is judged, by its number.
        engine_of: the number of the job whose engine it goes on with; None: it has one of its own.
        at_once: whether no model is in its way.
    """

    name: str
    engine: str
    devices: tuple[str, ...]
    needs: int
    begins_s: float
    judged_s: Mapping[int, float]
    engine_of: int | None
    at_once: bool

    @property
    def ends_s(self) -> float:
        """When it is released."""
        return max(self.judged_s.values())


def judge_turn(task: Task, jobs: Sequence[Job], turns: Sequence[Turn]) -> JudgeTurn | None:
    """The judge's turn; None where none is deployed for these jobs.

    Args:
        task: the task.
        jobs: its jobs.
        turns: the turn of each that has devices, in the order in which they are given back.
    """
    judge = task.flow.judge
    judged = [number for number, job in enumerate(jobs) if job.asks_own_judge]
    if judge is None or not judged:
        return None
    deploy = judge_deploy(task.flow)
    engine = resolve_engine(judge, deploy)
    wanted = claim(engine, judge, deploy)
    ended = {turn.job: turn.answered_s for turn in turns}
    released = dict.fromkeys(wanted.devices, 0.0)
    last: dict[str, int] = {}
    for turn in turns:
        for name in turn.devices if jobs[turn.job].asks_model else ():
            if name in released:
                released[name], last[name] = turn.answered_s, turn.job
    begins_s = sorted(released.values())[wanted.needs - 1]
    lending = lenders(jobs)
    follows = [
        number for name, number in last.items() if number in lending and released[name] == max(released.values())
    ]
    engine_of = follows[0] if follows else None
    load_bytes = stored_bytes(judge.path)
    now = begins_s + (0.0 if engine_of is not None else Size(load_bytes=load_bytes).start_s)
    judged_s: dict[int, float] = {}
    for number in sorted(judged, key=lambda number: ended.get(number, 0.0)):
        size = jobs[number].size
        most = min(size.verdicts_at_once, engine.max_num_seqs(deploy))
        now = max(now, ended.get(number, 0.0)) + size.judge_s * size.verdicts_at_once / most
        judged_s[number] = now
    at_once = not any(released.values())
    return JudgeTurn(
        judge.name, engine.name, wanted.devices, wanted.needs, begins_s, judged_s, engine_of, at_once
    )  # fmt: skip


def judge_line(turn: JudgeTurn, jobs: Sequence[Job]) -> str:
    """The judge in words."""
    where = ", ".join(turn.devices)
    where = where if len(turn.devices) == turn.needs else f"{turn.needs} of the devices {where}"
    if turn.engine_of is not None:
        when = f"with {jobs[turn.engine_of].model.name}'s engine"
    elif turn.at_once:
        when = "at once"
    elif len(turn.devices) == turn.needs:
        when = "after the last model's answers there"
    else:
        when = "when they are free and no model waits for them"
    number = f"{len(turn.judged_s)} model{'s' * (len(turn.judged_s) != 1)}"
    start = "" if turn.engine_of is not None else "one start "
    return f"judge {turn.name}: {turn.engine} on {where}, {when}; {start}for {number}"
