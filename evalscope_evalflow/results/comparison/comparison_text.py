"""A comparison on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from evalscope_evalflow.results.comparison.comparison_data import Answer, Comparison, Flip, Verdict
from evalscope_evalflow.results.comparison.comparison_table import (
    POWER_HEAD,
    POWER_TEXT,
    WideRow,
    difference_lines,
    headline,
    legend,
    notes,
    number,
    power_rows,
    signed,
    wide_rows,
)
from evalscope_evalflow.terminal_text import printable

GAP = 2  # columns between columns
MOST_NAME = 24  # columns of a run's label; longer ones are folded, nothing is cut off
MOST_POWER_ROWS = 40
_STYLES = {Verdict.ROSE: "green", Verdict.FELL: "red", Verdict.REFUSED: "yellow"}


def show_comparison(comparison: Comparison, console: Console) -> None:
    """Print a comparison."""
    for line in headline(comparison):
        console.print(escape(line), style="bold")
    _show_differences(comparison, console)
    for table in wide_tables(comparison, console.width):
        console.print()
        console.print(table)
    for line in legend(comparison):
        console.print(escape(line))
    lines = list(notes(comparison))
    if lines:
        console.print()
    for line, refused in lines:
        console.print(escape(line), style="yellow" if refused else None)
    _show_power(comparison, console)
    if comparison.flips_in_all:
        _show_flips(comparison, console)


def wide_tables(comparison: Comparison, width: int) -> Iterator[Table]:
    """The table models × datasets, in as many parts as the width takes.

    Args:
        comparison: what to show.
        width: columns of the terminal.
    """
    rows = wide_rows(comparison)
    name = min(max((len(row.run.label) for row in rows), default=0), MOST_NAME)
    part: list[int] = []
    used = name
    for place, dataset in enumerate(comparison.datasets):
        need = max(min(len(dataset), MOST_NAME), *(len(line) for row in rows for line in row.cells[place] or ("",)))
        if part and used + GAP + need > width:
            yield _wide_table(comparison, rows, part, name)
            part, used = [], name
        part.append(place)
        used += GAP + need
    if part:
        yield _wide_table(comparison, rows, part, name)


def _wide_table(comparison: Comparison, rows: Sequence[WideRow], part: Sequence[int], name: int) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
    table.add_column("", overflow="fold", min_width=name, max_width=MOST_NAME)
    for place in part:
        table.add_column(escape(comparison.datasets[place]), overflow="fold")
    for row in rows:
        cells = [_cell(row.cells[place], row.verdicts[place]) for place in part]
        table.add_row(escape(row.run.label), *cells)
    return table


def _cell(lines: Sequence[str], verdict: Verdict | None) -> Text:
    text = Text(lines[0] if lines else "–")
    for line in lines[1:2]:
        text.append(f"\n{line}", style=_STYLES.get(verdict, "") if verdict else "")
    for line in lines[2:]:
        text.append(f"\n{line}", style="dim")
    return text


def _show_differences(comparison: Comparison, console: Console) -> None:
    console.print()
    found = list(difference_lines(comparison.differences))
    console.print("What differs" if found else "Nothing differs in what is recorded of these runs.", style="bold")
    for item, name, values in found:
        where = "" if set(item.datasets) >= set(comparison.datasets) else f" on {', '.join(item.datasets)}"
        allowed = f" [--allow {item.kind.value}]" if item.kind.refused and item.allowed else ""
        mark = f"{Verdict.REFUSED.mark} " if item.refuses else "  "
        style = "yellow" if item.kind.refused else None
        console.print(escape(f"{mark}{name}{where}: {values}{allowed}"), style=style)


def _show_power(comparison: Comparison, console: Console) -> None:
    rows = power_rows(comparison)
    if not rows:
        return
    console.print()
    console.print("What this data could have shown", style="bold")
    # One run's name need not stand in every row.
    places = [place for place in range(len(POWER_HEAD)) if place != 1 or len({row[1] for row in rows}) > 1]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
    for place in places:
        table.add_column(POWER_HEAD[place], overflow="fold", justify="left" if place < 2 else "right")
    for row in rows[:MOST_POWER_ROWS]:
        table.add_row(*(escape(row[place]) for place in places))
    console.print(table)
    if len(rows) > MOST_POWER_ROWS:
        console.print(f"and {len(rows) - MOST_POWER_ROWS} more (--format csv has them all)")
    console.print(POWER_TEXT)


def _show_flips(comparison: Comparison, console: Console) -> None:
    console.print()
    shown, total = len(comparison.flips), comparison.flips_in_all
    console.print(f"{shown} of {total} samples whose scores differ, the largest falls first", style="bold")
    for flip in comparison.flips:
        console.print()
        _show_flip(flip, console)


def flip_title(flip: Flip) -> str:
    """Which sample it is, and how its score changed."""
    subset = f" / {flip.subset}" if flip.subset else ""
    repeat = f", repetition {flip.repeat + 1}" if flip.repeat else ""
    change = f"{number(flip.baseline.score)} → {number(flip.answer.score)} ({signed(flip.difference)})"
    return f"{flip.dataset}{subset}, sample {flip.answer.sample}{repeat}: {change}"


def _show_flip(flip: Flip, console: Console) -> None:
    """What was asked, and both answers side by side."""
    console.print(escape(flip_title(flip)), style="bold")
    console.print(Padding(Text(shortened(flip.prompt).strip()), (0, 0, 0, 2)))
    if flip.target:
        console.print(Padding(Text(f"right answer: {shortened(flip.target)}"), (0, 0, 0, 2)))
    table = Table(box=box.SQUARE, expand=True)
    for answer in (flip.baseline, flip.answer):
        table.add_column(Text(f"{answer.run}: {number(answer.score)}"), ratio=1, overflow="fold")
    table.add_row(*(Text(_said(answer)) for answer in (flip.baseline, flip.answer)))
    console.print(table)


MOST_TEXT = 600


def shortened(text: str, most: int = MOST_TEXT) -> str:
    """The beginning and the end of a long text, which is where questions and answers stand.

    Characters that a terminal would obey are replaced: what a model says may be anything.
    """
    if len(text) > most:
        text = f"{text[: most // 2]} … ({len(text) - most} characters) … {text[-most // 2 :]}"
    return printable(text)


def _said(answer: Answer) -> str:
    lines = [shortened(answer.answer) if answer.answer is not None else "(not kept)"]
    for name, value in (("extracted", answer.extracted), ("verdict", answer.verdict), ("reason", answer.reason)):
        if value:
            lines.append(f"{name}: {shortened(value)}")
    return "\n".join(lines)
