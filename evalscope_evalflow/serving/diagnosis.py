"""Why an engine stopped: its log, put in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evalscope_evalflow.engines import Engine, LogPattern
from evalscope_evalflow.processes.exit_reason import LESS, Exit
from evalscope_evalflow.processes.supervised import SupervisedProcess

READ_BYTES = 256 * 1024
TAIL_LINES = 12
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OVERWRITTEN = re.compile(r"[^\n]*\r")  # by a progress bar: what a terminal would not show any more
_ERROR = re.compile(r"^\s*(?:[\w.]+\.)?(\w*(?:Error|Exception)): (.+)$", re.MULTILINE)
# An exception without words: the line of code above it says more.
_BARE = re.compile(r"^ +(\S.*)\n(?:[ ^~]+\n)?(?:[\w.]+\.)?(\w*(?:Error|Exception))$", re.MULTILINE)
# pydantic's own line only counts; what is wrong stands in one of the next.
_PYDANTIC = re.compile(r"^\s*(?:[\w.]+\.)?ValidationError: \d+ validation errors? for (.+)$", re.MULTILINE)
_VALUE = re.compile(r"^\s*(?:Value|Assertion) error, (.+?)(?: \[type=.*)?$", re.MULTILINE)
# Said by processes that only lost another one.
_WRAPPER = re.compile(
    r"initialization failed|See root cause above|Engine process failed|engine process is not alive"
    r"|EngineCore encountered an issue|See stack trace \(above\)",
    re.IGNORECASE,
)
# A request that went well: uvicorn's line of a server, or httpx's of a client.
_SERVED = re.compile(r'HTTP/[\d.]+" [123]\d\d\b|HTTP Request: .+ [123]\d\d\b')


@dataclass(frozen=True)
class Diagnosis:
    """What a log says.

    Attributes:
        cause: one line.
        hint: what to do; may be empty.
        tail: the log's last lines, without those of requests that went well.
        again: whether the same start may go well a moment later.
        device_memory: whether a device had too little memory.
    """

    cause: str
    hint: str
    tail: list[str]
    again: bool = False
    device_memory: bool = False


def read_tail(log: Path, start: int = 0, prefix: str = "", without: str = "") -> str:
    """The end of a log as a terminal would show it, without colours; empty if there is none.

    Args:
        log: its file.
        start: byte to begin with.
        prefix: regular expression of what stands before each line and is dropped, as `Engine.log_prefix`.
        without: regular expression of the beginning of lines that are left out whole, as `Engine.log_routine`.
    """
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(start if start <= size else 0, size - READ_BYTES))  # smaller than at its start: rotated
            text = file.read().decode("utf-8", "replace").replace("\r\n", "\n")
            shown = _COLOUR.sub("", _OVERWRITTEN.sub("", text))
            if without:
                shown = re.sub(f"^(?:{without})[^\n]*\n?", "", shown, flags=re.MULTILINE)
            return re.sub(f"^(?:{prefix})", "", shown, flags=re.MULTILINE) if prefix else shown
    except OSError:
        return ""


def diagnose_process(process: SupervisedProcess, engine: Engine | None = None, less: str = LESS) -> Diagnosis:
    """Why a process ended, by what it has printed since its start and by how it ended.

    Args:
        process: the process.
        engine: what it is; None: no engine.
        less: what to do for it to need less memory.
    """
    ending = process.exit_reason(less)
    if engine is None:
        return diagnose(process.log, (), process.log_start, ending)
    about = engine.log_prefix, engine.log_routine
    return diagnose(process.log, engine.log_patterns, process.log_start, ending, *about)


def diagnose(
    log: Path,
    patterns: Sequence[LogPattern],
    start: int = 0,
    ending: Exit | None = None,
    prefix: str = "",
    routine: str = "",
) -> Diagnosis:
    """Explain a process's end.

    Args:
        log: the file of its output.
        patterns: what lines of it mean; the first that matches is the cause, else its own first error.
        start: byte of the log to begin with.
        ending: what is known of its end beside the log.
        prefix: what stands before each line, as `Engine.log_prefix`.
        routine: which lines say nothing of its end, as `Engine.log_routine`.
    """
    text = read_tail(log, start, prefix)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    tail = ([line for line in lines if not _SERVED.search(line)] or lines)[-TAIL_LINES:]
    reason = ending.explain() if ending is not None else None
    if reason and ending is not None and ending.killed:  # it had no time to say why
        return Diagnosis(*reason, tail)
    telling = read_tail(log, start, prefix, routine) if routine else text
    found = _first(patterns, telling, tail, fallback=False)
    if found is not None:
        return found
    cause = _own_error(telling)
    if reason and ending is not None and (cause is None or ending.oom_kills):
        return Diagnosis(reason[0] + (f"; its own words: {cause}" if cause else ""), reason[1], tail)
    found = _first(patterns, text, tail, fallback=True) if cause is None else None
    return found or Diagnosis(cause or (tail[-1][:300] if tail else "it printed nothing"), "", tail)


def _first(patterns: Sequence[LogPattern], text: str, tail: list[str], *, fallback: bool) -> Diagnosis | None:
    """What the first pattern of a kind that matches says."""
    for pattern in patterns:
        found = pattern.explain(text) if pattern.fallback == fallback else None
        if found:
            return Diagnosis(*found, tail, pattern.retryable, pattern.device_memory)
    return None


def _own_error(text: str) -> str | None:
    """The first error in a log, as it stands there."""
    invalid = _PYDANTIC.search(text)
    value = _VALUE.search(text, invalid.end()) if invalid else None
    if invalid and value:
        return f"{invalid[1]}: {value[1][:300]}"
    # Of nested errors the first is the cause, and what wraps it says only that something failed.
    for match in _ERROR.finditer(text):
        if not _WRAPPER.search(match[2]):
            return f"{match[1]}: {match[2][:300]}"
    bare = _BARE.search(text)
    return f"{bare[2]} at `{bare[1][:200]}`" if bare else None
