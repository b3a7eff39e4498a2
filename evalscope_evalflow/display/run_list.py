"""The list of runs on this machine: a table where there is room for one, else some lines for each run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from evalscope_evalflow.display import progress_text as words
from evalscope_evalflow.events.base import parse
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.processes.registry import Entry

WIDE = 160  # cells that the table wants
COLUMNS = ("run", "model", "engine", "URL", "devices", "phase", "since", "owner", "work folder")


def print_runs(console: Console, running: Sequence[Entry]) -> None:
    """Print each run with what it does; nothing is cut off.

    Args:
        console: where to.
        running: the runs that live.
    """
    if console.width >= WIDE:
        console.print(_table(running))
        return
    for entry in running:
        console.print(Text(_headline(entry, console.width), style="bold"), soft_wrap=True)
        on = " on ".join(part for part in (entry.engine, entry.devices) if part)
        console.print(Text(_joined(f"  run {entry.run_id}", on, entry.api_url)), soft_wrap=True)
        console.print(Text(_joined(f"  PID {entry.owner.pid}", str(entry.work_dir or ""))), soft_wrap=True)


def progress_of(entry: Entry) -> DatasetProgress | None:
    """How far a run is; None where nothing is counted."""
    found = parse({"event": DatasetProgress.__name__, **(entry.progress or {})})
    return found if entry.progress and isinstance(found, DatasetProgress) else None


def phase_of(entry: Entry, width: int) -> str:
    """What a run does, and how far it is, in so many cells."""
    if entry.state != "running":
        return "ending: its owner died"
    progress = progress_of(entry)
    return entry.phase if progress is None else words.fit(words.parts(entry.phase, progress), width)


def age(seconds: float) -> str:
    """A length of time, in words; what is begun does not count."""
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _headline(entry: Entry, width: int) -> str:
    since = f"for {age(time.time() - entry.phase_since)}"
    name = entry.model or entry.run_id
    phase = phase_of(entry, width - len(name) - len(since) - 2 * len(words.BETWEEN))
    return words.BETWEEN.join([name, phase, since])


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _table(running: Sequence[Entry]) -> Table:
    table = Table(header_style="bold")
    for column in COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column == "run")  # `stop` takes the first
    for entry in running:
        cells: list[Any] = [entry.run_id, entry.model, entry.engine, entry.api_url, entry.devices, phase_of(entry, 200)]
        since = age(time.time() - entry.phase_since)
        table.add_row(*map(escape, cells), since, f"PID {entry.owner.pid}", escape(str(entry.work_dir or "")))
    return table
