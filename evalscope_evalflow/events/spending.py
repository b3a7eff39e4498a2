"""What a run folder's file says of what was bought. Standard library only: the worker imports it.

`evalflow/usage.jsonl` has a line for each answer of the model, when it has come, for each request to the judge,
before it is sent, for each of the judge's replies, and for the seconds that an engine was held. Nothing removes lines,
`reuse: false` included: what is spent is spent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.events.json_lines import objects_in

FILE = "usage.jsonl"
ANSWER, JUDGE_REQUEST, JUDGE_REPLY, ENGINE = "answer", "judge_request", "judge_reply", "engine"


@dataclass
class Spent:
    """What was bought so far.

    Attributes:
        tokens: of all answers of the model, prompts included.
        judge_requests: requests to the judge.
        by_dataset: requests to the model and their tokens, by dataset.
        largest: tokens of the largest answer, its prompt included.
    """

    tokens: int = 0
    judge_requests: int = 0
    by_dataset: dict[str, tuple[int, int]] = field(default_factory=dict)
    largest: int = 0

    def add(self, item: dict[str, Any]) -> None:
        """Take a line of the file."""
        if item.get("kind") == JUDGE_REQUEST:
            self.judge_requests += 1
        elif item.get("kind") == ANSWER and isinstance(item.get("tokens"), int):
            tokens, dataset = item["tokens"], str(item.get("dataset"))
            requests, sum_of = self.by_dataset.get(dataset, (0, 0))
            self.tokens += tokens
            self.largest = max(self.largest, tokens)
            self.by_dataset[dataset] = requests + 1, sum_of + tokens


def read(path: Path) -> Spent:
    """What the file says; half a line, of a process that was killed, says nothing."""
    found = Spent()
    for item in objects_in(path):
        found.add(item)
    return found


def room_for_an_answer(tokens: int | None, used: int, max_tokens: int | None) -> bool:
    """Whether a budget of tokens may hold one more answer.

    Args:
        tokens: the budget; None: there is none.
        used: tokens that are used.
        max_tokens: the most tokens that an answer may have; None: nobody knows.
    """
    return tokens is None or used + (max_tokens or 1) <= tokens
