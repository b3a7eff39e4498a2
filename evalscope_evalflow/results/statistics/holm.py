"""Corrects the p values of a family of comparisons, so that chance alone rarely raises any alarm in it."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusts p values by Holm's step-down method.

    With adjusted values below 0.05 marked, the chance that a family without any real difference has a mark is at most
    5 %, however the comparisons depend on each other.

    Args:
        p_values: one for each comparison of the family; None where it could not be decided. Those do not count.

    Returns:
        The adjusted p values in the same order, at most 1; None where there was none.

    Raises:
        ValueError: a p value is not between 0 and 1.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    known = [(p, place) for place, p in enumerate(p_values) if p is not None]
    wrong = [p for p, _ in known if not 0 <= p <= 1]
    if wrong:
        raise ValueError(f"a p value lies between 0 and 1: {wrong[0]}")
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(sorted(known)):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = highest
    return adjusted
