"""`evalflow check`: what a task would do, without doing it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape

from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices.claims import settle
from evalscope_evalflow.devices.nvml import cached_reads
from evalscope_evalflow.devices.placement import place
from evalscope_evalflow.engines import Address, resolve_engine
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.run.active_runs import refuse_folders_in_use
from evalscope_evalflow.run.preflight import preflight
from evalscope_evalflow.run.resume import Needs, Survey, needs
from evalscope_evalflow.sweep.executors import load_executor
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.jobs import jobs, order_of


@dataclass(frozen=True)
class Cell:
    """One model on one dataset, as the run folder has it now.

    Attributes:
        dataset: its name.
        state: done: nothing is left of it; answered: it is to be judged; started: some answers are saved; to do: none.
        answers: how many answers are saved.
        for_good: samples that have none, and are not asked again.
    """

    dataset: str
    state: Literal["done", "answered", "started", "to do"]
    answers: int = 0
    for_good: int = 0

    def __str__(self) -> str:
        answers = f", {self.answers} answers are saved" if self.answers else ""
        return f"{self.dataset}: {self.state}{answers}" + (
            f", {self.for_good} failed for good" if self.for_good else ""
        )


def cells(task: Task, model: ModelConfig, left: Needs | None = None) -> list[Cell]:
    """What of a model's part of the task is done, dataset by dataset; EvalScope is not imported.

    Args:
        task: it.
        model: the model.
        left: what is left of it, where that was looked at just now.
    """
    left = left or needs(task, model)
    if not task.flow.reuse and left.infer:
        return [Cell(dataset, "to do") for dataset in task.datasets]
    found = []
    for dataset in task.datasets:
        answers = left.answers[dataset]
        if dataset in left.infer:
            found.append(Cell(dataset, "started" if answers else "to do", answers))
        else:
            state: Literal["answered", "done"] = "answered" if dataset in left.judge else "done"
            found.append(Cell(dataset, state, answers, left.for_good.get(dataset, 0)))
    return found


def show_plan(task: Task, console: Console | None = None) -> None:
    """Check a task, and print what it would do.

    Raises:
        ConfigError: it cannot work.
    """
    console = console or Console(emoji=False, soft_wrap=True, highlight=False)
    errors = Console(stderr=True, emoji=False, soft_wrap=True, highlight=False)
    load_executor(task.flow.executor)
    with cached_reads():
        _show_plan(task, console, errors)


def _show_plan(task: Task, console: Console, errors: Console) -> None:
    survey = Survey(task)
    notes = preflight(task, lambda text: errors.print(escape(text), style="dim"), survey)
    console.print(f"{len(task.models)} model(s) × {escape(', '.join(task.datasets))}, backend {task.flow.backend}")
    try:
        refuse_folders_in_use([task.folder(model) for model in task.models])
    except ConfigError as error:  # it may be over when the task is run
        notes += [f"it cannot run now: {problem}" for problem in error.problems]
    for note in (*task.notes, *notes):
        console.print(f"Note: {escape(note)}", style="yellow")
    todo = jobs(task, survey)
    left_to_do = [job for job in todo if job.claim.needs]
    turns = {left_to_do[number].model.name: rank for rank, number in enumerate(order_of(left_to_do).jobs, start=1)}
    free_port = False
    for model, job in zip(task.models, todo, strict=True):
        console.print(f"[bold]{escape(model.name)}[/bold] → {escape(os.path.relpath(task.folder(model)))}")
        left = survey.needs(model)
        if left.infer:
            if len(turns) > 1:
                console.print(f"  {escape(_turn(job, turns[model.name], len(turns)))}")
            deploy = task.flow.deploy_for(model)
            free_port |= deploy.port is None and resolve_engine(model, deploy).local
            for line in _serving(job, len(turns) - 1, first=turns[model.name] == 1):
                console.print(f"  {escape(line)}")
        elif left.judge:
            console.print("  no engine: every answer that can be had is saved")
        else:
            console.print("  nothing is left to do")
        for cell in cells(task, model, left):
            console.print(f"  {escape(str(cell))}")
    if free_port:
        console.print("Port 0, in a command, stands for one that is free.")
    console.print("Nothing was started.")


def _turn(job: Job, rank: int, models: int) -> str:
    """When a model's turn comes, and what it is given then."""
    names = job.claim.devices
    what = names[0] if len(names) == 1 else f"{job.claim.needs} of the devices {', '.join(names)}"
    return f"number {rank} of {models} to begin, when it can have {what}"


def _serving(job: Job, waiting: int, *, first: bool) -> list[str]:
    """How a model would be served, if it were the first of those that wait, which `first` says that it is."""
    model, deploy = job.model, job.task.flow.deploy_for(job.model)
    engine = resolve_engine(model, deploy)
    if not engine.local:
        return [f"{engine.name}: {model.api_url}, which answers"]
    if waiting and not job.claim.measured:
        settings = settle(engine, model, deploy, job.claim, job.claim.devices, waiting)
        deploy = deploy.model_copy(update=settings or {})
    among = job.claim.devices if waiting and job.claim.measured else None
    placement = place(engine, model, deploy, waiting=waiting, among=among)
    deploy = placement.apply(deploy)
    env = Environment.find(deploy.env)
    command = engine.command(model, deploy, Address(deploy.host, deploy.port or 0, None), env)
    such_as = "" if first or not deploy.devices else "such as "  # whoever comes before it may have others
    devices = f"devices {such_as}{deploy.devices or 'none'}"
    if deploy.devices is None:
        devices = "every device that it finds"
    return [f"{engine.name} on {devices}: {shlex.join(env.wrap(command.argv))}", *placement.lines]
