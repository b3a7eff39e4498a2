"""Compares runs with their baselines, dataset by dataset, over the samples that both have scored."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from evalscope_evalflow.results.comparison.cell_scores import cell_score
from evalscope_evalflow.results.comparison.comparison_data import (
    CellComparison,
    CellScore,
    ComparedRun,
    Comparison,
    Difference,
    Kind,
    Verdict,
)
from evalscope_evalflow.results.comparison.run_description import described, version_differences
from evalscope_evalflow.results.comparison.run_differences import Side, merged, setting_differences
from evalscope_evalflow.results.comparison.sample_table import (
    BY_NUMBER,
    COLUMNS,
    NOT_SCORED,
    Pairs,
    SampleTable,
    pair,
    tables_of,
)
from evalscope_evalflow.results.metric_scale import MetricScale, metric_scale

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalscope_evalflow.results.comparison.chosen_runs import ChosenRun

MIN_SHARE = 0.95
LEVEL = 0.05
QUESTIONS = "questions or right answers"


@dataclass(frozen=True)
class Rules:
    """What may be compared.

    Attributes:
        min_share: the share of the samples that has to have a score in both, from 0 to 1.
        allowed: kinds of differences that are compared all the same.
        datasets: names of the datasets to compare; None: all.
        share_from: what the user writes before another `min_share`: a flag, or a key of a policy.
    """

    min_share: float = MIN_SHARE
    allowed: frozenset[Kind] = frozenset()
    datasets: tuple[str, ...] | None = None
    share_from: str = "--min_share "


@dataclass(frozen=True)
class LoadedRun:
    """A run with its scores in memory.

    Attributes:
        chosen: which run it is.
        tables: its samples' scores, by dataset.
        scales: the scale of the headline metric, by dataset.
    """

    chosen: ChosenRun
    tables: Mapping[str, SampleTable]
    scales: Mapping[str, MetricScale] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.chosen.label

    @property
    def datasets(self) -> list[str]:
        """Datasets that it has, or was to have."""
        return list(dict.fromkeys([*self.tables, *self.chosen.run.datasets]))

    def requested(self, dataset: str) -> int | None:
        """Samples that were to be answered; None: nobody has counted them."""
        cell = self.chosen.run.cells.get(dataset)
        return cell.requested if cell else None

    def scale(self, dataset: str) -> MetricScale:
        """The scale of the headline metric of a dataset."""
        return self.scales.get(dataset) or MetricScale()

    def side(self, dataset: str) -> Side:
        """Its part in a comparison on a dataset that it has."""
        table = self.tables[dataset]
        return Side(self.label, self.chosen.run.cells.get(dataset), table.metric, table.judged)


def load_runs(chosen: Iterable[ChosenRun], rules: Rules) -> list[LoadedRun]:
    """Read the scores of runs from their caches.

    Raises:
        ConfigError: a folder's files cannot be read.
    """
    from evalscope_evalflow.results import sample_cache

    columns = [*COLUMNS, *(BY_NUMBER if Kind.PROMPT in rules.allowed else ())]
    found = []
    for item in chosen:
        tables = tables_of(sample_cache.read(item.run, columns))
        wanted = {name: table for name, table in tables.items() if rules.datasets is None or name in rules.datasets}
        found.append(LoadedRun(item, wanted, {name: metric_scale(item.run, name) for name in wanted}))
    return found


def compare(runs: Sequence[LoadedRun], rules: Rules | None = None) -> Comparison:
    """Compare each run with its baseline.

    Args:
        runs: baselines first, as `choose_runs` gives them.
        rules: what may be compared.
    """
    rules = rules or Rules()
    by_label = {run.label: run for run in runs}
    datasets = tuple(dict.fromkeys(name for run in runs for name in run.tables))
    found: list[CellComparison] = []
    differences: list[Difference] = []
    missing: list[str] = []
    for run in runs:
        if run.chosen.baseline is None:
            continue
        baseline = by_label[run.chosen.baseline]
        for dataset in datasets:
            lacking = [side.label for side in (run, baseline) if dataset not in side.tables]
            if lacking:
                missing.append(f"{dataset}: no sample of {' or '.join(lacking)}")
                continue
            cell, differs = compare_cell(run, baseline, dataset, rules)
            found.append(cell)
            differences += differs
        differences += version_differences(run.chosen, baseline.chosen, tuple(run.tables))
    scores = tuple(_score(run, dataset) for run in runs for dataset in datasets if dataset in run.tables)
    decided = decide(found)
    return Comparison(
        runs=tuple(_described(run, scores, rules.datasets) for run in runs),
        datasets=datasets,
        scores=scores,
        cells=tuple(decided),
        differences=merged(differences),
        missing=tuple(dict.fromkeys(missing)),
        family=sum(cell.p is not None for cell in decided),
        min_share=rules.min_share,
    )


def decide(found: Sequence[CellComparison], level: float = LEVEL) -> list[CellComparison]:
    """The cells with their Holm-adjusted p values and verdicts; all of them are one family.

    Args:
        found: the cells.
        level: the adjusted p value below which a difference counts as shown.
    """
    from evalscope_evalflow.results.statistics.holm import holm

    adjusted = holm([cell.p for cell in found])
    return [
        cell if p is None else replace(cell, p_adjusted=p, verdict=_verdict(cell.gain or 0.0, p, level))
        for cell, p in zip(found, adjusted, strict=True)
    ]


def compare_cell(
    run: LoadedRun, baseline: LoadedRun, dataset: str, rules: Rules
) -> tuple[CellComparison, list[Difference]]:
    """Compare two runs on a dataset that both have; the p value is not adjusted yet.

    Returns:
        The cell, and what differs between the two runs on this dataset.
    """
    differences = list(setting_differences(run.side(dataset), baseline.side(dataset), dataset, rules.allowed))
    pairs, data = pair_cell(run, baseline, dataset, rules, differences)
    differences += data
    cell = _cell(run, baseline, dataset, pairs)
    refused = "; ".join(_refusal(item, len(pairs)) for item in differences if item.refuses) or _too_little(cell, rules)
    if refused:
        return replace(cell, verdict=Verdict.REFUSED, refused=refused), differences
    # One of the two may not be finished, and have no report that says it.
    scale = run.scale(dataset) if run.scale(dataset) != MetricScale() else baseline.scale(dataset)
    if scale.lower_is_better:
        cell = replace(cell, lower_is_better=True, remarks=("less is better by this metric",))
    return _tested(cell, run.tables[dataset], baseline.tables[dataset], pairs, scale), differences


def pair_cell(
    run: LoadedRun, baseline: LoadedRun, dataset: str, rules: Rules, differences: Sequence[Difference]
) -> tuple[Pairs, list[Difference]]:
    """The samples of two runs that are compared, and whether their data differs.

    Args:
        run: a run.
        baseline: another one.
        dataset: the dataset, which both have.
        rules: what may be compared.
        differences: what their settings differ in.
    """
    table, base = run.tables[dataset], baseline.tables[dataset]
    pairs = pair(table, base)
    other_prompt = any(item.kind is Kind.PROMPT for item in differences)
    if Kind.PROMPT in rules.allowed and (other_prompt or not len(pairs)):
        other = Difference(
            Kind.PROMPT, "wording of questions", "its own", "another", run.label, baseline.label, (dataset,), True
        )
        return pair(table, base, by_number=True), [] if other_prompt else [other]
    if other_prompt:
        return pairs, []  # every question is another one, and that has been said
    # A sample without a score may be known by another digest: it explains one that only the other side has scored.
    only_run = len(table.keys) - len(pairs) - sum(base.states.values())
    only_base = len(base.keys) - len(pairs) - sum(table.states.values())
    if only_run <= 0 or only_base <= 0:
        return pairs, []
    what = f"{only_base} that {run.label} lacks", f"{only_run} that {baseline.label} lacks"
    allowed = Kind.DATA in rules.allowed
    return pairs, [Difference(Kind.DATA, QUESTIONS, *what, run.label, baseline.label, (dataset,), allowed)]


def _cell(run: LoadedRun, baseline: LoadedRun, dataset: str, pairs: Pairs) -> CellComparison:
    """A cell with its counts alone."""
    table, base = run.tables[dataset], baseline.tables[dataset]
    totals = (table.total, base.total, run.requested(dataset) or 0, baseline.requested(dataset) or 0)
    left_out = {}
    for side, item in ((run, table), (baseline, base)):
        for state, words in NOT_SCORED.items():
            if item.states.get(state):
                left_out[f"{words} in {side.label}"] = item.states[state]
        if max(totals) > item.total:
            left_out[f"not asked in {side.label}"] = max(totals) - item.total
    return CellComparison(
        run=run.label,
        baseline=baseline.label,
        dataset=dataset,
        metric=table.metric or base.metric,
        verdict=Verdict.TOO_FEW,
        pairs=len(pairs),
        expected=max(totals),
        left_out=left_out,
    )


def _too_little(cell: CellComparison, rules: Rules) -> str:
    if cell.pairs and cell.share >= rules.min_share:
        return ""
    why = ", ".join(f"{number} {words}" for words, number in cell.left_out.items())
    have = f"{cell.pairs} of {cell.expected} samples have a score in both" + (f" ({why})" if why else "")
    if not cell.pairs:
        return have
    enough = math.floor(cell.share * 1000) / 1000
    if not enough:
        return f"{have}; less than {rules.min_share:.0%}"
    return f"{have}; less than {rules.min_share:.0%} ({rules.share_from}{enough:g} takes them)"


def _refusal(difference: Difference, pairs: int) -> str:
    """Why a difference keeps a cell from being compared, and the flag that allows it."""
    was, now, allow = difference.baseline, difference.value, f"--allow {difference.kind.value}"
    if difference.kind is Kind.DATA:
        wording = "" if pairs else ", or --allow prompt if their wording alone differs"
        return f"data: {QUESTIONS}: {was}, {now} ({allow}{wording})"
    sides = f"{was} in {difference.baseline_run}, {now} in {difference.run}"
    return f"{difference.kind.value}: {difference.name} is {sides} ({allow})"


def _tested(
    cell: CellComparison, table: SampleTable, base: SampleTable, pairs: Pairs, scale: MetricScale
) -> CellComparison:
    """The cell with what its pairs show."""
    from evalscope_evalflow.results.statistics.paired import paired
    from evalscope_evalflow.results.statistics.power import smallest_difference

    ours, theirs = table.scores[pairs.first], base.scores[pairs.second]
    groups = base.groups[pairs.second]
    known = scale.range_of([*_ends(ours), *_ends(theirs)])
    sign, ends = (-1.0, _negated_range(ours, theirs, known)) if cell.lower_is_better else (1.0, known)
    found = paired(sign * ours, sign * theirs, groups, ends)
    low, high = (found.low, found.high) if sign > 0 else (_negated(found.high), _negated(found.low))
    return replace(
        cell,
        score=float(ours.mean()),
        baseline_score=float(theirs.mean()),
        difference=sign * found.difference + 0.0,
        low=low,
        high=high,
        p=found.p,
        lower_one_sided=found.lower_one_sided,
        wins=found.wins,
        losses=found.losses,
        ties=found.ties,
        groups=len(set(groups.tolist())),
        effective_groups=found.effective_groups,
        discordant_groups=found.discordant_groups,
        method=str(getattr(found.method, "value", found.method)),
        smallest_difference=smallest_difference(ours, theirs, groups) if found.decidable else None,
        verdict=Verdict.NOT_SHOWN if found.decidable else Verdict.TOO_FEW,
        lowest=min(0.0, float(ours.min()), float(theirs.min())),
    )


def _ends(scores: NDArray[np.float64]) -> tuple[float, float]:
    return float(scores.min()), float(scores.max())


def _negated_range(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], known: tuple[float, float] | None
) -> tuple[float, float]:
    """The range of negated scores: the metric's, or else that of shares, or from the highest that occurs to 0."""
    (low, high), (others_low, others_high) = _ends(ours), _ends(theirs)
    lowest, highest = known or (min(0.0, low, others_low), max(1.0, high, others_high))
    return -highest, -lowest


def _negated(value: float | None) -> float | None:
    return None if value is None else -value


def _verdict(gain: float, p_adjusted: float, level: float) -> Verdict:
    if p_adjusted >= level or gain == 0:
        return Verdict.NOT_SHOWN
    return Verdict.ROSE if gain > 0 else Verdict.FELL


def _score(run: LoadedRun, dataset: str) -> CellScore:
    reported = run.chosen.run.scores.get(dataset)
    value = reported.value if reported is not None else None
    return cell_score(run.label, run.tables[dataset], run.requested(dataset), value, run.scale(dataset))


def _described(run: LoadedRun, scores: Sequence[CellScore], datasets: Collection[str] | None) -> ComparedRun:
    return described(run.chosen, [item for item in scores if item.run == run.label], datasets)
