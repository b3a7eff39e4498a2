"""What a comparison of finished runs has found: plain data, which every format renders.

Standard library only, so that a renderer can be written and tested without the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property


class Verdict(str, Enum):
    """What a comparison of one model with its baseline on one dataset has found. The value is how it is printed."""

    ROSE = "better"
    FELL = "worse"
    NOT_SHOWN = "no difference shown"
    TOO_FEW = "too few to decide"
    REFUSED = "not compared"

    @property
    def mark(self) -> str:
        """One character for tables."""
        return {"better": "▲", "worse": "▼", "too few to decide": "?", "not compared": "✗"}.get(self.value, "")


class Kind(str, Enum):
    """What a difference between two runs is about. The value is what `--allow` takes."""

    # These make scores that say nothing about the models: they are refused unless they are allowed.
    DATA = "data"
    PROMPT = "prompt"
    JUDGE = "judge"
    METRIC = "metric"
    BACKEND = "backend"
    # These are what a comparison is about, or no more than worth knowing.
    MODEL = "model"
    ENGINE = "engine"
    SETTING = "setting"
    VERSION = "version"

    @property
    def refused(self) -> bool:
        """Whether runs that differ in it are not compared unless that is allowed."""
        return self in (Kind.DATA, Kind.PROMPT, Kind.JUDGE, Kind.METRIC, Kind.BACKEND)


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same in a run and its baseline.

    Attributes:
        kind: what it is about.
        name: the setting, such as `generation_config.temperature`, or what it is, such as `questions`.
        baseline: its value in the baseline, as text; "not set" and "unknown" are values too.
        value: its value in the run.
        run: the run's label.
        baseline_run: the baseline's label.
        datasets: the datasets that it is about.
        allowed: whether it was allowed by name; of no meaning for kinds that are never refused.
    """

    kind: Kind
    name: str
    baseline: str
    value: str
    run: str
    baseline_run: str
    datasets: tuple[str, ...]
    allowed: bool = False

    @property
    def refuses(self) -> bool:
        """Whether it keeps its cells from being compared."""
        return self.kind.refused and not self.allowed


@dataclass(frozen=True)
class ComparedRun:
    """One model in one run folder.

    Attributes:
        label: its name in this comparison: the model's, or with its folder where two have the same.
        model: the model's name.
        folder: the run folder.
        baseline: label of the run that it is compared with; None: it is a baseline itself.
        state: as in run.json, such as `complete`.
        engine: the engine and its version, such as `vllm 0.32.0`; empty where it is not known.
        versions: of packages, by name.
        remarks: what has to be known of its scores, a line each: accepted differences, answers of several engines,
            cells that are incomplete.
    """

    label: str
    model: str
    folder: str
    baseline: str | None
    state: str = ""
    engine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class CellScore:
    """One run's own score on one dataset, over everything that it has scored.

    Attributes:
        run: the run's label.
        dataset: the dataset.
        metric: the headline metric's name.
        value: the mean of its samples' scores; None: nothing is scored.
        low: lower end of its 95 % interval; None where there is none.
        high: upper end.
        n: samples that are scored.
        requested: samples that were to be answered; None: not known.
        failed: samples without an answer, or whose scoring failed.
        unjudged: samples that wait for a verdict of the judge.
        groups: groups of samples that depend on each other.
        few_groups: whether the interval stands on fewer than ten effective groups.
        complete: whether every sample is scored.
        reported: the score as the run's own table has it, where it is not the mean of its samples; else None.
    """

    run: str
    dataset: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    requested: int | None
    failed: int
    unjudged: int
    groups: int
    few_groups: bool
    complete: bool
    reported: float | None = None


