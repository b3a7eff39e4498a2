"""`evalflow check`: prints what a task would do, and starts nothing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape

from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.api_url import public_url
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices.claims import Claim, settle
from evalscope_evalflow.devices.nvml import cached_reads
from evalscope_evalflow.devices.placement import place
from evalscope_evalflow.engines import Address, command_of, resolve_engine
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.run.folder_lock import refuse_folders_in_use
from evalscope_evalflow.run.purchase import Bought, purchase
from evalscope_evalflow.run.resume import Remaining, remaining
from evalscope_evalflow.state import answer_counts
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.jobs import jobs_of, order_of
from evalscope_evalflow.sweep.local_claims import claims_here
from evalscope_evalflow.sweep.preparation import prepare


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
    """

    dataset: str
    state: Literal["done", "answered", "started", "to do"]
    answers: int = 0
    permanent: int = 0
    change: str = ""

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
    for dataset in task.datasets:
        answers = left.answers[dataset]
        change = left.changes[dataset].value if answers and dataset in left.changes else ""
        if dataset in left.infer:
            found.append(Cell(dataset, "started" if answers else "to do", answers, change=change))
        else:
            state: Literal["answered", "done"] = "answered" if dataset in left.judge else "done"
            found.append(Cell(dataset, state, answers, left.permanent.get(dataset, 0), change))
    return found


def show_plan(task: Task, console: Console | None = None) -> None:
    """Check a task and print what it would do.

    Raises:
        ConfigError: it cannot work.
    """
    console = console or Console(emoji=False, soft_wrap=True, highlight=False)
    errors = Console(stderr=True, emoji=False, soft_wrap=True, highlight=False)
    with cached_reads():
        _show_plan(task, console, errors)


def _show_plan(task: Task, console: Console, errors: Console) -> None:
    prepared = prepare(task, lambda text: errors.print(escape(text), style="dim"))
    task, survey, here = prepared.task, prepared.survey, prepared.executor.on_this_machine
    console.print(f"{len(task.models)} model(s) × {escape(', '.join(task.datasets))}, backend {task.flow.backend}")
    notes = list(prepared.notes)
    try:
        refuse_folders_in_use([task.folder(model) for model in task.models])
    except ConfigError as error:  # that run may have ended when the task is run
        notes += [f"it cannot run now: {problem}" for problem in error.problems]
    for note in notes:
        console.print(f"Note: {escape(note)}", style="yellow")
    jobs, bought = jobs_of(task, survey), Bought(task)
    turns = _turns([job for job in jobs if job.phases]) if here else {}
    free_port = False
    for model, job in zip(task.models, jobs, strict=True):
        console.print(f"[bold]{escape(model.name)}[/bold] → {escape(shown_path(task.folder(model)))}")
        left = survey.remaining(model)
        if left.infer and not here:
            engine = resolve_engine(model, job.deploy).name
            console.print(f"  {escape(engine)}, where the executor {escape(prepared.executor.name)} runs it")
        elif left.infer:
            turn = turns[model.name]
            if len(turns) > 1:
                console.print(f"  {escape(turn.describe(len(turns)))}")
            free_port |= job.deploy.port is None and resolve_engine(model, job.deploy).local
            for line in _serving(job, turn, len(turns) - 1):
                console.print(f"  {escape(line)}")
        elif left.judge:
            console.print("  no engine: every answer that can be had is saved")
        else:
            console.print("  nothing is left to do")
        if left.phases:
            console.print(f"  {escape(str(purchase(task, model, left, bought)))}")
        for line in bought.budget_lines(model):
            console.print(f"  {escape(line)}")
        counts = answer_counts.read(task.folder(model))
        for cell in cells(task, model, left):
            console.print(f"  {escape(str(cell))}")
            if cell.answers and cell.dataset in counts:
                for remark in counts[cell.dataset].remarks(cell.answers):
                    console.print(f"    {escape(remark)}", style="yellow")
    for exporter in prepared.exporters:
        console.print(f"Results are exported by: {escape(exporter.name)}")
    if free_port:
        console.print("Port 0, in a command, stands for one that is free.")
    console.print("Nothing was started.")


def shown_path(path: Path) -> str:
    """A path as it is read best: relative where it lies below the current folder, absolute where it would climb."""
    relative = os.path.relpath(path)
    return os.path.abspath(path) if relative.split(os.sep)[0] == os.pardir else relative


@dataclass(frozen=True)
class _Turn:
    """When a model's turn comes, from 1, and the devices that it may then be given."""

    rank: int
    claim: Claim

    def describe(self, models: int) -> str:
        """The turn in words."""
        names = self.claim.devices
        what = names[0] if len(names) == 1 else f"{self.claim.needs} of the devices {', '.join(names)}"
        return f"number {self.rank} of {models} to begin, when it can have {what}"


def _turns(jobs: Sequence[Job]) -> dict[str, _Turn]:
    """The turn of each job's model, by the model's name."""
    claims = claims_here(jobs)
    order = order_of(jobs, claims).jobs
    return {jobs[number].model.name: _Turn(rank, claims[number]) for rank, number in enumerate(order, start=1)}


def _serving(job: Job, turn: _Turn, waiting: int) -> list[str]:
    """How a model would be served, if it were the first of those that wait.

    Args:
        job: the model's job.
        turn: its turn.
        waiting: other models that wait for devices.
    """
    model, deploy, claim = job.model, job.deploy, turn.claim
    engine = resolve_engine(model, deploy)
    if not engine.local:
        return [f"{engine.name}: {public_url(model.api_url or '')}, which answers"]
    if waiting and not claim.measured:
        settings = settle(engine, model, deploy, claim, claim.devices, waiting)
        deploy = deploy.model_copy(update=settings or {})
    among = claim.devices if waiting and claim.measured else None
    placement = place(engine, model, deploy, waiting=waiting, among=among)
    deploy = placement.apply(deploy)
    env = Environment.find(deploy.env)
    command = command_of(engine, model, deploy, Address(deploy.host, deploy.port or 0, None), env)
    such_as = "" if turn.rank == 1 or not deploy.devices else "such as "  # models before it may have others
    devices = f"devices {such_as}{deploy.devices or 'none'}"
    if deploy.devices is None:
        devices = "every device that it finds"
    return [f"{engine.name} on {devices}: {shlex.join(env.wrap(command.argv))}", *placement.lines]
