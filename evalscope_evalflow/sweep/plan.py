"""What a task would do, found without starting anything: the content of `evalflow check`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.api_url import public_url
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.one_pass import one_pass
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices.claims import Claim, settle
from evalscope_evalflow.devices.nvml import cached_reads
from evalscope_evalflow.devices.placement import place
from evalscope_evalflow.engines import Address, command_of, resolve_engine
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.run.folder_lock import refuse_folders_in_use
from evalscope_evalflow.run.purchase import Bought, Purchase, purchase
from evalscope_evalflow.run.resume import Remaining, remaining
from evalscope_evalflow.state import answer_counts
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.jobs import jobs_of, judged_at_once, order_of, parts_of, sharing_of
from evalscope_evalflow.sweep.judge_plan import JudgeTurn, judge_line, judge_turn
from evalscope_evalflow.sweep.local_claims import claims_here
from evalscope_evalflow.sweep.order import Turn, turns
from evalscope_evalflow.sweep.preparation import Prepared, prepare


@dataclass(frozen=True)
class Cell:
    """One model on one dataset, as the run folder has it now.

    Attributes:
        dataset: its name.
        state: done: nothing is left to do; answered: answers are to be judged; started: some answers are saved; to do:
            none are.
        answers: how many answers are saved.
        permanent: samples that failed permanently, and are not asked again.
        change: how it differs from what is answered, in words; empty where it does not.
        remarks: what is unusual about the saved answers, such as that some were cut off.
    """

    dataset: str
    state: Literal["done", "answered", "started", "to do"]
    answers: int = 0
    permanent: int = 0
    change: str = ""
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.dataset}: {self.state}"]
        if self.answers:
            parts.append(f"{self.answers} answers are saved")
        if self.permanent:
            parts.append(f"{self.permanent} failed permanently")
        if self.change:
            parts.append(f"{self.change}, and answers to the same questions count")
        return ", ".join(parts)


def cells(task: Task, model: ModelConfig, left: Remaining | None = None) -> list[Cell]:
    """What is done of a model, dataset by dataset; EvalScope is not imported.

    Args:
        task: the task.
        model: one of its models.
        left: what is left of the model; default: its run folder is read.
    """
    left = left or remaining(task, model)
    if not task.flow.reuse and left.infer:
        return [Cell(dataset, "to do") for dataset in task.datasets]
    found = []
    counts = answer_counts.read(task.folder(model))
    for dataset in task.datasets:
        answers = left.answers[dataset]
        remarks = tuple(counts[dataset].remarks(answers)) if answers and dataset in counts else ()
        change = left.changes[dataset].value if answers and dataset in left.changes else ""
        if dataset in left.infer:
            found.append(Cell(dataset, "started" if answers else "to do", answers, change=change, remarks=remarks))
        else:
            state: Literal["answered", "done"] = "answered" if dataset in left.judge else "done"
            found.append(Cell(dataset, state, answers, left.permanent.get(dataset, 0), change, remarks))
    return found


@dataclass(frozen=True)
class Serving:
    """How a model would be served.

    Attributes:
        engine: its name.
        where: the executor that runs it, if that is not this machine; then nothing else is known.
        url: of an API that runs elsewhere, without user and query.
        devices: that it would be given; None: all that the engine finds; empty: none.
        command: the engine's command, without keys; empty for an API. Port 0 stands for one that is free.
        notes: more on the placement, such as the memory that is needed.
        turn: when its turn comes, from 1; 0: it is the only one.
        turn_text: the turn in words.
        such_as: whether models before it may leave it other devices.
    """

    engine: str
    where: str = ""
    url: str = ""
    devices: str | None = ""
    command: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    turn: int = 0
    turn_text: str = ""
    such_as: bool = False

    @property
    def lines(self) -> list[str]:
        """It in words."""
        if self.where:
            return [f"{self.engine}, where the executor {self.where} runs it"]
        turn = [self.turn_text] if self.turn else []
        if self.url:
            return [*turn, f"{self.engine}: {self.url}, which answers"]
        devices = f"devices {'such as ' if self.such_as else ''}{self.devices or 'none'}"
        if self.devices is None:
            devices = "every device that it finds"
        return [*turn, f"{self.engine} on {devices}: {shlex.join(self.command)}", *self.notes]


@dataclass(frozen=True)
class ModelPlan:
    """What is left to do of one model.

    Attributes:
        name: the model's.
        folder: its run folder.
        phases: what would be run: "infer", "judge", both or neither.
        serving: how it would be served; None: no engine is needed.
        purchase: what it would buy; None: nothing is left to do.
        budget: how much of each budget is used, a line each.
        datasets: what is done, dataset by dataset.
    """

    name: str
    folder: Path
    phases: tuple[str, ...]
    serving: Serving | None
    purchase: Purchase | None
    budget: tuple[str, ...]
    datasets: tuple[Cell, ...]


@dataclass(frozen=True)
class Scheduled:
    """When a model has its turn, in seconds from the start; they are estimates from bytes and samples alone.

    Attributes:
        model: its name; "judge NAME" for the judge that the sweep deploys.
        devices: that it is given, or what stands for them; empty: it is only judged.
        begins_s: when its engine starts, or is taken over.
        answered_s: when its last answer has come.
        ends_s: when its answers are judged.
        engine_of: the model whose engine it takes over; empty: it has one of its own.
    """

    model: str
    devices: tuple[str, ...]
    begins_s: float
    answered_s: float
    ends_s: float
    engine_of: str = ""

    def __str__(self) -> str:
        engine = f", takes {self.engine_of}'s engine" if self.engine_of else ""
        judged = f", judged until {self.ends_s:.0f} s" if self.ends_s > self.answered_s else ""
        times = f"{self.begins_s:.0f}–{self.answered_s:.0f} s"
        return f"{times}: {self.model} on {', '.join(self.devices) or 'no device'}{engine}{judged}"


@dataclass(frozen=True)
class Plan:
    """What a task would do.

    Attributes:
        backend: the stock backend.
        datasets: names of the task's datasets.
        models: what is left to do of each model.
        exporters: names of what exports the results.
        executor: what runs the models.
        notes: what is no obstacle, but should be known.
        free_port: whether a command has a port 0, which stands for a free one.
        engines: which models use one engine, and why others cannot, a line each.
        schedule: who runs when and on which devices, by estimates.
    """

    backend: str
    datasets: tuple[str, ...]
    models: tuple[ModelPlan, ...]
    exporters: tuple[str, ...] = ()
    executor: str = "local"
    notes: tuple[str, ...] = field(default=())
    free_port: bool = False
    engines: tuple[str, ...] = ()
    schedule: tuple[Scheduled, ...] = ()


def plan_of(task: Task, log: Callable[[str], None]) -> Plan:
    """Check a task, and find what it would do.

    Args:
        task: the task.
        log: is called with a line about each check that takes longer than a moment.

    Raises:
        ConfigError: it cannot work.
    """
    with cached_reads(), one_pass():
        return _plan(prepare(task, log))


def _plan(prepared: Prepared) -> Plan:
    task, survey, here = prepared.task, prepared.survey, prepared.executor.on_this_machine
    notes = list(prepared.notes)
    try:
        if here:
            refuse_folders_in_use([task.folder(model) for model in task.models])
    except ConfigError as error:  # that run may have ended when the task is run
        notes += [f"it cannot run now: {problem}" for problem in error.problems]
    jobs, spent = jobs_of(task, survey), Bought(task)
    left_over = [job for job in jobs if job.phases]
    turn_of, judge = _turns(task, left_over) if here else ({}, None)
    schedule = [turn.scheduled for turn in turn_of.values() if turn.scheduled]
    if judge is not None:
        schedule.append(_judge_scheduled(judge, left_over))
    free_port = False
    models = []
    for model, job in zip(task.models, jobs, strict=True):
        left = survey.remaining(model)
        serving = None
        if left.infer and not here:
            serving = Serving(resolve_engine(model, job.deploy).name, where=prepared.executor.name)
        elif left.infer:
            free_port |= job.deploy.port is None and resolve_engine(model, job.deploy).local
            serving = _serving(job, turn_of[model.name], len(turn_of))
        bought = purchase(task, model, left, spent) if left.phases else None
        models.append(
            ModelPlan(
                model.name,
                task.folder(model),
                tuple(left.phases),
                serving,
                bought,
                tuple(spent.budget_lines(model)),
                tuple(cells(task, model, left)),
            )
        )
    return Plan(
        task.flow.backend,
        tuple(task.datasets),
        tuple(models),
        tuple(exporter.name for exporter in prepared.exporters),
        prepared.executor.name,
        tuple(notes),
        free_port,
        engines=(*sharing_of(jobs).lines, *([judge_line(judge, left_over)] if judge else [])) if here else (),
        schedule=tuple(sorted(schedule, key=lambda item: item.begins_s)),
    )


@dataclass(frozen=True)
class _Turn:
    """When a model's turn comes, from 1, and the devices that it may then be given."""

    rank: int
    claim: Claim
    scheduled: Scheduled | None

    def describe(self, models: int) -> str:
        """The turn in words."""
        names = self.claim.devices
        what = names[0] if len(names) == 1 else f"{self.claim.needs} of the devices {', '.join(names)}"
        if self.scheduled is not None and self.scheduled.engine_of:
            what += f", with {self.scheduled.engine_of}'s engine"
        return f"number {self.rank} of {models} to begin, when it can have {what}"


