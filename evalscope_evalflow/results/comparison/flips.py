"""The samples whose scores differ between a run and its baseline, with both answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.results.comparison.compare_runs import LoadedRun, Rules, pair_cell
from evalscope_evalflow.results.comparison.comparison_data import Answer, Comparison, Flip

if TYPE_CHECKING:
    from pandas import DataFrame

TEXTS = (
    "dataset",
    "subset",
    "sample",
    "repeat",
    "score",
    "prompt",
    "answer",
    "extracted",
    "target",
    "verdict",
    "reason",
)


def flips(
    comparison: Comparison, runs: Sequence[LoadedRun], rules: Rules, most: int | None = None
) -> tuple[tuple[Flip, ...], int]:
    """The flips of every cell that was compared, the largest falls first; rises of the same size come last.

    Args:
        comparison: of these runs.
        runs: its runs.
        rules: what it was made with.
        most: how many of them to give; None: all.

    Returns:
        The flips, and how many there are in all.

    Raises:
        ConfigError: a folder's files cannot be read.
    """
    from evalscope_evalflow.results import sample_cache

    by_label = {run.label: run for run in runs}
    found: list[tuple[float, int, str, str, int, int]] = []
    for number, cell in enumerate(comparison.compared()):
        run, baseline = by_label[cell.run], by_label[cell.baseline]
        table, base = run.tables[cell.dataset], baseline.tables[cell.dataset]
        differences = [
            item for item in comparison.differences if item.run == cell.run and cell.dataset in item.datasets
        ]
        pairs, _ = pair_cell(run, baseline, cell.dataset, rules, differences)
        change = table.scores[pairs.first] - base.scores[pairs.second]
        sign = -1.0 if cell.lower_is_better else 1.0
        for place in change.nonzero()[0].tolist():
            rows = int(table.rows[pairs.first[place]]), int(base.rows[pairs.second[place]])
            found.append((sign * float(change[place]), number, cell.run, cell.baseline, *rows))
    found.sort(key=lambda item: (item[0], item[1], item[5]))
    chosen = found if most is None else found[:most]
    labels = {label for item in chosen for label in item[2:4]}
    texts = {label: sample_cache.read(by_label[label].chosen.run, list(TEXTS)) for label in labels}
    made = tuple(_flip(texts[run], ours, run, texts[base], theirs, base) for _, _, run, base, ours, theirs in chosen)
    return made, len(found)


def _flip(ours: DataFrame, place: int, run: str, theirs: DataFrame, other: int, baseline: str) -> Flip:
    row, base = ours.iloc[place], theirs.iloc[other]
    return Flip(
        dataset=str(row["dataset"]),
        subset=str(row["subset"]),
        repeat=int(row["repeat"]),
        prompt=_text(row["prompt"]) or "",
        target=_text(row["target"]),
        baseline=_answer(base, baseline),
        answer=_answer(row, run),
    )


def _answer(row: Any, run: str) -> Answer:
    return Answer(
        run=run,
        sample=str(row["sample"]),
        score=float(row["score"]),
        answer=_text(row["answer"]),
        extracted=_text(row["extracted"]),
        verdict=_text(row["verdict"]),
        reason=_text(row["reason"]),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
