"""What is written down of a large file: `SIZE bytes of TIME, samples DIGEST`; earlier versions left the samples out."""

from __future__ import annotations

from typing import Any


def same_file(one: Any, other: Any) -> bool:
    """Whether two values tell of the same file, as far as both say something.

    Args:
        one: a value of `checkpoint` in cells.json.
        other: another one of the same name.
    """
    if one == other:
        return True
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    return other.startswith(f"{one}, ") or one.startswith(f"{other}, ")