def _turns(task: Task, jobs: Sequence[Job]) -> tuple[dict[str, _Turn], JudgeTurn | None]:
    """The turn of each job's model, by the model's name, and that of the judge which is deployed."""
    claims = claims_here(jobs)
    order = order_of(jobs, claims)
    in_time = turns(parts_of(jobs, claims), order, judged_at_once(jobs)) or []
    judge = judge_turn(task, jobs, in_time)
    found = {turn.job: _scheduled(jobs, turn, judge) for turn in in_time}
    ranks = enumerate(order.jobs, start=1)
    return {jobs[job].model.name: _Turn(rank, claims[job], found.get(job)) for rank, job in ranks}, judge


def _scheduled(jobs: Sequence[Job], turn: Turn, judge: JudgeTurn | None) -> Scheduled:
    engine_of = "" if turn.engine_of is None else jobs[turn.engine_of].model.name
    job = jobs[turn.job]
    ends_s = judge.judged_s.get(turn.job, turn.ends_s) if judge is not None else turn.ends_s
    times = (round(turn.begins_s, 1), round(turn.answered_s, 1), round(ends_s, 1))
    return Scheduled(job.model.name, turn.devices if job.asks_model else (), *times, engine_of)


def _judge_scheduled(judge: JudgeTurn, jobs: Sequence[Job]) -> Scheduled:
    engine_of = "" if judge.engine_of is None else jobs[judge.engine_of].model.name
    times = (round(judge.begins_s, 1), round(judge.ends_s, 1), round(judge.ends_s, 1))
    return Scheduled(f"judge {judge.name}", judge.devices[: judge.needs], *times, engine_of)


