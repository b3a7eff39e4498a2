"""What a gate's policy makes of a comparison: for each cell whether it passes, blocks or cannot be decided."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from evalscope_evalflow.errors import ConfigError, ExitCode, Problem
from evalscope_evalflow.results.comparison.compare_runs import LEVEL, decide
from evalscope_evalflow.results.comparison.comparison_data import CellComparison, Comparison, Verdict
from evalscope_evalflow.results.comparison.comparison_table import number, signed
from evalscope_evalflow.results.comparison.run_description import unfinished
from evalscope_evalflow.results.gating.allowed_drops import allowed_drop, idle_lines
from evalscope_evalflow.results.gating.gate_policy import Policy, Rule, Tier, rule_of


class Status(str, Enum):
    """What became of a cell, or of the gate. The value is how it is printed."""

    BLOCKED = "blocked"
    UNDECIDED = "not decidable"
    PASSED = "passed"
    SHOWN = "decides nothing"


@dataclass(frozen=True)
class GateCell:
    """One run on one dataset.

    Attributes:
        run: the run's label.
        baseline: the baseline's label.
        dataset: the dataset.
        rule: what the policy says of it.
        status: what became of it.
        reason: why, in a sentence.
        allowed_drop: the stricter of the two that the policy allows, in the metric's own unit; None: nothing is allowed
            or forbidden, or nothing was compared.
        cell: the comparison; None where a run lacks the dataset.
    """

    run: str
    baseline: str
    dataset: str
    rule: Rule
    status: Status
    reason: str
    allowed_drop: float | None = None
    cell: CellComparison | None = None


@dataclass(frozen=True)
class GateResult:
    """What a gate has decided.

    Attributes:
        comparison: what it stands on.
        cells: critical ones first, those that block before others.
        family: how many comparisons the Holm adjustment of "fell for sure" is over.
    """

    comparison: Comparison
    cells: tuple[GateCell, ...]
    family: int

    @property
    def status(self) -> Status:
        """What the gate as a whole says."""
        found = {cell.status for cell in self.cells if cell.rule.tier.decides}
        return next((status for status in (Status.BLOCKED, Status.UNDECIDED) if status in found), Status.PASSED)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the command."""
        codes = {Status.BLOCKED: ExitCode.BLOCKED, Status.UNDECIDED: ExitCode.INCOMPLETE}
        return codes.get(self.status, ExitCode.COMPLETE)


def judge(
    comparison: Comparison, policy: Policy, datasets: Iterable[str], path: str = "policy", level: float = LEVEL
) -> GateResult:
    """Judge a comparison by a policy.

    Args:
        comparison: of the runs, with the policy's `min_share`.
        policy: the policy.
        datasets: all datasets that either side has, or was to have: one that is missing is not decidable.
        path: the policy's file, for messages.
        level: the Holm-adjusted p value below which a score fell for sure.

    Raises:
        ConfigError: runs cannot be compared on a dataset that decides, or a line allows any fall there is.
    """
    names = list(dict.fromkeys([*comparison.datasets, *datasets]))
    rules = {name: rule_of(policy, name) for name in names}
    if not any(rule.tier.decides for rule in rules.values()):
        what = f"no dataset of these runs is critical or supporting: {', '.join(names) or 'there is none'}"
        raise ConfigError(Problem(path, what, "Name at least one that decides."))
    _refuse(comparison, rules)
    idle = list(dict.fromkeys(idle_lines(comparison.cells, rules, path)))
    if idle:
        raise ConfigError(*idle)
    deciding = decide([cell for cell in comparison.cells if rules[cell.dataset].tier.decides], level)
    others = decide([cell for cell in comparison.cells if not rules[cell.dataset].tier.decides], level)
    by_place = {(cell.run, cell.dataset): cell for cell in (*deciding, *others)}
    found = []
    for run in comparison.runs:
        if run.baseline is None:
            continue
        for name in names:
            cell = by_place.get((run.label, name))
            if cell is not None or rules[name].tier.decides:
                found.append(_judged(run.label, run.baseline, name, rules[name], cell, comparison))
    cells = replace(comparison, cells=(*deciding, *others))
    order = list(Tier), list(Status)
    found.sort(key=lambda item: (order[0].index(item.rule.tier), order[1].index(item.status)))
    return GateResult(cells, tuple(found), sum(cell.p is not None for cell in deciding))


def _refuse(comparison: Comparison, rules: dict[str, Rule]) -> None:
    """Refuse runs whose scores on a dataset that decides cannot be compared."""
    problems = []
    for item in comparison.differences:
        where = [name for name in item.datasets if rules[name].tier.decides]
        if item.refuses and where:
            what = f"{item.name} is {item.baseline} in {item.baseline_run}, and {item.value} in {item.run}"
            todo = f"Such scores say nothing about the models. To compare them all the same: --allow {item.kind.value}"
            problems.append(Problem(", ".join(where), what, todo))
    if problems:
        raise ConfigError(*problems)


