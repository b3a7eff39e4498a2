"""What the tables of a comparison say, as rows of text: the terminal and Markdown lay the same words out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evalscope_evalflow.results.comparison.comparison_data import (
    LOPSIDED,
    UNADJUSTED,
    CellComparison,
    CellScore,
    ComparedRun,
    Comparison,
    Difference,
    Verdict,
)
from evalscope_evalflow.results.marks import FEW, FEW_TEXT, INCOMPLETE, INCOMPLETE_TEXT

MOST_VALUES = 6  # of one setting, on a line


@dataclass(frozen=True)
class WideRow:
    """One run's row of the table models × datasets.

    Attributes:
        run: the run.
        cells: for each dataset its lines; none where the run lacks it.
        verdicts: for each dataset what was found; None for baselines and what is missing.
    """

    run: ComparedRun
    cells: tuple[tuple[str, ...], ...]
    verdicts: tuple[Verdict | None, ...]


def number(value: float | None, digits: int = 4) -> str:
    """A score, with fewer decimals where it is large; empty for None."""
    if value is None:
        return ""
    return f"{value:.{digits if abs(value) < 10 else 2}f}"


def signed(value: float | None, digits: int = 4) -> str:
    """A difference, with its sign."""
    text = number(value, digits)
    return text if not text or text.startswith("-") else f"+{text}"


def plus_minus(cell: CellComparison) -> str:
    """`+0.0430 ±0.021`, or `-1.0000 [-1.000, -0.697]` where that would mislead; empty where nothing was compared."""
    if cell.difference is None:
        return ""
    half = cell.half_width
    if half is None:
        return signed(cell.difference)
    if cell.lopsided:
        return f"{signed(cell.difference)} [{signed(cell.low, 3)}, {signed(cell.high, 3)}]"
    return f"{signed(cell.difference)} ±{number(half, 3)}"


def score_text(score: CellScore | None) -> str:
    """`0.6120 [0.585, 0.638]`; with both marks `0.6120* ~[0.585, 0.638]`."""
    if score is None:
        return ""
    incomplete = "" if score.complete else INCOMPLETE
    if score.value is None:
        return f"no score{incomplete}"
    few = FEW if score.few_groups else ""
    ends = f" {few}[{number(score.low, 3)}, {number(score.high, 3)}]" if score.low is not None else few
    return f"{number(score.value)}{incomplete}{ends}"


def headline(comparison: Comparison) -> list[str]:
    """What is compared with what, a line each."""
    lines = []
    for baseline in comparison.baselines:
        others = [run for run in comparison.runs if run.baseline == baseline.label]
        names = ", ".join(run.label for run in others) if len(others) <= 3 else f"{len(others)} runs"
        lines.append(f"{names} against {baseline.label}, paired sample by sample")
    return lines


def wide_rows(comparison: Comparison) -> list[WideRow]:
    """A row for each run, each baseline before the runs that are compared with it."""
    rows = []
    for baseline in comparison.baselines:
        for run in (baseline, *(run for run in comparison.runs if run.baseline == baseline.label)):
            cells = [_lines(comparison, run, dataset) for dataset in comparison.datasets]
            found = [comparison.cell(run.label, dataset) for dataset in comparison.datasets]
            verdicts = tuple(cell.verdict if cell else None for cell in found)
            rows.append(WideRow(run, tuple(cells), verdicts))
    return rows


def _lines(comparison: Comparison, run: ComparedRun, dataset: str) -> tuple[str, ...]:
    score, cell = comparison.score(run.label, dataset), comparison.cell(run.label, dataset)
    lines = [score_text(score)] if score else []
    if cell is None:
        return tuple(lines)
    if cell.refused:
        return (*lines, f"{Verdict.REFUSED.mark} {Verdict.REFUSED.value}")
    return (*lines, f"{plus_minus(cell)} {cell.verdict.mark}".strip(), f"{cell.wins} won, {cell.losses} lost")


def legend(comparison: Comparison) -> Iterator[str]:
    """What the marks of the wide table mean, as far as they occur."""
    yield comparison.family_text
    if comparison.family < 2 and any(cell.half_width is not None and not cell.lopsided for cell in comparison.cells):
        yield UNADJUSTED.replace(", not adjusted for the others", "")
    if any(cell.lopsided for cell in comparison.cells):
        yield LOPSIDED
    if any(cell.verdict is Verdict.TOO_FEW for cell in comparison.cells):
        yield "? too few to decide: fewer than six independent samples."
    scores = comparison.scores
    if any(score.few_groups and score.n for score in scores):
        yield f"{FEW} {FEW_TEXT}"
    if any(not score.complete for score in scores):
        yield f"{INCOMPLETE} {INCOMPLETE_TEXT}"
    if any(cell.left_out and not cell.refused for cell in comparison.cells):
        yield "Scores are each run's own; differences are over the samples that both have."


def difference_lines(differences: Sequence[Difference]) -> Iterator[tuple[Difference, str, str]]:
    """What differs, a line for each setting: one of the differences, the setting, and who has which value."""
    grouped: dict[tuple[str, str, str, tuple[str, ...], bool], list[Difference]] = {}
    for item in differences:
        key = item.kind.value, item.name, item.baseline_run, item.datasets, item.allowed
        grouped.setdefault(key, []).append(item)
    for items in grouped.values():
        values: dict[str, list[str]] = {}
        for item in items:
            values.setdefault(item.baseline, []).append(item.baseline_run)
            values.setdefault(item.value, []).append(item.run)
        words = [f"{value} ({_some(runs)})" for value, runs in values.items()]
        more = [f"and {len(words) - MOST_VALUES} other values"] if len(words) > MOST_VALUES else []
        yield items[0], items[0].name, ", ".join([*words[:MOST_VALUES], *more])


def _some(labels: Sequence[str]) -> str:
    unique = list(dict.fromkeys(labels))
    return ", ".join(unique) if len(unique) <= 3 else f"{', '.join(unique[:2])} and {len(unique) - 2} more"


def notes(comparison: Comparison) -> Iterator[tuple[str, bool]]:
    """What has to be known of cells and runs, a line each, and whether it kept a cell from being compared."""
    for cell in comparison.cells:
        if cell.refused:
            yield f"{cell.run} / {cell.dataset}: not compared: {cell.refused}", True
        elif cell.left_out:
            why = ", ".join(f"{count} {words}" for words, count in cell.left_out.items())
            yield (
                f"{cell.run} / {cell.dataset}: over {cell.pairs} of {cell.expected} samples, {cell.share:.1%} ({why})",
                False,
            )
        for remark in cell.remarks:
            yield f"{cell.run} / {cell.dataset}: {remark}", False
    for line in comparison.missing:
        yield line, False
    for run in comparison.runs:
        for remark in run.remarks:
            yield f"{run.label}: {remark}", False


POWER_HEAD = ("dataset", "run", "pairs", "groups", "smallest")


def power_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """For each cell, what the smallest difference is that its data could have shown."""
    rows: list[tuple[str, ...]] = []
    for dataset in comparison.datasets:
        for cell in comparison.compared():
            if cell.dataset == dataset:
                smallest = cell.smallest_difference
                could = "nothing" if smallest is None else f"±{number(smallest, 3)}"
                rows.append((dataset, cell.run, str(cell.pairs), number_of_groups(cell), could))
    return rows


def number_of_groups(cell: CellComparison) -> str:
    """The groups of a cell, and what they are worth where their sizes differ: `40 (22.5)`."""
    worth = cell.effective_groups
    return str(cell.groups) if abs(worth - cell.groups) < 0.05 else f"{cell.groups} ({worth:.1f})"


POWER_TEXT = (
    "The smallest true difference that a test on these samples shows in 80 % of cases, for one comparison at a level "
    "of 5 %."
)
