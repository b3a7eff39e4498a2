"""What a run says while it runs, and the table at its end. Everything goes to standard error but the table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from evalscope_evalflow.backends import DatasetResult
from evalscope_evalflow.task import Task


class Reporter:
    """Lines on what happens, with the seconds since the start."""

    def __init__(self, *, forward: bool = False, quiet: bool = False) -> None:
        """Prepare.

        Args:
            forward: show what EvalScope prints, as it comes.
            quiet: say nothing at all.
        """
        self.forward = forward
        self._console = Console(stderr=True, emoji=False, highlight=False, quiet=quiet, soft_wrap=True)
        self._start = time.monotonic()
        self._status: Status | None = None
        self._busy_since = self._start

    def say(self, text: str, *, style: str = "") -> None:
        """One line."""
        seconds = time.monotonic() - self._start
        with suppress(OSError):  # the terminal may be gone, and must not take the run's end along
            self._console.print(f"[dim]evalflow {seconds:6.1f} s[/dim]  {escape(text)}", style=style or None)

    def warn(self, text: str) -> None:
        """One line that must not be missed."""
        self.say(text, style="yellow")

    @contextmanager
    def busy(self, model: str, text: str) -> Iterator[None]:
        """Show, on a terminal, that something goes on with a model."""
        if self.forward or not self._console.is_terminal:
            yield
            return
        self._busy_since = time.monotonic()
        self._status = status = self._console.status(escape(f"{model}: {text}"))
        with suppress(OSError):
            status.start()
        try:
            yield
        finally:
            self._status = None
            with suppress(OSError):
                status.stop()

    @property
    def is_live(self) -> bool:
        """Whether there is a status line that `update` would change."""
        return self._status is not None

    def update(self, model: str, text: str) -> None:
        """Change what `busy` shows."""
        if self._status is not None:
            self._status.update(escape(f"{model}: {text}, {time.monotonic() - self._busy_since:.0f} s"))

    def output_of(self, model: str) -> Callable[[bytes], None]:
        """What passes on what EvalScope prints as it evaluates a model."""
        return _pass_on


def _pass_on(data: bytes) -> None:
    sys.stderr.write(data.decode("utf-8", "replace"))
    sys.stderr.flush()


def score_text(result: DatasetResult) -> str:
    """The headline figure, marked where it does not stand on every sample."""
    metric = result.metrics[0] if result.metrics else None
    if result.predicted_only:
        return "not judged" + ("" if result.complete else " (incomplete)")
    if metric is None or metric.score is None:
        return "none"
    if result.judged == 0 and 0 < result.answered <= result.fallbacks:
        return "none"  # the judge has said nothing of it: what there is is a rule's, or made of zeros
    return f"{metric.score:.4f}" + ("" if result.complete else " (incomplete)")


def show_table(
    results: Sequence[tuple[str, Sequence[DatasetResult], str | None]], console: Console | None = None
) -> None:
    """Print scores with what they stand on.

    Args:
        results: for each model its name, its results, and the error that ended it, if one did.
        console: where to print; default: standard output.
    """
    table = Table(title=None, header_style="bold")
    for column in ("model", "dataset", "metric"):
        table.add_column(column, overflow="fold")  # nothing is cut off
    judge = any(row.judged is not None for _, rows, _ in results for row in rows)
    for column in ("score", "samples", "failed", *(["judged"] if judge else [])):
        table.add_column(column, justify="right")
    for model, rows, error in results:
        if error:
            table.add_row(escape(model), "[red]failed[/red]", escape(error.splitlines()[0]), "", "", "")
        for row in rows:
            name = row.metrics[0].name if row.metrics else ""
            samples = f"{row.answered if row.predicted_only else row.succeeded}/{row.requested}"
            judged = [] if not judge else [""] if row.judged is None else [f"{row.judged}/{row.judged + row.fallbacks}"]
            cells = escape(model), escape(row.dataset), escape(name), score_text(row), samples, str(row.failed), *judged
            table.add_row(*cells, style=None if row.complete else "yellow")
    if console is None:
        console = Console(emoji=False)
        if not console.is_terminal:
            console = Console(emoji=False, width=120)  # a file has no width; rich would take 80
    console.print(table)
    for model, rows, _ in results:
        for row in rows:
            for note in row.notes:
                console.print(f"{escape(model)} / {escape(row.dataset)}: {escape(note)}", style="yellow")


def where_to_look(task: Task) -> str:
    """The lines after the table: the results' folder, and how `evalscope service` shows what is scored."""
    if task.flow.mode == "infer":
        return f"Answers and logs: {task.work_dir}\nNothing is judged yet: `mode: judge` does that, with this work_dir."
    extra = "" if find_spec("flask") else "pip install 'evalscope[service]', then "
    return (
        f"Reports, answers and logs: {task.work_dir}\nIn a browser: {extra}evalscope service --outputs {task.outputs}"
    )