def _judged(
    run: str, baseline: str, dataset: str, rule: Rule, cell: CellComparison | None, comparison: Comparison
) -> GateCell:
    if cell is None:
        lacking = [label for label in (run, baseline) if comparison.score(label, dataset) is None]
        reason = f"incomplete: no sample of {' or '.join(lacking)}"
        return GateCell(run, baseline, dataset, rule, Status.UNDECIDED, reason)
    drop = allowed_drop(rule, cell)
    status, reason = _status(rule, cell, drop)
    unknown = unfinished_sides(cell, comparison) if rule.tier.decides and not cell.refused else ""
    if unknown:
        status, reason = Status.UNDECIDED, f"incomplete: {unknown}; so far, {reason}"
    if cell.left_out and not cell.refused:
        why = ", ".join(f"{count} {words}" for words, count in cell.left_out.items())
        reason += f"; over {cell.pairs} of {cell.expected} samples ({why})"
    return GateCell(run, baseline, dataset, rule, status, reason, drop, cell)


def unfinished_sides(cell: CellComparison, comparison: Comparison) -> str:
    """Why a cell is not decidable although enough samples are there: a run that did not end by itself.

    Its samples may be a choice of its own, such as the short ones. Empty where both runs ended by themselves, or where
    every sample of both is there and scored.
    """
    states = {run.label: run.state for run in comparison.runs}
    how = {label: unfinished(states[label]) for label in (cell.run, cell.baseline)}
    said = [f"{label}: {words}" for label, words in how.items() if words]
    if not said:
        return ""
    scores = [comparison.score(label, cell.dataset) for label in how]
    counted = not all(how.values()) or any(score is not None and score.requested for score in scores)
    if counted and cell.pairs == cell.expected and not cell.left_out:
        return ""
    known = f"{cell.pairs} of {cell.expected} samples have a score in both" if counted else "nobody counted its samples"
    return f"{', '.join(said)}, and {known}"


def _status(rule: Rule, cell: CellComparison, drop: float | None) -> tuple[Status, str]:
    if cell.refused:
        status = Status.UNDECIDED if rule.tier.decides else Status.SHOWN
        return status, f"{'incomplete: ' if rule.tier.decides else ''}{cell.refused}"
    if not rule.tier.decides:
        return Status.SHOWN, cell.verdict.value
    gain, lower = cell.gain, cell.lower_one_sided
    if cell.verdict is Verdict.TOO_FEW or gain is None or drop is None or lower is None:
        return Status.UNDECIDED, (
            f"too few: {cell.pairs} samples in {cell.groups} groups, worth {cell.effective_groups:.1f} of equal size; "
            "six are needed"
        )
    return (_critical if rule.tier is Tier.CRITICAL else _supporting)(cell, gain, lower, drop)


def _critical(cell: CellComparison, gain: float, lower: float, drop: float) -> tuple[Status, str]:
    """Non-inferiority: the lower bound has to be above the allowed drop. What is not shown is no pass."""
    bound = f"{_name(cell)} is {signed(gain)}, its lower 95 % bound {signed(lower)}; {number(drop)} less is allowed"
    if lower >= -drop:
        return Status.PASSED, ("it fell for sure, but by less than is allowed; " if _fell(cell) else "") + bound
    if _fell(cell):
        return Status.BLOCKED, f"it fell for sure (p = {cell.p_adjusted:.2g}){_by_more(gain, drop)}; {bound}"
    return Status.UNDECIDED, (
        f"too few: {cell.pairs} samples show neither that it fell nor that it fell by no more than is allowed; {bound}"
    )


def _by_more(gain: float, drop: float) -> str:
    return ", by more than is allowed" if gain < -drop else ", perhaps by more than is allowed"


def _supporting(cell: CellComparison, gain: float, lower: float, drop: float) -> tuple[Status, str]:
    """Blocks by evidence alone."""
    change = f"{_name(cell)} is {signed(gain)}, {number(drop)} less is allowed"
    if not _fell(cell):
        return Status.PASSED, f"no fall shown; {change}"
    if gain >= -drop:
        return Status.PASSED, f"it fell for sure, but by no more than is allowed; {change}"
    return Status.BLOCKED, f"it fell for sure (p = {cell.p_adjusted:.2g}); {change}"


def _name(cell: CellComparison) -> str:
    """What the numbers of a reason are about: below 0 is always worse."""
    return "the gain (less is better)" if cell.lower_is_better else "the difference"


def _fell(cell: CellComparison) -> bool:
    """Whether it fell for sure: Holm-adjusted over all cells that decide."""
    return cell.verdict is Verdict.FELL
