"""Lays out one line for each model at work, so that it can be read on a narrow terminal too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size

from evalscope_evalflow.display import progress_text as words
from evalscope_evalflow.display.progress_text import BETWEEN
from evalscope_evalflow.events.progress_events import DatasetProgress

LEAST_NAME = 8  # cells of a model's name, where even that is too long
RIGHT = ("done", "failed", "rate", "tokens", "left", "since")
# Columns, in their order, with their headings, and how soon they go where there is no room: the last rank first.
COLUMNS: Mapping[str, tuple[str, int]] = {
    "devices": ("devices", 6),
    "state": ("state", 5),
    "dataset": ("dataset", 3),
    "done": ("done", 0),
    "failed": ("failed", 2),
    "rate": ("rate", 4),
    "tokens": ("tokens", 7),
    "left": ("left", 1),
    "since": ("since", 8),
}
SHARED = ("devices", "dataset")  # said once where all rows have the same; a shared state is in the counts below


@dataclass
class LiveRow:
    """What is shown of one model.

    Attributes:
        model: its name.
        state: what it does, with what there is to say of that.
        devices: the devices that it runs on.
        seconds: since when it does so.
        progress: how far that is; None: nothing is counted.
        trouble: what is wrong with its API now.
    """

    model: str
    state: str = ""
    devices: str = ""
    seconds: float = 0.0
    progress: DatasetProgress | None = None
    trouble: str = ""


@dataclass
class Layout:
    """Lines of a terminal.

    Attributes:
        head: headings.
        rows: a line for each model.
        shared: what all of them have in common, and is left out of the rows.
    """

    head: str
    rows: list[str] = field(default_factory=list)
    shared: str = ""


def lay_out(rows: Sequence[LiveRow], width: int) -> Layout:
    """Lines that fit.

    A column is left out where it is empty or, with several rows, the same in each; then, as long as there is no room,
    the least important one. A model's name is cut last of all.

    Args:
        rows: models at work, one at least.
        width: cells of the terminal.
    """
    cells = [_cells(row) for row in rows]
    columns = [name for name in COLUMNS if any(row[name] for row in cells)]
    said: list[str] = []
    for name in list(columns) if len(rows) > 1 else ():
        if len({row[name] for row in cells}) == 1 and name != "done":
            columns.remove(name)
            said += [f"{'on ' if name == 'devices' else ''}{cells[0][name]}"] if name in SHARED else []
    troubled = any(row.trouble for row in rows)
    names = [row.model for row in rows]
    while True:
        if "state" not in columns:  # one that is not counted yet says at least what it does
            for row, cell in zip(rows, cells, strict=True):
                cell["done"] = cell["done"] or row.state
            if "done" not in columns and any(cell["done"] for cell in cells):
                columns.append("done")
        free = width - _width("model", names) - sum(_width_of(name, cells) + len(BETWEEN) for name in columns)
        droppable = [name for name in columns if name != "done" and not (name == "state" and troubled)]
        if free >= 0 or not droppable:
            break
        columns.remove(max(droppable, key=lambda name: COLUMNS[name][1]))
    widths = {name: _width_of(name, cells) for name in columns}
    if free < 0 and "state" in widths:  # words of what is wrong
        cut = min(-free, max(0, widths["state"] - LEAST_NAME))
        widths["state"] -= cut
        free += cut
    wanted = _width("model", names)
    name_width = max(min(LEAST_NAME, wanted), wanted + min(0, free))
    head = _line(["model", *(COLUMNS[name][0] for name in columns)], [name_width, *widths.values()], columns)
    lines = [
        _line([name, *(cell[column] for column in columns)], [name_width, *widths.values()], columns)
        for name, cell in zip(names, cells, strict=True)
    ]
    return Layout(head, lines, ", ".join(said))


def in_one_line(row: LiveRow, width: int) -> str:
    """One model in one line, without its name."""
    if row.progress is None or row.trouble:
        return f"{row.state}{row.trouble}"
    return words.fit(words.parts(row.state, row.progress), width)


def _cells(row: LiveRow) -> dict[str, str]:
    progress = row.progress
    found = dict.fromkeys(COLUMNS, "")
    found.update(devices=row.devices, state=f"{row.state}{row.trouble}", since=words.duration(row.seconds))
    if progress is not None:
        found.update(
            dataset=words.dataset(progress),
            done=words.count(progress),
            failed=f"{progress.failed:,}" if progress.failed else "",
            rate=words.rate(progress),
            tokens=words.token_rate(progress),
            left=words.time_left(progress).removesuffix(" left"),
        )
    return found


def _width_of(name: str, cells: Sequence[Mapping[str, str]]) -> int:
    return _width(COLUMNS[name][0], [row[name] for row in cells])


def _width(head: str, texts: Sequence[str]) -> int:
    return max(cell_len(head), *map(cell_len, texts))


def _line(texts: Sequence[str], widths: Sequence[int], columns: Sequence[str]) -> str:
    found = []
    for text, width, column in zip(texts, widths, ["model", *columns], strict=True):
        if cell_len(text) > width:
            text = f"{set_cell_size(text, max(0, width - 1))}…"
        room = " " * (width - cell_len(text))
        found.append(f"{room}{text}" if column in RIGHT else f"{text}{room}")
    return BETWEEN.join(found).rstrip()
