"""What a run says while it runs, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.markup import escape
from rich.status import Status

from evalscope_evalflow.display.live_rows import LiveRow, in_one_line
from evalscope_evalflow.display.safe_console import SafeConsole
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.terminal_text import printable_log

if TYPE_CHECKING:
    from evalscope_evalflow.display.live import LiveReporter

_SPINNER = 2  # cells before a status


class Reporter:
    """Lines on what happens, with the seconds since the start."""

    def __init__(self, *, forward: bool = False, quiet: bool = False) -> None:
        """Prepare.

        Args:
            forward: show what EvalScope prints, as it comes.
            quiet: print nothing.
        """
        self.forward = forward
        self._console = SafeConsole(stderr=True, emoji=False, highlight=False, quiet=quiet, soft_wrap=True)
        self._start = time.monotonic()
        self._status: Status | None = None
        self._busy_since = self._start

    def log(self, text: str, *, style: str = "") -> None:
        """Print one line."""
        seconds = time.monotonic() - self._start
        with suppress(OSError, ValueError):  # the terminal may be gone, and must not take the run's end along
            self._console.print(f"[dim]evalflow {seconds:6.1f} s[/dim]  {escape(text)}", style=style or None)

    def warn(self, text: str) -> None:
        """Print one line that must not be missed."""
        self.log(text, style="yellow")

    @property
    def is_live(self) -> bool:
        """Whether there is a terminal on which `update` changes something."""
        return self._console.is_terminal and not self.forward

    def begin(self, model: str, text: str) -> None:
        """Show, on a terminal, what a model is busy with, until `end`."""
        if not self.is_live:
            return
        self.end(model)
        self._busy_since = time.monotonic()
        self._status = self._console.status(escape(f"{model}: {text}"))
        with suppress(OSError):
            self._status.start()

    def update(self, model: str, text: str) -> None:
        """Change what `begin` shows."""
        if self._status is not None:
            self._status.update(escape(f"{model}: {text}, {time.monotonic() - self._busy_since:.0f} s"))

    def progress(self, model: str, state: str, progress: DatasetProgress, trouble: str) -> None:
        """Change what `begin` shows.

        Args:
            model: its name.
            state: what it is busy with.
            progress: how far that is.
            trouble: what is wrong with its API now; else empty.
        """
        if self._status is not None:
            room = self._console.width - cell_len(f"{model}: ") - _SPINNER
            row = LiveRow(model, state, progress=progress, trouble=trouble)
            self._status.update(escape(f"{model}: {in_one_line(row, room)}"))

    def several(self, models: Sequence[str]) -> LiveReporter:
        """One that shows several models at once, on the same terminal.

        Args:
            models: their names, in the order of the task.
        """
        from evalscope_evalflow.display.live import LiveReporter

        return LiveReporter(self, models)

    def end(self, model: str) -> None:
        """The model is not busy with that any more."""
        status, self._status = self._status, None
        if status is not None:
            with suppress(OSError):
                status.stop()

    def output_of(self, model: str) -> Callable[[bytes], None]:
        """A function that passes on what EvalScope prints while it evaluates a model."""
        return _pass_on


def _pass_on(data: bytes) -> None:
    with suppress(OSError, ValueError, AttributeError):  # the stream is broken, closed, or None
        sys.stderr.write(printable_log(data.decode("utf-8", "replace"), colours=sys.stderr.isatty()))
        sys.stderr.flush()
