"""Estimates how likely at least one of k answers to a question is right, from n answers to it."""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of pass@k for one question: the share of all choices of k answers with a right one.

    Args:
        n: answers to the question.
        c: right ones among them.
        k: answers that one would ask for, 1 to n.

    Raises:
        ValueError: the three do not fit together.

    Source: arXiv 2107.03374, equation 1. (1 - (1 - c/n)**k would be too low on average.)
    """
    if not 1 <= k <= n:
        raise ValueError(
            f"pass@{k} takes at least {max(k, 1)} answers to each question and a k of at least 1; n is {n}"
        )
    if not 0 <= c <= n:
        raise ValueError(f"{c} of {n} answers cannot be right")
    return 1 - comb(n - c, k) / comb(n, k)


def pass_at_every_k(n: int, correct: ArrayLike) -> NDArray[np.float64]:
    """pass@k of each question for every k from 1 to n.

    A column is a fractional score of each question, to be averaged, given an interval and compared like any other.

    Args:
        n: answers to each question.
        correct: right answers to each question, integers from 0 to n.

    Returns:
        An array of the shape (questions, n); column k - 1 is pass@k.

    Raises:
        ValueError: n is below 1, or a count is no integer from 0 to n.
    """
    import numpy as np

    given = np.asarray(correct, dtype=float)
    counts = given.astype(int)
    if n < 1 or not np.array_equal(counts, given):
        raise ValueError("right answers are counted in integers, of at least one answer to each question")
    table = {c: [pass_at_k(n, c, k) for k in range(1, n + 1)] for c in np.unique(counts).tolist()}
    return np.array([table[c] for c in counts.tolist()], dtype=float).reshape(len(counts), n)