def _serving(job: Job, turn: _Turn, models: int) -> Serving:
    """How a model would be served, if it were the first of those that wait.

    Args:
        job: the model's job.
        turn: its turn.
        models: those that need an engine, this one included.
    """
    model, deploy, claim, waiting = job.model, job.deploy, turn.claim, models - 1
    engine = resolve_engine(model, deploy)
    rank, text = (turn.rank, turn.describe(models)) if waiting else (0, "")
    if not engine.local:
        return Serving(engine.name, url=public_url(model.api_url or ""), turn=rank, turn_text=text)
    if waiting and not claim.measured:
        settings = settle(engine, model, deploy, claim, claim.devices, waiting)
        deploy = deploy.model_copy(update=settings or {})
    among = claim.devices if waiting and claim.measured else None
    placement = place(engine, model, deploy, waiting=waiting, among=among)
    deploy = placement.apply(deploy)
    env = Environment.find(deploy.env)
    command = command_of(engine, model, deploy, Address(deploy.host, deploy.port or 0, None), env)
    return Serving(
        engine.name,
        devices=deploy.devices,
        command=tuple(env.wrap(command.argv)),
        notes=tuple(placement.lines),
        turn=rank,
        turn_text=text,
        such_as=turn.rank != 1 and bool(deploy.devices),
    )
