"""Metrics of a whole question with several answers, such as pass@4: each of its samples gets the question's score."""

from __future__ import annotations

import re
from math import comb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# EvalScope's names, such as `accuracy (pass_at_k, 4)`, `accuracy (pass_hat_k, 2)`, and older ones, such as `pass@4`.
_NAME = re.compile(r"\b(pass_at_k|pass_hat_k)\b\D*(\d+)|\bpass(?P<old>[@^])(?P<k>\d+)")


def of_question(metric: str) -> bool:
    """Whether a metric is one of a whole question."""
    return _NAME.search(metric) is not None


def question_scores(metric: str, scores: NDArray[np.float64], questions: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each sample the score of its question; NaN where the question has fewer answers than the metric needs.

    Scores that are neither 0 nor 1 are no right and wrong answers, and stay as they are.

    Args:
        metric: its name, one of those that `of_question` knows.
        scores: of the samples.
        questions: the number of each sample's question, from 0.

    Source of pass@k: arXiv 2107.03374; pass^k is the share of all choices of k answers that are right altogether.
    """
    import numpy as np

    found = _NAME.search(metric)
    if found is None or not np.isin(scores, (0.0, 1.0)).all() or not len(scores):
        return scores
    k, all_of_them = int(found[2] or found["k"]), found[1] == "pass_hat_k" or found["old"] == "^"
    answers = np.bincount(questions)
    right = np.bincount(questions, weights=scores).astype(int)
    values = {(n, c): _value(n, c, k, all_of_them) for n, c in set(zip(answers.tolist(), right.tolist(), strict=True))}
    by_question = np.array([values[pair] for pair in zip(answers.tolist(), right.tolist(), strict=True)])
    made: NDArray[np.float64] = by_question[questions]
    return made


def _value(answers: int, right: int, k: int, all_of_them: bool) -> float:
    from evalscope_evalflow.results.statistics.pass_at_k import pass_at_k

    if not 1 <= k <= answers:
        return float("nan")
    return comb(right, k) / comb(answers, k) if all_of_them else pass_at_k(answers, right, k)
