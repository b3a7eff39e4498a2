"""Reports a run in a notebook's cell: lines on what happens, and one line that is updated while models are at work."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from html import escape
from types import TracebackType
from typing import Any

from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.display.live_rows import LiveRow, in_one_line
from evalscope_evalflow.display.progress_text import duration
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.display.safe_console import SafeConsole
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.terminal_text import printable

UPDATE_EVERY_S = 1.0
MOST_MODELS = 4  # in one line
WIDTH = 100  # characters for one model


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; IPython in a terminal is none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None


def reporter_here(*, verbose: bool = False) -> Reporter:
    """The reporter for where this process shows what it does: a notebook's cell, a terminal, or a file.

    Args:
        verbose: show what EvalScope prints, too, as it comes.
    """
    return CellReporter(Line()) if in_notebook() and not verbose else Reporter(forward=verbose)


class Line:
    """A line of a cell's output that can be changed. Without a frontend that can do it, nothing is shown."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._lock = threading.Lock()
        self._last, self._text = 0.0, ""

    def show(self, text: str, *, now: bool = False) -> None:
        """Show it instead of what was shown; changes that come within a second are passed over.

        Args:
            text: plain text.
            now: show it however little time has passed.
        """
        from IPython.display import display

        with self._lock:
            if text == self._text or not (now or time.monotonic() - self._last >= UPDATE_EVERY_S):
                return
            self._last, self._text = time.monotonic(), text
            data = {"text/plain": printable(text), "text/html": f"<code>{escape(text)}</code>"}
            try:
                if self._handle is None:
                    self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
                else:
                    self._handle.update(data, raw=True)
            except Exception:  # noqa: BLE001 - whatever a frontend's channel raises must not end a run
                self._handle = None


class CellReporter(Reporter):
    """For one model: what it is busy with stands in the line that is updated."""

    def __init__(self, line: Line) -> None:
        """
        Args:
            line: of the cell.
        """
        super().__init__()
        # Plain text on standard output, which frontends show as one block; what is on standard error is red in some.
        plain = {"force_jupyter": False, "force_terminal": False, "color_system": None}
        self._console = SafeConsole(emoji=False, highlight=False, soft_wrap=True, **plain)  # type: ignore[arg-type]
        self.line = line

    @property
    def is_live(self) -> bool:
        return True

    def begin(self, model: str, text: str) -> None:
        self._busy_since = time.monotonic()
        self.line.show(f"{model}: {text}", now=True)

    def update(self, model: str, text: str) -> None:
        self.line.show(f"{model}: {text}, {duration(time.monotonic() - self._busy_since)}")

    def progress(self, model: str, state: str, progress: DatasetProgress, trouble: str) -> None:
        row = LiveRow(model, state, progress=progress, trouble=trouble)
        self.line.show(f"{model}: {in_one_line(row, WIDTH)}", now=progress.ended)

    def end(self, model: str) -> None:
        """What was shown last stays."""

    def several(self, models: Sequence[str]) -> LiveReporter:
        return SeveralInACell(self, models)


class SeveralInACell(LiveReporter):
    """For several models at once, all in one line."""

    def __init__(self, reporter: CellReporter, models: Sequence[str]) -> None:
        """
        Args:
            reporter: of the cell.
            models: their names, in the order of the task.
        """
        super().__init__(reporter, models)
        self._live = None  # rich's would print its table again and again
        self._line = reporter.line

    @property
    def is_live(self) -> bool:
        return True

    def __enter__(self) -> SeveralInACell:
        self._refresh()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.show(self.summary(), now=True)

    def begin(self, model: str, text: str) -> None:
        super().begin(model, text)
        self._refresh()

    def update(self, model: str, text: str) -> None:
        super().update(model, text)
        self._refresh()

    def progress(self, model: str, state: str, progress: DatasetProgress, trouble: str) -> None:
        super().progress(model, state, progress, trouble)
        self._refresh()

    def _refresh(self) -> None:
        rows = self.rows()
        parts = [f"{row.model}: {in_one_line(row, WIDTH)}" for row in rows[:MOST_MODELS]]
        more = [f"and {len(rows) - MOST_MODELS} more"] if len(rows) > MOST_MODELS else []
        self._line.show(" | ".join([self.summary(), *parts, *more]))
