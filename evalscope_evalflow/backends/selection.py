"""What of a dataset a task chooses, and how that differs from what saved answers were to."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

CHOOSING = ("limit", "repeats")  # settings that choose rows, and change none


class Change(Enum):
    """How a dataset differs from what is answered. The value is how a reader is told."""

    DATA = "its data has changed"
    MORE = "more samples are chosen"
    FEWER = "fewer samples are chosen"

    @property
    def may_ask_nothing(self) -> bool:
        """Whether it may well be that every answer is there."""
        return self is not Change.MORE


def chosen(stock: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a stock task that choose rows, as JSON has them."""
    generation = stock.get("generation_config")
    number = generation.get("n") if isinstance(generation, Mapping) else None  # its old name
    return {"limit": stock.get("limit"), "repeats": stock.get("repeats") or number or 1}


def change(before: Mapping[str, Any], now: Mapping[str, Any]) -> Change | None:
    """How one choice differs from another; None: not at all."""
    old, new = before.get("limit"), now.get("limit")
    repeats = int(before.get("repeats") or 1), int(now.get("repeats") or 1)
    if old == new and type(old) is type(new) and repeats[0] == repeats[1]:
        return None
    fewer = old is None or (new is not None and type(old) is type(new) and new <= old)
    return Change.FEWER if fewer and repeats[1] <= repeats[0] else Change.MORE
