"""How far a dataset's score may fall by a policy, and which lines allow so much that they could never block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from evalscope_evalflow.errors import Problem
from evalscope_evalflow.results.comparison.comparison_data import CellComparison
from evalscope_evalflow.results.comparison.comparison_table import number
from evalscope_evalflow.results.gating.gate_policy import Rule

PERCENT = "Drops are in the metric's own unit: of a score from 0 to 1, 0.05 means five points."


def allowed_drop(rule: Rule, cell: CellComparison) -> float | None:
    """The stricter of the two drops that a rule allows, in the metric's own unit.

    A relative one is of the baseline's score on the samples that are compared.
    """
    if cell.baseline_score is None:
        return None
    drops: Sequence[float | None] = (
        rule.max_drop,
        None if rule.max_relative_drop is None else rule.max_relative_drop * abs(cell.baseline_score),
    )
    return min((drop for drop in drops if drop is not None), default=None)


def idle_lines(cells: Iterable[CellComparison], rules: Mapping[str, Rule], path: str) -> Iterator[Problem]:
    """The lines of a policy that allow any fall that there can be.

    A baseline's score of 0 cannot fall: that is no mistake of the policy, unless a percentage was meant.

    Args:
        cells: the comparisons.
        rules: what the policy says, by dataset.
        path: the policy's file.
    """
    for cell in cells:
        rule, score = rules[cell.dataset], cell.baseline_score
        drop = allowed_drop(rule, cell) if rule.tier.decides else None
        if drop is None or score is None:
            continue
        where = f"{path}: {rule.tier.value}.{rule.name}"
        shown = f"{cell.dataset} has {number(score)} in {cell.baseline}"
        if drop >= 1 and 0 <= score <= 1:
            yield Problem(where, f"max_drop {drop:g} looks like a percentage: {shown}", PERCENT)
        elif not cell.lower_is_better and 0 < score <= drop + (cell.lowest or 0.0):
            what = f"a drop of {number(drop)} is allowed, and {shown}: this line can never block"
            yield Problem(where, what, f"Allow less, or name {cell.dataset} under `advisory`. {PERCENT}")
