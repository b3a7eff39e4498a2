"""Why an engine stopped: its log, put in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evalscope_evalflow.engines import Rule

READ_BYTES = 256 * 1024
TAIL_LINES = 12
# The prefixes that vLLM's processes put before their lines.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(
    r"^\((?:EngineCore|APIServer|Worker|VllmWorker)\S* pid=\d+\) (?:[A-Z]+ [\d-]+ [\d:]+ \[\S+?\] )?",
    re.MULTILINE,
)
_ERROR = re.compile(r"^\s*(?:[\w.]+\.)?(\w*(?:Error|Exception)): (.+)$", re.MULTILINE)
# pydantic's own line only counts; what is wrong stands in one of the next.
_PYDANTIC = re.compile(r"^\s*(?:[\w.]+\.)?ValidationError: \d+ validation errors? for (.+)$", re.MULTILINE)
_VALUE = re.compile(r"^\s*(?:Value|Assertion) error, (.+?)(?: \[type=.*)?$", re.MULTILINE)
# Said by processes that only lost another one.
_WRAPPER = re.compile(
    r"initialization failed|See root cause above|Engine process failed|engine process is not alive", re.IGNORECASE
)


@dataclass(frozen=True)
class Diagnosis:
    """What a log says.

    Attributes:
        cause: one line.
        hint: what to do; may be empty.
        tail: the log's last lines.
    """

    cause: str
    hint: str
    tail: list[str]


def read_tail(log: Path, start: int = 0) -> str:
    """The end of a log, without colours and prefixes; empty if there is none. `start`: byte to begin with."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(start if start <= size else 0, size - READ_BYTES))  # smaller than at its start: rotated
            return _PREFIX.sub("", _COLOUR.sub("", file.read().decode("utf-8", "replace")))
    except OSError:
        return ""


def diagnose(log: Path, rules: Sequence[Rule], start: int = 0) -> Diagnosis:
    """Explain an engine's end by its log, from a byte on: the first rule that matches, else its own first error."""
    text = read_tail(log, start)
    tail = [line.rstrip() for line in text.splitlines() if line.strip()][-TAIL_LINES:]
    for rule in rules:
        found = rule.apply(text)
        if found:
            return Diagnosis(*found, tail)
    invalid = _PYDANTIC.search(text)
    value = _VALUE.search(text, invalid.end()) if invalid else None
    if invalid and value:
        return Diagnosis(f"{invalid[1]}: {value[1][:300]}", "", tail)
    # Of nested errors the first is the cause, and what wraps it says only that something failed.
    errors = [match for match in _ERROR.finditer(text) if not _WRAPPER.search(match[2])]
    if errors:
        return Diagnosis(f"{errors[0][1]}: {errors[0][2][:300]}", "", tail)
    return Diagnosis(tail[-1][:300] if tail else "it printed nothing", "", tail)
