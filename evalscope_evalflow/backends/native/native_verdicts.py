"""Saved verdicts: those that are not the judge's own are no verdicts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evalscope_evalflow.events import any_json
from evalscope_evalflow.events.answers import AnswerKind, kinds_of
from evalscope_evalflow.events.whole_files import write_whole

# How the worker's judge says why a request failed (native_judging.py); EvalScope writes the exception's name before it.
_FAILED = re.compile(r"JudgeFailed: (\w+): (.*)", re.DOTALL)
# How EvalScope's prompt names the keys of the JSON object that it wants.
_KEY = re.compile(r'^- "(\w+)": ', re.MULTILINE)
_OPTIONAL = {"reasoning", "explanation"}


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


def why_missing(review: dict[str, Any]) -> tuple[str, str, str]:
    """Why the judge gave no verdict, by a row of a review file.

    Returns:
        The kind of the failure (see `MissingVerdict`), what the judge or its server said, and what was expected.
    """
    score = (review.get("sample_score") or {}).get("score") or {}
    attempts = (score.get("metadata") or {}).get("judge_attempts") or []
    failed = [item for item in attempts if isinstance(item, dict) and item.get("status") != "success"]
    if not failed:
        return "no_agreement", str((score.get("judge_summary") or {}).get("error") or ""), ""
    attempt = failed[-1]
    if attempt.get("status") != "parse_error":
        error = str(attempt.get("error") or "")
        known = _FAILED.match(error)
        return (known[1], known[2], "") if known else ("error", error, "")
    kinds = kinds_of(attempt.get("model_output") or {})
    cut = "; it was cut off at its max_tokens" if AnswerKind.CUT_OFF in kinds else ""
    expected = _expected(attempt) + cut
    said = str(attempt.get("raw_response") or "").strip()
    if AnswerKind.ONLY_THOUGHTS in kinds or AnswerKind.OPEN_THOUGHT in kinds:
        return "only_thoughts", "", expected
    return "unreadable" if said else "empty", said, expected


def _expected(attempt: dict[str, Any]) -> str:
    messages = attempt.get("messages") or [{}]
    keys = _KEY.findall(str(messages[-1].get("content") or ""))
    names = ", ".join(f'"{key}"' for key in [key for key in keys if key not in _OPTIONAL] or keys)
    return f"a JSON object with {names}" if names else "a JSON object"


def has_value(review: dict[str, Any]) -> bool:
    """Whether a row of a review file has a score."""
    return bool(((review.get("sample_score") or {}).get("score") or {}).get("value"))


def lacks_a_metric(review: dict[str, Any]) -> bool:
    """Whether a metric of a row of a review file could not be computed; what a judge has said is no such thing."""
    score = (review.get("sample_score") or {}).get("score") or {}
    metadata = score.get("metadata") or {}
    failed = metadata.get("metric_errors") or any(str(said).startswith("error: ") for said in metadata.values())
    return bool(failed) and not score.get("judge_summary")


def drop_fallbacks(files: Iterable[Path]) -> int:
    """Remove the fallbacks from review files, so that they are judged again.

    What lacks a metric goes, too: it is scored again, which costs nobody anything.

    Args:
        files: those of a dataset; they need not exist.

    Returns:
        How many fallbacks there were.
    """
    dropped = 0
    for path in filter(Path.exists, files):
        keep, lost, rows = [], 0, 0
        # No other sign than a newline ends a row: EvalScope writes U+2028 and its like as they are.
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        for line in re.findall(r"[^\n]*\n|[^\n]+", text):
            fallback = incomplete = False
            with contextlib.suppress(ValueError):  # half a line, of a process that was killed
                row = any_json.loads(line)
                fallback, incomplete = is_fallback(row), lacks_a_metric(row)
            lost, rows = lost + fallback, rows + 1
            if not fallback and not incomplete:
                keep.append(line)
        if len(keep) < rows:
            write_whole(path, "".join(keep), "surrogateescape")
        dropped += lost
    return dropped
