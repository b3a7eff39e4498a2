"""Why answers have no verdict of the judge's own, by EvalScope's review files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.missing_verdicts import MissingVerdict
from evalscope_evalflow.backends.native.native_verdicts import is_fallback
from evalscope_evalflow.events.answers import AnswerKind, kinds_of
from evalscope_evalflow.state import failures

# How the worker's patched judge ends a request that failed (native_judge.py); EvalScope writes the exception's name.
_FAILED = re.compile(r"JudgeFailed: (\w+): (.*)", re.DOTALL)
# How EvalScope's prompt names the keys of the JSON object that it wants.
_KEY = re.compile(r'^- "(\w+)": ', re.MULTILINE)
_OPTIONAL = {"reasoning", "explanation"}


def missing_verdicts(reviews: Iterable[Path]) -> list[MissingVerdict]:
    """One for each answer that the judge gave no verdict on; of an answer with several reviews, the last counts."""
    rows: dict[tuple[Path, Any], dict[str, Any]] = {}
    for path in reviews:
        for row in failures.lines(path):
            rows[path, row.get("index")] = row
    return [_missing(row) for row in rows.values() if is_fallback(row)]


def _missing(row: dict[str, Any]) -> MissingVerdict:
    score = (row.get("sample_score") or {}).get("score") or {}
    metadata = score.get("metadata") or {}
    attempts = metadata.get("judge_attempts") or []
    failed = [item for item in attempts if isinstance(item, dict) and item.get("status") != "success"]
    if not failed:
        return MissingVerdict("no_agreement", str(((score.get("judge_summary") or {}).get("error")) or ""))
    attempt = failed[-1]
    if attempt.get("status") != "parse_error":
        error = str(attempt.get("error") or "")
        known = _FAILED.match(error)
        return MissingVerdict(known[1], known[2]) if known else MissingVerdict("error", error)
    kinds = kinds_of(attempt.get("model_output") or {})
    cut = " (it was cut off at its max_tokens)" if AnswerKind.CUT_OFF in kinds else ""
    expected = _expected(attempt) + cut
    said = str(attempt.get("raw_response") or "").strip()
    if AnswerKind.ONLY_THOUGHTS in kinds or AnswerKind.OPEN_THOUGHT in kinds:
        return MissingVerdict("only_thoughts", expected=expected)
    return MissingVerdict("unreadable", said, expected) if said else MissingVerdict("empty", expected=expected)


def _expected(attempt: dict[str, Any]) -> str:
    messages = attempt.get("messages") or [{}]
    keys = _KEY.findall(str(messages[-1].get("content") or ""))
    wanted = [key for key in keys if key not in _OPTIONAL] or keys
    names = ", ".join(f'"{key}"' for key in wanted)
    return f"a JSON object with {names}" if names else "a JSON object"
