"""EvalScope's scoring, in which a metric that could not be computed is no score.

Where nltk's data are missing, or a metric's package is, EvalScope writes 0.0, and an average over that looks like any
other. Here such a metric has no value. Where it is the sample's headline metric, the sample could not be scored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from evalscope_evalflow.events.worker_events import MetricsFailed
from evalscope_evalflow.worker.channel import Channel

SAID = 300  # characters of an error
# How EvalScope's benchmarks note with a score of 0 that their own code failed, and how that reads where it is not the
# answer's fault, which may as well be one that cannot be parsed.
_FAILED = re.compile(r"(sandbox )?evaluation (failed|error): ", re.IGNORECASE)
_SURROUNDINGS = re.compile(
    r"No module named|pip install|not installed|Resource \S+ not found|No such file or directory|Connection refused"
    r"|docker",
    re.IGNORECASE,
)
_NLTK = re.compile(r"Resource '?(\w+)'? not found\.\s+Please use the NLTK Downloader")


class Unscored(Exception):
    """A sample whose headline metric could not be computed."""


def scores_only_metrics(default: Any, channel: Channel) -> Any:
    """A subclass of one of EvalScope's evaluators.

    Args:
        default: the evaluator.
        channel: is told of metrics that could not be computed.
    """

    class MetricScorer(default):  # type: ignore[misc]
        def _review_task_state(self, task_state: Any) -> Any:
            sample_score = super()._review_task_state(task_state)
            errors = without_failed_metrics(sample_score)
            score = sample_score.score
            if errors and (not score.value or any(_is_of(score.main_score_name, metric) for metric in errors)):
                raise Unscored(_words(errors))
            return sample_score

        def _aggregate_scores(self, dataset_dict: Any, context: Any, *results: Any) -> Any:
            for scores in context.cached_scores_by_subset.values():  # of a run before this rule
                for sample_score in scores:
                    without_failed_metrics(sample_score)
            figures = super()._aggregate_scores(dataset_dict, context, *results)
            scores = [item for found in self._sample_scores_by_subset.values() for item in found]
            channel.emit(MetricsFailed(str(self.benchmark_name), _counts(scores)))
            return figures

    return MetricScorer


def without_failed_metrics(sample_score: Any) -> dict[str, str]:
    """Take the values of metrics that could not be computed out of a sample's score.

    Args:
        sample_score: EvalScope's SampleScore, which is changed.

    Returns:
        What went wrong, by metric.
    """
    score = sample_score.score
    errors = metric_errors(score.metadata or {})
    said = str(score.explanation or "")
    if _FAILED.match(said) and _SURROUNDINGS.search(said):
        errors["the score"] = _short(said)
        score.value = {}
    for name in [name for name in score.value if any(_is_of(name, metric) for metric in errors)]:
        del score.value[name]
    return errors


def metric_errors(metadata: dict[str, Any]) -> dict[str, str]:
    """What EvalScope notes with a sample of metrics that could not be computed.

    Args:
        metadata: of the sample's score.
    """
    found = {str(metric): str(said) for metric, said in (metadata.get("metric_errors") or {}).items()}
    for metric, said in metadata.items():
        if isinstance(said, str) and said.startswith("error: "):
            found[str(metric)] = said.removeprefix("error: ")
    return {metric: _short(said) for metric, said in found.items()}


def _short(said: str) -> str:
    data = _NLTK.search(said)
    if data:
        return f"nltk's data {data[1]} are missing: python -m nltk.downloader {data[1]}"
    return " ".join(said.split())[:SAID]


def _is_of(name: str | None, metric: str) -> bool:
    """Whether a value, such as `bleu-1`, is one of a metric's."""
    return str(name).lower() == metric.lower() or str(name).lower().startswith(f"{metric.lower()}-")


def _words(errors: dict[str, str]) -> str:
    return "; ".join(f"{metric} could not be computed: {said}" for metric, said in errors.items())


def _counts(scores: Iterable[Any]) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for item in scores:
        for metric, said in metric_errors(item.score.metadata or {}).items():
            number, first = found.get(metric, (0, said))
            found[metric] = (number + 1, first)
    return found
