"""Why answers have no verdict of the judge's own, by EvalScope's review files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.missing_verdicts import MissingVerdict
from evalscope_evalflow.backends.native.native_verdicts import is_fallback, why_missing
from evalscope_evalflow.events.json_lines import objects_in


def missing_verdicts(reviews: Iterable[Path]) -> list[MissingVerdict]:
    """One for each answer that the judge gave no verdict on; of an answer with several reviews, the last counts."""
    rows: dict[tuple[Path, Any], dict[str, Any]] = {}
    for path in reviews:
        for row in objects_in(path):
            rows[path, row.get("index")] = row
    return [MissingVerdict(*why_missing(row)) for row in rows.values() if is_fallback(row)]
