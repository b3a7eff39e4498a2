"""Saved verdicts: those that are not the judge's own are no verdicts."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from pathlib import Path
from typing import Any


def is_fallback(review: dict[str, Any]) -> bool:
    """Whether a row of a review file was scored by a rule, or not at all, since the judge gave no verdict.

    Of several judges, each has to have given one. That they disagree, so that the first of them decides, is no failure.
    """
    score = (review.get("sample_score") or {}).get("score") or {}
    summary = score.get("judge_summary") or score.get("judge_detail")
    if not isinstance(summary, dict) or summary.get("status") in (None, "success"):
        return False
    seen, valid = summary.get("total_observations") or 0, summary.get("valid_observations") or 0
    return not (summary["status"] == "degraded" and 0 < seen <= valid)


def has_value(review: dict[str, Any]) -> bool:
    """Whether a row of a review file has a score."""
    return bool(((review.get("sample_score") or {}).get("score") or {}).get("value"))


def drop_fallbacks(folder: Path, dataset: str) -> int:
    """Remove the fallbacks from the review files of a dataset, so that they are judged again.

    Args:
        folder: `reviews/MODEL` of a run folder.
        dataset: the benchmark.

    Returns:
        How many there were.
    """
    dropped = 0
    for path in sorted(folder.glob(f"{glob.escape(dataset)}_*.jsonl")):
        keep, lost = [], 0
        rows = path.read_text(encoding="utf-8", errors="surrogateescape").split(
            "\n"
        )  # no other sign ends a row of JSON
        for line in (f"{row}\n" for row in rows if row):
            fallback = False
            with contextlib.suppress(ValueError):  # half a line, of a process that was killed
                fallback = is_fallback(json.loads(line))
            if fallback:
                lost += 1
            else:
                keep.append(line)
        if lost:
            new = path.with_suffix(".new")
            new.write_text("".join(keep), encoding="utf-8", errors="surrogateescape")
            os.replace(new, path)
        dropped += lost
    return dropped
