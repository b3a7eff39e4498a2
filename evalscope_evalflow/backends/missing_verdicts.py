"""Why answers have no verdict of the judge's own, in words: by kind, with one example of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SHOWN = 120  # characters of what a judge said

# By the kind of the failure; `{of}` is "20 of 20 answers".
_WORDS = {
    "unreadable": "the judge's reply could not be parsed for {of}",
    "empty": "the judge's reply was empty for {of}",
    "only_thoughts": "the judge only thought, and gave no verdict, for {of}",
    "timeout": "the judge did not answer in time for {of}",
    "connection": "the judge could not be reached for {of}",
    "server_error": "the judge's server failed for {of}",
    "broken_off": "the judge's reply was broken off for {of}",
    "rate_limited": "the judge's server refused {of}: too many requests",
    "context_too_long": "the judge's context is too short for {of}",
    "content_refused": "the judge refused to look at {of}",
    "request_refused": "the judge's server refused {of}",
    "judge_refuses": "the judge's server refuses every request: {of} have no verdict",
    "over_budget": "the judge was not asked about {of}",
    "no_judge": "{of} need a judge, and none is configured",
    "no_agreement": "the judges came to no verdict on {of}",
    "unmapped": "{of} have no verdict, in the dataset's own count",
    "error": "{of} could not be judged",
}
# Kinds whose example is the judge's own text, and is quoted.
_QUOTED = ("unreadable",)


@dataclass(frozen=True)
class MissingVerdict:
    """Why one answer has no verdict of the judge's own.

    Attributes:
        kind: of the failure, such as `unreadable` or `timeout`.
        said: what the judge, or its server, said; empty where that is not known.
        expected: what a reply has to be, such as `a JSON object with "verdict"`; empty where that is not known.
    """

    kind: str
    said: str = ""
    expected: str = ""


def reasons(missing: Iterable[MissingVerdict], of: int) -> list[str]:
    """Why verdicts are missing, a line for each kind, the most frequent first.

    Args:
        missing: one for each answer without a verdict.
        of: answers that were to be judged.
    """
    by_kind: dict[str, list[MissingVerdict]] = {}
    for item in missing:
        by_kind.setdefault(item.kind, []).append(item)
    return [_reason(items, of) for items in sorted(by_kind.values(), key=len, reverse=True)]


def _reason(items: list[MissingVerdict], of: int) -> str:
    example = next((item for item in items if item.said), items[0])
    words = _WORDS.get(example.kind, f"{{of}} have no verdict ({example.kind.replace('_', ' ')})")
    text = words.format(of=f"{len(items)} of {of} answers")
    said = " ".join(example.said.split())
    said = said if len(said) <= SHOWN else f"{said[:SHOWN]}…"
    if said:
        text += f", e.g. {said!r}" if example.kind in _QUOTED else f": {said}"
    return f"{text}; expected {example.expected}" if example.expected else text
