"""`evalflow check`: prints what a task would do, and starts nothing."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.safe_console import SafeConsole
from evalscope_evalflow.sweep.plan import ModelPlan, Plan, plan_of


def check(task: Task) -> Plan:
    """Check a task; what takes longer than a moment is announced on standard error.

    Raises:
        ConfigError: it cannot work.
    """
    errors = SafeConsole(stderr=True, emoji=False, soft_wrap=True, highlight=False)
    return plan_of(task, lambda text: errors.print(escape(text), style="dim"))


def show_plan(task: Task, console: Console | None = None) -> None:
    """Check a task and print what it would do.

    Raises:
        ConfigError: it cannot work.
    """
    console = console or SafeConsole(emoji=False, soft_wrap=True, highlight=False)
    plan = check(task)
    console.print(f"{len(plan.models)} model(s) × {escape(', '.join(plan.datasets))}, backend {plan.backend}")
    for note in plan.notes:
        console.print(f"Note: {escape(note)}", style="yellow")
    for model in plan.models:
        _show_model(model, console)
    for line in plan.engines:
        console.print(escape(line))
    if len(plan.schedule) > 1:
        ends_s = max(item.ends_s for item in plan.schedule)
        console.print(f"About {ends_s:.0f} s in all, by bytes and samples alone:")
        for item in plan.schedule:
            console.print(f"  {escape(str(item))}")
    for exporter in plan.exporters:
        console.print(f"Results are exported by: {escape(exporter)}")
    if plan.free_port:
        console.print("Port 0, in a command, stands for one that is free.")
    console.print("Nothing was started.")


def _show_model(model: ModelPlan, console: Console) -> None:
    console.print(f"[bold]{escape(model.name)}[/bold] → {escape(shown_path(model.folder))}")
    if model.serving is not None:
        for line in model.serving.lines:
            console.print(f"  {escape(line)}")
    elif model.phases:
        console.print("  no engine: every answer that can be had is saved")
    else:
        console.print("  nothing is left to do")
    for line in (*([str(model.purchase)] if model.purchase else []), *model.budget):
        console.print(f"  {escape(line)}")
    for cell in model.datasets:
        console.print(f"  {escape(str(cell))}")
        for remark in cell.remarks:
            console.print(f"    {escape(remark)}", style="yellow")


def shown_path(path: Path) -> str:
    """A path as it is read best: relative where it lies below the current folder, absolute where it would climb."""
    relative = os.path.relpath(path)
    return os.path.abspath(path) if relative.split(os.sep)[0] == os.pardir else relative