@dataclass(frozen=True)
class CellComparison:
    """One run against its baseline on one dataset, over the samples that both have scored.

    Scores are in the metric's own unit, mostly from 0 to 1. Differences are the run's score minus the baseline's.

    Attributes:
        run: the run's label.
        baseline: the baseline's label.
        dataset: the dataset.
        metric: the headline metric's name.
        verdict: what was found.
        refused: why it is not compared; empty where it is.
        pairs: samples that both have scored, and that are compared.
        expected: samples that either run has or was to have.
        left_out: why the others are not compared, with their number, such as {"failed in base": 3}.
        score: the run's mean over the pairs; None where nothing is compared, as are all of the following.
        baseline_score: the baseline's mean over the pairs.
        difference: `score - baseline_score`.
        low: lower end of the difference's 95 % interval, not adjusted for other comparisons.
        high: upper end.
        p: two-sided p value; None where there is no test.
        p_adjusted: the same, Holm-adjusted over the family.
        lower_one_sided: lower end of the one-sided 95 % interval of the gain.
        wins: samples with a better score than in the baseline.
        losses: samples with a worse one.
        ties: samples with the same one.
        groups: groups of samples that depend on each other.
        effective_groups: their number, weighted by size: (Σn)²/Σn².
        discordant_groups: groups whose scores differ.
        method: how it was tested: `cr2`, `sign-flip` or `too-few`.
        smallest_difference: the smallest true difference that this many samples show in 80 % of cases, at a level of
            5 % for this comparison alone; None where it cannot be told.
        remarks: what has to be known, a line each.
        lower_is_better: whether less is better by this metric, as with error rates.
        lowest: 0, or the lowest score of any of the pairs where one is below 0; None where nothing is compared.
    """

    run: str
    baseline: str
    dataset: str
    metric: str
    verdict: Verdict
    refused: str = ""
    pairs: int = 0
    expected: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    score: float | None = None
    baseline_score: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    lower_one_sided: float | None = None
    wins: int = 0
    losses: int = 0
    ties: int = 0
    groups: int = 0
    effective_groups: float = 0.0
    discordant_groups: int = 0
    method: str = ""
    smallest_difference: float | None = None
    remarks: tuple[str, ...] = ()
    lower_is_better: bool = False
    lowest: float | None = None

    @property
    def gain(self) -> float | None:
        """By how much the run is better than the baseline: the difference, or minus it where less is better."""
        return -self.difference if self.lower_is_better and self.difference is not None else self.difference

    @property
    def share(self) -> float:
        """The share of the samples that is compared, from 0 to 1."""
        return self.pairs / self.expected if self.expected else 0.0

    @property
    def half_width(self) -> float | None:
        """What stands after ±: half of the difference's 95 % interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def lopsided(self) -> bool:
        """Whether the interval reaches so much further to one side that ± would mislead: both ends are then shown."""
        if self.low is None or self.high is None or self.difference is None:
            return False
        return abs(self.high + self.low - 2 * self.difference) > MOST_LOPSIDED * (self.high - self.low)


@dataclass(frozen=True)
class Answer:
    """One run's answer to a question.

    Attributes:
        run: the run's label.
        sample: the sample's name in that run, such as its number.
        score: its score.
        answer: what the model said; None: not kept.
        extracted: what was taken from it as the answer.
        verdict: what the judge decided; None: no judge.
        reason: the judge's words.
    """

    run: str
    sample: str
    score: float
    answer: str | None = None
    extracted: str | None = None
    verdict: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Flip:
    """A sample whose score differs between a run and its baseline.

    Attributes:
        dataset: the dataset.
        subset: the dataset's part; empty where it has none.
        repeat: which repetition of the question, from 0.
        prompt: what was asked.
        target: the right answer; None: there is none.
        baseline: the baseline's answer.
        answer: the run's answer.
    """

    dataset: str
    subset: str
    repeat: int
    prompt: str
    target: str | None
    baseline: Answer
    answer: Answer

    @property
    def difference(self) -> float:
        """The run's score minus the baseline's."""
        return self.answer.score - self.baseline.score


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs, each with its baseline, on every dataset that both have.

    Attributes:
        runs: all runs, baselines first.
        datasets: the datasets, in the order of the first run.
        scores: every run's own score on each dataset that it has.
        cells: a comparison for each run that is none, and each dataset that it and its baseline have.
        differences: what differs between the runs, refused kinds first.
        missing: datasets that a run or its baseline lacks, a line each.
        family: how many comparisons the Holm adjustment is over.
        min_share: the share of samples that both have to have.
        flips: samples whose scores differ, the largest falls first; empty where they were not asked for.
        flips_in_all: how many there are, of which `flips` may be the first.
    """

    runs: tuple[ComparedRun, ...]
    datasets: tuple[str, ...]
    scores: tuple[CellScore, ...]
    cells: tuple[CellComparison, ...]
    differences: tuple[Difference, ...] = ()
    missing: tuple[str, ...] = ()
    family: int = 0
    min_share: float = 0.95
    flips: tuple[Flip, ...] = ()
    flips_in_all: int = 0

    @property
    def baselines(self) -> tuple[ComparedRun, ...]:
        """The runs that others are compared with."""
        return tuple(run for run in self.runs if run.baseline is None)

    def score(self, run: str, dataset: str) -> CellScore | None:
        """A run's own score on a dataset; None where it has none."""
        return self._scores.get((run, dataset))

    def cell(self, run: str, dataset: str) -> CellComparison | None:
        """The comparison of a run on a dataset; None where there is none."""
        return self._cells.get((run, dataset))

    def compared(self) -> Iterator[CellComparison]:
        """The cells that could be compared."""
        return (cell for cell in self.cells if not cell.refused)

    @property
    def family_text(self) -> str:
        """What the marks stand for, in a sentence or two."""
        return family_text(self.family)

    @cached_property
    def _scores(self) -> dict[tuple[str, str], CellScore]:
        return {(item.run, item.dataset): item for item in self.scores}

    @cached_property
    def _cells(self) -> dict[tuple[str, str], CellComparison]:
        return {(item.run, item.dataset): item for item in self.cells}


# How far an interval's middle may be from the difference, as a share of its half width.
MOST_LOPSIDED = 0.1
LOPSIDED = "Both ends of that interval stand in place of ± where it reaches further to one side."
UNADJUSTED = "Each ± is half of that difference's own 95 % interval, not adjusted for the others."


def family_text(size: int) -> str:
    """What a mark stands for.

    Args:
        size: how many comparisons the Holm adjustment is over.
    """
    if size == 0:
        return "Nothing could be tested, so there are no marks."
    if size == 1:
        return "▲ better, ▼ worse: one comparison, tested at a level of 5 %."
    return (
        f"▲ better, ▼ worse: Holm over the {size} comparisons of this table, so that in all of them together there is "
        f"a false mark in at most 5 % of cases. {UNADJUSTED}"
    )
