"""Estimates how likely at least one of k answers to a question is right, from n answers to it."""

from __future__ import annotations

from math import comb


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
