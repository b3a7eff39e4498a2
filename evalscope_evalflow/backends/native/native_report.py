"""EvalScope's scoring, in which a verdict is the judge's own, or it is none.

Where the judge is down, or its reply cannot be read, EvalScope scores a sample by a rule, and averages that with the
judge's verdicts, or shows it beside them as the headline. Here such a sample leaves the score: the report holds the
judge's metric over what was judged, and lies outside `reports/` if that is nothing. Its review keeps what the judge
said, without a value, and is made anew by the next run.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from evalscope_evalflow.worker.kept_reports import set_aside


def scores_only_verdicts(default: Any, folder: Path) -> Any:
    """A subclass of EvalScope's default evaluator.

    Args:
        default: EvalScope's evaluator.
        folder: the run folder.
    """

    class Scorer(default):  # type: ignore[misc]
        def __init__(self, **parts: Any) -> None:
            super().__init__(**parts)
            self._unjudged: dict[str, int] = {}  # samples without a verdict, by subset
            self._judge_said = _ask_rules_only_before_the_judge(self.benchmark)

        def _review_task_state(self, task_state: Any) -> Any:
            self._judge_said.nothing = False
            return without_a_rules_value(super()._review_task_state(task_state))

        def _aggregate_scores(self, *args: Any) -> Any:
            """As it is, but samples without a verdict are kept from what computes the figures."""
            name = "aggregate_subset" if hasattr(self.benchmark, "aggregate_subset") else "aggregate_scores"
            stock = getattr(self.benchmark, name)

            def aggregate(*subset: Any, sample_scores: list[Any]) -> Any:
                judged = [item for item in sample_scores if not is_unjudged(item)]
                return stock(*subset, sample_scores=judged) if judged or not sample_scores else []

            setattr(self.benchmark, name, aggregate)
            try:
                figures = super()._aggregate_scores(*args)
            finally:
                delattr(self.benchmark, name)
            for subset, scores in self._sample_scores_by_subset.items():
                self._unjudged[subset] = sum(map(is_unjudged, scores))
            return {subset: found for subset, found in figures.items() if found}

        def get_report(self, agg_score_dict: Any, execution_summary: Any) -> Any:
            unjudged = sum(self._unjudged.values())
            if unjudged:
                for subset, number in self._unjudged.items():
                    _count_as_missing(execution_summary.subsets[subset], number)
                _count_as_missing(execution_summary, unjudged)
                execution_summary.incomplete = True
            judge = _judge_summary(self._sample_scores_by_subset.values())
            if judge is not None and unjudged and not judge.scored:
                agg_score_dict = {}  # what is left needed no judge, and stands for none that did
            if not execution_summary.succeeded:
                agg_score_dict = {}  # some benchmarks count what is missing as wrong
            report = super().get_report(agg_score_dict, execution_summary)
            report.judge_summary = judge
            name_headline(report)
            file = Path(self.cache_manager.get_report_file())
            new = file.with_suffix(".new")
            report.to_json(str(new))
            new.replace(file)
            if not report.metrics:
                set_aside(folder, file)
            return report

    return Scorer


def is_unjudged(sample_score: Any) -> bool:
    """Whether the judge was asked for a verdict on a sample, and none of its replies could be used.

    Args:
        sample_score: EvalScope's SampleScore.
    """
    summary = sample_score.score.judge_summary
    if summary is None or summary.status == "success":
        return False
    return not summary.status.is_usable or not summary.valid_observations


def without_a_rules_value(sample_score: Any) -> Any:
    """A sample's score, emptied if the judge gave no verdict; what the judge said stays in it.

    Args:
        sample_score: EvalScope's SampleScore, which is changed.
    """
    if is_unjudged(sample_score):
        score, summary = sample_score.score, sample_score.score.judge_summary
        score.value = {}
        if score.status.is_usable:
            score.status = type(score.status)("excluded")
        if summary.status.is_usable:
            score.judge_summary = summary.model_copy(update={"status": score.status, "scored": 0, "coverage": 0.0})
    return sample_score


def _ask_rules_only_before_the_judge(benchmark: Any) -> threading.local:
    """Have a benchmark compute no rule's score of a sample that the judge gave no verdict on.

    It would not count; and what a rule lacks, such as data of a package, would be the reason that is given.

    Args:
        benchmark: EvalScope's, whose methods are replaced.

    Returns:
        Whether the judge said nothing, as `nothing`; to be set to False before each sample.
    """
    said = threading.local()
    ask, rule = getattr(benchmark, "score_with_judge_contracts", None), getattr(benchmark, "match_score", None)
    if ask is None or rule is None:
        return said

    def ask_judge(*args: Any, **options: Any) -> Any:
        score = ask(*args, **options)
        said.nothing = not score.status.is_usable
        return score

    def match(*args: Any, **options: Any) -> Any:
        if not getattr(said, "nothing", False):
            return rule(*args, **options)
        from evalscope.api.metric import Score

        return Score(
            prediction=options.get("original_prediction"), extracted_prediction=options.get("filtered_prediction")
        )

    benchmark.score_with_judge_contracts, benchmark.match_score = ask_judge, match
    return said


def name_headline(report: Any) -> None:
    """Give a report the headline that our table shows, if it has none: with a judge, EvalScope often names none.

    Args:
        report: EvalScope's Report, which is changed.
    """
    if report.primary_metric_identity is not None:
        return
    figures = [metric for metric in report.metrics if metric.semantics.kind != "diagnostic"]
    if figures:
        report.primary_metric_identity = figures[0].identity
        report.primary_metric_unavailable_reason = None


def _judge_summary(scores: Any) -> Any:
    from evalscope.api.judge import summarize_judge_runs

    return summarize_judge_runs(scores)


def _count_as_missing(summary: Any, number: int) -> None:
    """Take samples from those that a summary calls successful."""
    summary.succeeded -= number
    summary.errored += number
