"""What became of one model on one dataset, as its backend counts it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from evalscope_evalflow.backends.score import Score, score_of


@dataclass(frozen=True)
class Metric:
    """One figure of a report.

    Attributes:
        name: such as "mean_acc".
        score: as the report has it (mostly 0 to 1); None where nothing could be scored.
        samples: number of samples that it covers.
        primary: whether it is the benchmark's own headline figure.
    """

    name: str
    score: float | None
    samples: int
    primary: bool = False


@dataclass(frozen=True)
class DatasetResult:
    """What became of one model on one dataset.

    Attributes:
        dataset: its name.
        metrics: the report's figures, the headline first.
        requested: samples that were to be answered.
        succeeded: samples that were answered and scored.
        failed: samples that were not.
        answered: samples that were answered.
        judged: samples with a verdict of the judge's own; None where no judge is used.
        fallbacks: samples that the judge gave no verdict on, whether scored by a rule instead or not at all.
        left_out: of those that succeeded, samples that the score leaves out, as others of their group are missing.
        report: the report's file; None where there is none.
        notes: why the score is missing or incomplete, such as a judge that failed; with any, it is not complete.
        failures: how many samples have no answer or no score, by kind.
        answer_kinds: answers that stand, but are unusual, by kind (values of `AnswerKind`).
        remarks: what stands beside the score, and takes nothing from it, in words: answers that were cut off, metrics
            that could not be computed.
        interval: the headline score's 95 % confidence interval; None: not computed, or the score is no mean of samples.
        n_groups: independent groups of samples that it is computed from.
        few_groups: whether these are so few that it is only rough.
        predicted_only: whether it was only to be answered, and not judged (`mode: infer`).
    """

    dataset: str
    metrics: list[Metric] = field(default_factory=list)
    requested: int = 0
    succeeded: int = 0
    failed: int = 0
    report: Path | None = None
    notes: list[str] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    answered: int = 0
    judged: int | None = None
    fallbacks: int = 0
    predicted_only: bool = False
    answer_kinds: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    left_out: int = 0
    interval: tuple[float, float] | None = None
    n_groups: int | None = None
    few_groups: bool | None = None

    @cached_property  # it is asked for at many places, and nothing that it is made of changes
    def score(self) -> Score:
        """The headline score with its evidence; what every table, file and object shows."""
        return score_of(self)

    def value_of(self, metric: Metric) -> float | None:
        """The score of one of the metrics; where the headline has none that could be trusted, no other has."""
        return None if self.score.value is None else metric.score

    @property
    def complete(self) -> bool:
        """Whether the score covers every sample, each judged as it should be."""
        return self.score.complete
