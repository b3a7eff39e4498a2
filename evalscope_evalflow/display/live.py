"""What a person sees while several models run: one live view on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from evalscope_evalflow.display.live_rows import LiveRow, lay_out
from evalscope_evalflow.display.progress_text import duration
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import Stopped
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.terminal_text import printable_log

REFRESHES_PER_S = 2
LEAST_ROWS = 3
_AROUND = 6  # lines of a screen that are not for rows: the table's head and foot, the sum below, the prompt
WAITING, DONE, FAILED, STOPPED = "waiting", "done", "failed", "stopped"
FINISHED = (DONE, FAILED, STOPPED)


@dataclass
class Row:
    """One model.

    Attributes:
        state: waiting, loading, evaluating, judging, done, failed, …
        text: the state, with what there is to say of it.
        devices: the devices that it runs on.
        since: when the state began, in seconds of the monotonic clock.
        progress: how far it is; None: nothing is counted.
        trouble: what is wrong with its API now.
    """

    state: str = WAITING
    text: str = ""
    devices: str = ""
    since: float = 0.0
    progress: DatasetProgress | None = None
    trouble: str = ""


class LiveReporter(Reporter):
    """Shows several models at once, on the terminal of another reporter."""

    def __init__(self, reporter: Reporter, models: Sequence[str]) -> None:
        """
        Args:
            reporter: whose terminal it is.
            models: their names, in the order of the task.
        """
        self.forward, self._console, self._start = reporter.forward, reporter._console, reporter._start
        self._status = None
        self._lock = threading.Lock()
        self._active: dict[str, Row] = {}  # those that wait or have ended are only counted
        self._counts = Counter({WAITING: len(models)})
        self._models = len(models)
        self._live: Live | None = None
        if self._console.is_terminal and not self.forward:
            self._live = Live(
                get_renderable=self.view, console=self._console, refresh_per_second=REFRESHES_PER_S, transient=True
            )

    def __enter__(self) -> LiveReporter:
        if self._live is not None:
            with suppress(OSError):
                self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            with suppress(OSError):  # the terminal may be gone
                self._live.stop()

    @property
    def is_live(self) -> bool:
        return self._live is not None

    def begin(self, model: str, text: str) -> None:
        self._set(model, text, text)

    def end(self, model: str) -> None:
        """What the model did last stays shown until it does something else."""

    def update(self, model: str, text: str) -> None:
        with self._lock:
            if model in self._active:
                self._active[model].text = text

    def progress(self, model: str, state: str, progress: DatasetProgress, trouble: str) -> None:
        with self._lock:
            if model in self._active:
                row = self._active[model]
                row.text, row.progress, row.trouble = state, progress, trouble

    def ask(self, question: str) -> bool | None:
        """Ask the user; the view is paused meanwhile.

        Returns:
            Whether the answer begins with y; None: there is nobody to ask.
        """
        if not (sys.stdin and sys.stdin.isatty() and self._console.is_terminal):
            return None
        if self._live is not None:
            self._live.stop()
        try:
            return self._console.input(f"{escape(question)} \\[y/N] ").strip().lower().startswith("y")
        except EOFError:
            return None
        finally:
            if self._live is not None:
                self._live.start()

    def output_of(self, model: str) -> Callable[[bytes], None]:
        return _Lines(model).write

    def given(self, model: str, devices: str) -> None:
        """A model starts on these devices."""
        with self._lock:
            self._row(model).devices = devices

    def ended(self, model: str, future: Future[Any]) -> None:
        """A model has finished."""
        error = future.exception()
        how = DONE if error is None else STOPPED if isinstance(error, Stopped) else FAILED
        with self._lock:
            row = self._active.pop(model, Row())
            self._counts[row.state] -= 1
            self._counts[how] += 1
            finished = sum(self._counts[state] for state in FINISHED)
        if error:
            self.warn(f"{model}: {error}")
        self.log(f"{model}: {how}; {finished} of {self._models} models finished")

    def view(self) -> RenderableType:
        """The view: a row for each model at work, as far as they fit, and how many wait or have finished."""
        rows = self.rows()
        room = max(LEAST_ROWS, self._console.height - _AROUND)
        more = f" · {len(rows) - room} of them not shown" if len(rows) > room else ""
        if not rows:
            return Text(self.summary(), style="dim")
        layout = lay_out(rows[:room], self._console.width)
        shared = f" · all: {layout.shared}" if layout.shared else ""
        return Group(
            Text(layout.head, style="bold", no_wrap=True),
            *(Text(line, no_wrap=True) for line in layout.rows),
            Text(f"{self.summary()}{shared}{more}", style="dim"),
        )

    def rows(self) -> list[LiveRow]:
        """What is shown of each model at work."""
        now = time.monotonic()
        with self._lock:
            return [
                LiveRow(model, row.text, row.devices, now - row.since, row.progress, row.trouble)
                for model, row in self._active.items()
            ]

    def summary(self) -> str:
        """How many models wait, are at work, or have finished."""
        with self._lock:
            counts = {state: number for state, number in self._counts.items() if number}
        order = (*FINISHED, *sorted(counts.keys() - {*FINISHED, WAITING}), WAITING)
        sums = " · ".join(f"{counts[state]} {state}" for state in order if state in counts)
        return f"{self._models} models, {duration(time.monotonic() - self._start)}: {sums}"

    def _set(self, model: str, state: str, text: str) -> None:
        with self._lock:
            row = self._row(model)
            self._counts[row.state] -= 1
            self._counts[state] += 1
            row.state, row.text, row.since = state, text, time.monotonic()
            row.progress, row.trouble = None, ""

    def _row(self, model: str) -> Row:
        return self._active.setdefault(model, Row(since=time.monotonic()))


class _Lines:
    """Passes on what is printed for a model, whole lines at a time, each with its name."""

    def __init__(self, model: str) -> None:
        self._model, self._rest = model, ""

    def write(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data.decode("utf-8", "replace")).split("\n")
        with suppress(OSError, ValueError, AttributeError):  # the stream is broken, closed, or None
            text = printable_log("".join(f"{self._model} | {line}\n" for line in lines), colours=sys.stderr.isatty())
            sys.stderr.write(text)
            sys.stderr.flush()
