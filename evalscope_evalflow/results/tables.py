"""The table of scores at a run's end, on standard output."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from shlex import quote
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evalscope_evalflow.backends import DatasetResult
from evalscope_evalflow.display.safe_console import SafeConsole
from evalscope_evalflow.results import marks

if TYPE_CHECKING:
    from evalscope_evalflow.config.task import Task

INTERVAL = "95 % interval"
FEW_GROUPS = f"{marks.FEW} {marks.FEW_TEXT}"
INCOMPLETE = f"{marks.INCOMPLETE} {marks.INCOMPLETE_TEXT}"


def interval_text(interval: tuple[float, float] | None, few_groups: bool | None) -> str:
    """A confidence interval, marked where it is only rough; empty where there is none."""
    if interval is None:
        return ""
    return f"{marks.FEW if few_groups else ''}{interval[0]:.3f}–{interval[1]:.3f}"


def score_text(result: DatasetResult) -> str:
    """The headline score, marked where it does not cover every sample."""
    if result.predicted_only:
        return "not judged" + ("" if result.complete else " (incomplete)")
    score = result.score
    return (score.text + ("" if score.complete else " (incomplete)")) if score.text else "none"


def show_table(
    results: Sequence[tuple[str, Sequence[DatasetResult], str | None]], console: Console | None = None
) -> None:
    """Print each score with the samples that it covers.

    Args:
        results: for each model its name, its results, and the error that ended it, if one did.
        console: where to print; default: standard output.
    """
    table = Table(title=None, header_style="bold")
    for column in ("model", "dataset", "metric"):
        table.add_column(column, overflow="fold")  # nothing is cut off
    judge = any(row.judged is not None for _, rows, _ in results for row in rows)
    cut = any(row.score.cut_off for _, rows, _ in results for row in rows)
    empty = any(row.score.empty for _, rows, _ in results for row in rows)
    more = [*(["judged"] if judge else []), *(["cut off"] if cut else []), *(["no text"] if empty else [])]
    intervals = any(row.score.interval for _, rows, _ in results for row in rows)
    for column in ("score", *([INTERVAL] if intervals else []), "samples", "failed", *more):
        table.add_column(column, justify="right")
    for model, rows, error in results:
        if error:
            table.add_row(escape(model), "[red]failed[/red]", escape(error.splitlines()[0]), "", "", "")
        for row in rows:
            name = row.metrics[0].name if row.metrics else ""
            covered = row.answered if row.predicted_only else row.succeeded - row.left_out
            samples = f"{covered}/{row.requested}"
            judged = [] if not judge else [""] if row.judged is None else [f"{row.judged}/{row.judged + row.fallbacks}"]
            between = [interval_text(row.score.interval, row.score.few_groups)] if intervals else []
            names = escape(model), escape(row.dataset), escape(name)
            cells = *names, score_text(row), *between, samples, str(row.failed), *judged
            beside = [*([str(row.score.cut_off)] if cut else []), *([str(row.score.empty)] if empty else [])]
            table.add_row(*cells, *beside, style=None if row.complete else "yellow")
    if console is None:
        console = SafeConsole(emoji=False)
        if not console.is_terminal:
            console = SafeConsole(emoji=False, width=120)  # a file has no width; rich would take 80
    console.print(table)
    if any(row.score.few_groups and row.score.interval for _, rows, _ in results for row in rows):
        console.print(FEW_GROUPS)
    for model, rows, _ in results:
        for row in rows:
            for note in (*row.notes, *row.remarks):
                console.print(f"{escape(model)} / {escape(row.dataset)}: {escape(note)}", style="yellow")


def where_to_look(task: Task) -> str:
    """The lines after the table: the results' folder, and how `evalscope service` shows what is scored."""
    if task.flow.mode == "infer":
        return f"Answers and logs: {task.work_dir}\nNothing is judged yet: `mode: judge` does that, with this work_dir."
    extra = "" if find_spec("flask") else "pip install 'evalscope[service]', then "
    return (
        f"Reports, answers and logs: {task.work_dir}\n"
        f"Scores and samples: evalflow show {quote(str(task.work_dir))}\n"
        f"In a browser: {extra}evalscope service --host 127.0.0.1 --outputs {quote(str(task.outputs))}\n"
        "  (its Compare page sets reports side by side; `evalflow show DIR --browser` has all runs below a folder)"
    )
