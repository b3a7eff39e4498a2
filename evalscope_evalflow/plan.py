"""`evalflow check`: what a task would do, without doing it."""

from __future__ import annotations

import os
import shlex

from rich.console import Console
from rich.markup import escape

from evalscope_evalflow.engines import Address, resolve_engine
from evalscope_evalflow.engines.environment import Environment
from evalscope_evalflow.preflight import preflight
from evalscope_evalflow.task import Task


def show_plan(task: Task, console: Console | None = None) -> None:
    """Check a task, and print what it would do.

    Raises:
        ConfigError: it cannot work.
    """
    preflight(task)
    console = console or Console(soft_wrap=True, highlight=False)
    console.print(f"{len(task.models)} model(s) × {escape(', '.join(task.datasets))}, backend {task.flow.backend}")
    for note in task.notes:
        console.print(f"Note: {escape(note)}", style="yellow")
    for model in task.models:
        deploy = task.flow.deploy_for(model)
        engine = resolve_engine(model, deploy)
        console.print(f"[bold]{escape(model.name)}[/bold] → {escape(os.path.relpath(task.folder(model)))}")
        if engine.local:
            address = Address(deploy.host, deploy.port or 0, None)
            env = Environment.find(deploy.env)
            command = engine.command(model, deploy, address, env)
            console.print(f"  {engine.name}: {escape(shlex.join(env.wrap(command.argv)))}")
            if not deploy.port:
                console.print("  (port 0 here stands for one that is free)")
        else:
            console.print(f"  {engine.name}: {escape(str(model.api_url))}, which answers")
    console.print("Nothing was started.")
