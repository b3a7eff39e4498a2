"""One answer to one question, as results are read sample by sample. Standard library only.

A backend makes them of a run folder's files alone (`Backend.samples`): no task, no EvalScope, and nothing unpickled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

SCORED = "scored"
UNJUDGED = "unjudged"
FAILED = "failed"
UNSCORED = "unscored"
STATES = (SCORED, UNJUDGED, FAILED, UNSCORED)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was asked, what was said, and how it was scored.

    Attributes:
        dataset: the dataset's name.
        subset: its subset; empty where a backend has none.
        sample: the backend's own name of the sample in its subset.
        repeat: which repetition of the question it is, from 0.
        group: samples of a dataset whose scores depend on each other share it: repeats of a question, its variants,
            questions on one passage. Where nothing is known, a question has its own.
        question: a digest of what was asked and of the right answer. Repeats share it; it pairs samples of two runs.
        metric: the name of the headline metric; empty where there is none yet.
        score: its value for this sample; None: there is none, and `state` says why.
        state: "scored"; "unjudged": the judge gave no usable verdict; "failed": there is no answer; "unscored": it is
            answered, and not scored yet, or could not be.
        judged: whether it has a verdict of the judge's own; None: no judge was asked.
        kinds: what is unusual about the answer (values of `AnswerKind`).
        prompt: what was asked, as text; pictures are named.
        answer: the answer as the model gave it, thoughts included.
        extracted: what was taken from the answer to be scored.
        target: the right answer; None: not known, as before scoring.
        verdict: what the judge decided.
        reason: the judge's words on its verdict, or why there is no verdict or no score.
        failure: why there is no answer or no score, as "kind: message".
        input_tokens: of the request.
        output_tokens: of the answer.
        latency_s: seconds from the request to the answer's end.
    """

    dataset: str
    subset: str
    sample: str
    repeat: int = 0
    group: str = ""
    question: str = ""
    metric: str = ""
    score: float | None = None
    state: str = UNSCORED
    judged: bool | None = None
    kinds: tuple[str, ...] = ()
    prompt: str = ""
    answer: str | None = None
    extracted: str | None = None
    target: str | None = None
    verdict: str | None = None
    reason: str | None = None
    failure: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_s: float | None = None


def question_digest(*content: Any) -> str:
    """A short fingerprint of what was asked and of the right answer, of anything that JSON can hold."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=lambda item: type(item).__name__)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
