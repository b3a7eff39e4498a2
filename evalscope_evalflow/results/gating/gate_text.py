"""A gate's result on the terminal, and as Markdown for a GitHub job's summary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evalscope_evalflow.results.comparison.comparison_data import LOPSIDED, UNADJUSTED
from evalscope_evalflow.results.comparison.comparison_files import as_payload, escaped, markdown_table
from evalscope_evalflow.results.comparison.comparison_table import (
    difference_lines,
    headline,
    number,
    plus_minus,
    signed,
)
from evalscope_evalflow.results.gating.gate_policy import Tier
from evalscope_evalflow.results.gating.gate_verdicts import GateCell, GateResult, Status

_STYLES = {Status.BLOCKED: "red", Status.UNDECIDED: "yellow", Status.PASSED: "green"}
_SIGNS = {Status.BLOCKED: "❌", Status.UNDECIDED: "❔", Status.PASSED: "✅", Status.SHOWN: "ℹ️"}
HEAD = ("tier", "dataset", "result", "baseline", "score", "difference", "lower bound", "allowed")


def show_gate(result: GateResult, console: Console) -> None:
    """Print what a gate has decided."""
    for line in headline(result.comparison):
        console.print(escape(line), style="bold")
    differences = list(difference_lines(result.comparison.differences))
    if differences:
        console.print("\nWhat differs", style="bold")
    for item, name, values in differences:
        allowed = f" [--allow {item.kind.value}]" if item.kind.refused and item.allowed else ""
        console.print(escape(f"  {name}: {values}{allowed}"), style="yellow" if allowed else None)
    console.print()
    several = len({cell.run for cell in result.cells}) > 1
    for tier in Tier:
        cells = [cell for cell in result.cells if cell.rule.tier is tier]
        if cells:
            console.print(f"{tier.value}", style="bold")
            for cell in cells:
                _show_cell(cell, several, console)
    console.print()
    for line in _remarks(result):
        console.print(escape(line))
    console.print(escape(fell_text(result)))
    console.print(escape(conclusion(result)), style=f"bold {_STYLES[result.status]}")


def _remarks(result: GateResult) -> list[str]:
    """What has to be known of the runs, a line each."""
    return [f"{run.label}: {remark}" for run in result.comparison.runs for remark in run.remarks]


def _show_cell(cell: GateCell, several: bool, console: Console) -> None:
    """A line for the cell and an indented one for the reason: readable in 60 columns."""
    found = cell.cell
    numbers = ""
    if found is not None and found.difference is not None:
        numbers = f"{number(found.baseline_score)} → {number(found.score)}  {plus_minus(found)}"
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=13, style=_STYLES.get(cell.status))
    table.add_column(overflow="fold")
    name = f"{cell.dataset} ({cell.run})" if several else cell.dataset
    table.add_row(escape(cell.status.value), escape(f"{name}  {numbers}".rstrip()))
    if cell.reason:
        table.add_row("", escape(cell.reason), style="dim" if cell.status in (Status.PASSED, Status.SHOWN) else None)
    console.print(table)


def conclusion(result: GateResult) -> str:
    """The gate's decision, in a line."""
    deciding = [cell for cell in result.cells if cell.rule.tier.decides]
    counts = [
        f"{sum(cell.status is status for cell in deciding)} {status.value}"
        for status in (Status.BLOCKED, Status.UNDECIDED, Status.PASSED)
    ]
    return f"Gate: {result.status.value} ({', '.join(counts)}; exit code {int(result.exit_code)})"


def fell_text(result: GateResult) -> str:
    """What "fell for sure" stands for, and the intervals."""
    lopsided = f" {LOPSIDED}" if any(cell.lopsided for cell in result.comparison.cells) else ""
    if result.family < 2:
        return (
            f'"Fell for sure" is one comparison, tested at a level of 5 %. Each ± is half of a 95 % interval.{lopsided}'
        )
    return (
        f'"Fell for sure" is Holm-adjusted over the {result.family} critical and supporting comparisons. '
        f"{UNADJUSTED}{lopsided}"
    )


def as_summary(result: GateResult) -> str:
    """Markdown for `$GITHUB_STEP_SUMMARY`."""
    return "\n".join(_summary(result)) + "\n"


def _summary(result: GateResult) -> Iterator[str]:
    yield f"## {_SIGNS[result.status]} {conclusion(result)}\n"
    yield from (escaped(line) for line in headline(result.comparison))
    yield ""
    yield from markdown_table(("run", *HEAD), [_row(cell) for cell in result.cells])
    yield ""
    for cell in result.cells:
        if cell.status in (Status.BLOCKED, Status.UNDECIDED):
            name = escaped(f"{cell.dataset} ({cell.run})")
            yield f"- {_SIGNS[cell.status]} **{name}** {cell.status.value}: {escaped(cell.reason)}"
    yield from (f"- {escaped(line)}" for line in _remarks(result))
    yield f"\n{escaped(fell_text(result))}"
    lines = list(difference_lines(result.comparison.differences))
    if lines:
        yield "\n<details><summary>What differs between the runs</summary>\n"
        yield from (f"- {escaped(name)}: {escaped(values)}" for _, name, values in lines)
        yield "\n</details>"


def _row(cell: GateCell) -> list[str]:
    found = cell.cell
    numbers = [""] * 4
    if found is not None and found.difference is not None:
        numbers = [
            number(found.baseline_score), number(found.score), plus_minus(found), signed(found.lower_one_sided),
        ]  # fmt: skip
    sign = f"{_SIGNS[cell.status]} {cell.status.value}"
    return [escaped(cell.run), cell.rule.tier.value, escaped(cell.dataset), sign, *numbers, escaped(cell.rule.text)]


def gate_payload(result: GateResult) -> dict[str, Any]:
    """What `--json` prints, without the envelope."""
    cells = []
    for cell in result.cells:
        rule = {name: value for name, value in asdict(cell.rule).items() if name != "tier"}
        cells.append({
            "run": cell.run, "baseline": cell.baseline, "dataset": cell.dataset, "tier": cell.rule.tier.value,
            "rule": rule, "status": cell.status.value, "reason": cell.reason, "allowed_drop": cell.allowed_drop,
        })  # fmt: skip
    comparison = as_payload(result.comparison)
    return {"status": result.status.value, "cells": cells, "family": result.family, "comparison": comparison}
