"""What a score is: a value with its evidence. It is made here alone, and every door shows this one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.events.answers import NO_TEXT, AnswerKind

if TYPE_CHECKING:
    from evalscope_evalflow.backends.dataset_result import DatasetResult

NO_VERDICT = "no verdict of the judge"


@dataclass(frozen=True)
class Score:
    """One model's score on one dataset, and what it stands on.

    Attributes:
        value: mostly from 0 to 1; None: there is none that could be trusted, and `why_not` says why.
        metric: its name; empty where there is no report.
        n: samples that the value covers; 0 where there is none.
        requested: samples that were to be answered.
        answered: samples that were answered.
        judged: samples with a verdict of the judge's own; None: no judge is used.
        failed: samples that have no answer, or could not be scored.
        unjudged: samples that the judge gave no usable verdict on; the value does not cover them.
        cut_off: answers that end where `max_tokens` cut them off; the value covers them.
        empty: answers without any text: nothing, only thoughts, or a tool call; the value covers them.
        answer_kinds: what is unusual about answers, by kind (`AnswerKind` by value); the value covers them.
        interval: the value's 95 % confidence interval; it covers the samples that the value covers. None: not computed,
            or the value is no mean of single samples' scores.
        n_groups: independent groups of samples that the interval is computed from; repeats of a question are one.
        few_groups: whether these are so few that the interval is only rough.
        complete: whether the value covers every sample, each judged as it should be. In `mode: infer`: whether every
            sample is answered.
        why_not: why the value is missing or incomplete; empty where it is complete.
        remarks: what stands beside the value and takes nothing from it, such as answers of two versions of the engine.
    """

    value: float | None
    metric: str
    n: int
    requested: int
    answered: int
    judged: int | None
    failed: int
    unjudged: int
    cut_off: int
    empty: int
    answer_kinds: dict[str, int] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    n_groups: int | None = None
    few_groups: bool | None = None
    complete: bool = False
    why_not: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The value with four decimals; empty where there is none."""
        return "" if self.value is None else f"{self.value:.4f}"

    def as_record(self) -> dict[str, Any]:
        """The score, as run.json holds it."""
        return {
            "value": self.value,
            "metric": self.metric,
            "n": self.n,
            "requested": self.requested,
            "answered": self.answered,
            "judged": self.judged,
            "failed": self.failed,
            "unjudged": self.unjudged,
            "cut_off": self.cut_off,
            "empty": self.empty,
            "answer_kinds": self.answer_kinds,
            "interval": self.interval,
            "n_groups": self.n_groups,
            "few_groups": self.few_groups,
            "complete": self.complete,
            "why_not": self.why_not,
        }


def score_of(result: DatasetResult) -> Score:
    """The headline score of a result.

    Args:
        result: what became of one model on one dataset.
    """
    headline = result.metrics[0] if result.metrics else None
    missing = result.report is None or result.predicted_only or _no_verdict(result)
    # Some benchmarks have a figure of nothing: they count what is missing as wrong.
    value = None if headline is None or missing or not result.succeeded else headline.score
    complete = _complete(result, value)
    return Score(
        value=value,
        metric=headline.name if headline else "",
        n=result.succeeded - result.left_out if value is not None else 0,
        requested=result.requested,
        answered=result.answered or result.succeeded,
        judged=result.judged,
        failed=result.failed,
        unjudged=result.fallbacks,
        cut_off=result.answer_kinds.get(AnswerKind.CUT_OFF.value, 0),
        empty=sum(result.answer_kinds.get(kind.value, 0) for kind in NO_TEXT),
        answer_kinds=dict(result.answer_kinds),
        interval=result.interval if value is not None else None,
        n_groups=result.n_groups if value is not None else None,
        few_groups=result.few_groups if value is not None else None,
        complete=complete,
        why_not="" if complete and not result.predicted_only else _why_not(result, value),
        remarks=tuple(result.remarks),
    )


def _no_verdict(result: DatasetResult) -> bool:
    """Whether the judge was needed and gave no verdict at all: then what else the report holds is a rule's."""
    return not result.judged and result.fallbacks > 0


def _complete(result: DatasetResult, value: float | None) -> bool:
    if result.predicted_only:
        return result.requested > 0 and result.answered >= result.requested
    whole = not result.failed and not result.left_out and result.succeeded >= result.requested
    return value is not None and whole and not result.fallbacks and not result.notes


def _why_not(result: DatasetResult, value: float | None) -> str:
    reasons = []
    if result.predicted_only:
        reasons.append("not judged")
    elif _no_verdict(result):
        reasons.append(NO_VERDICT)
    elif result.report is None:
        reasons.append("no report")
    elif value is None:
        reasons.append("nothing could be scored")
    counted = result.answered if result.predicted_only else result.succeeded
    missing = result.requested - counted - (0 if result.predicted_only else result.fallbacks)
    if missing > 0:
        reasons.append(f"{missing} of {result.requested} samples are missing")
    return "; ".join([*reasons, *result.notes])
