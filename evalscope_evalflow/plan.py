"""`evalflow check`: what a task would do, without doing it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines import Address, resolve_engine
from evalscope_evalflow.engines.environment import Environment
from evalscope_evalflow.needs import Needs, Survey, needs
from evalscope_evalflow.preflight import preflight
from evalscope_evalflow.serving.placement import place
from evalscope_evalflow.task import Task


@dataclass(frozen=True)
class Cell:
    """One model on one dataset, as the run folder has it now.

    Attributes:
        dataset: its name.
        state: done: nothing is left of it; answered: it is to be judged; started: some answers are saved; to do: none.
        answers: how many answers are saved.
    """

    dataset: str
    state: Literal["done", "answered", "started", "to do"]
    answers: int = 0

    def __str__(self) -> str:
        return f"{self.dataset}: {self.state}" + (f", {self.answers} answers are saved" if self.answers else "")


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
            found.append(Cell(dataset, "answered" if dataset in left.judge else "done", answers))
    return found


def show_plan(task: Task, console: Console | None = None) -> None:
    """Check a task, and print what it would do.

    Raises:
        ConfigError: it cannot work.
    """
    console = console or Console(emoji=False, soft_wrap=True, highlight=False)
    errors = Console(stderr=True, emoji=False, soft_wrap=True, highlight=False)
    survey = Survey(task)
    notes = preflight(task, lambda text: errors.print(escape(text), style="dim"), survey)
    console.print(f"{len(task.models)} model(s) × {escape(', '.join(task.datasets))}, backend {task.flow.backend}")
    for note in (*task.notes, *notes):
        console.print(f"Note: {escape(note)}", style="yellow")
    for model in task.models:
        deploy = task.flow.deploy_for(model)
        console.print(f"[bold]{escape(model.name)}[/bold] → {escape(os.path.relpath(task.folder(model)))}")
        left = survey.needs(model)
        if left.infer:
            for line in _serving(model, deploy):
                console.print(f"  {escape(line)}")
        elif left.judge:
            console.print("  no engine: every answer that can be had is saved")
        else:
            console.print("  nothing is left to do")
        for cell in cells(task, model, left):
            console.print(f"  {escape(str(cell))}")
    console.print("Nothing was started.")


def _serving(model: ModelConfig, deploy: DeployConfig) -> list[str]:
    """How a model would be served."""
    engine = resolve_engine(model, deploy)
    if not engine.local:
        return [f"{engine.name}: {model.api_url}, which answers"]
    placement = place(engine, model, deploy)
    deploy = placement.apply(deploy)
    env = Environment.find(deploy.env)
    command = engine.command(model, deploy, Address(deploy.host, deploy.port or 0, None), env)
    devices = "every device that it finds" if deploy.devices is None else f"devices {deploy.devices or 'none'}"
    lines = [f"{engine.name} on {devices}: {shlex.join(env.wrap(command.argv))}", *placement.lines]
    return lines if deploy.port else [*lines, "(port 0 here stands for one that is free)"]
