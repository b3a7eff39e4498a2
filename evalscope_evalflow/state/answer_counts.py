"""How many saved answers are cut off, without text, or otherwise not as they should be (see `events/answers.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.events.answers import FILE, NO_TEXT, AnswerKind
from evalscope_evalflow.events.json_lines import objects_in

_WORDS = {
    AnswerKind.EMPTY: "nothing at all",
    AnswerKind.ONLY_THOUGHTS: "only thoughts",
    AnswerKind.TOOL_CALL: "a tool call",
}


@dataclass(frozen=True)
class AnswerCounts:
    """Of one model's answers on one dataset.

    Attributes:
        kinds: number of answers of each kind (`AnswerKind` by value); kinds that do not occur are left out.
        cut_thoughts: those that were cut off before the model had said anything beside its thoughts.
        max_tokens: the limit that cut answers off; None: the task sets none.
    """

    kinds: dict[str, int] = field(default_factory=dict)
    cut_thoughts: int = 0
    max_tokens: int | None = None

    def of(self, *kinds: AnswerKind) -> int:
        """Number of answers of these kinds."""
        return sum(self.kinds.get(kind.value, 0) for kind in kinds)

    @property
    def cut_off(self) -> int:
        """Answers that reached the limit of tokens."""
        return self.of(AnswerKind.CUT_OFF)

    @property
    def empty(self) -> int:
        """Answers that hold no text: nothing, only thoughts, or a tool call."""
        return self.of(*NO_TEXT)

    def remarks(self, answered: int) -> list[str]:
        """The same in words, with what to do.

        Args:
            answered: number of answers in all.
        """
        found = []
        if self.cut_off:
            found.append(f"{self.cut_off} of {answered} answers were cut off {self._limit()}")
        if self.empty:
            parts = [f"{self.of(kind)} × {words}" for kind, words in _WORDS.items() if self.of(kind)]
            found.append(f"{self.empty} of {answered} answers hold no text: {', '.join(parts)}")
        if self.of(AnswerKind.OPEN_THOUGHT):
            number = self.of(AnswerKind.OPEN_THOUGHT)
            found.append(f"{number} of {answered} answers begin with a <think> that is never closed")
        if self.of(AnswerKind.REFUSED):
            found.append(f"{self.of(AnswerKind.REFUSED)} of {answered} answers are refusals")
        return found

    def _limit(self) -> str:
        thoughts = f" ({self.cut_thoughts} of them while still thinking)" if self.cut_thoughts else ""
        if self.max_tokens is None:
            what = "by the server's own limit"
            todo = "set generation_config.max_tokens, or raise deploy.max_model_len"
        else:
            what, todo = f"at max_tokens {self.max_tokens}", "raise generation_config.max_tokens"
        return f"{what}{thoughts}; {todo}"


def path_in(folder: Path) -> Path:
    """The file of a run folder."""
    return folder / "evalflow" / FILE


def read(folder: Path) -> dict[str, AnswerCounts]:
    """The counts of a run folder, by dataset; a dataset whose answers are all as they should be has none.

    Args:
        folder: the run folder.
    """
    last: dict[tuple[str, str, str], dict[str, Any]] = {}
    for item in objects_in(path_in(folder)):
        last[str(item.get("dataset")), str(item.get("subset")), str(item.get("sample"))] = item
    of: dict[str, list[dict[str, Any]]] = {}
    for (dataset, _, _), item in last.items():
        if item.get("kinds"):
            of.setdefault(dataset, []).append(item)
    return {dataset: _count(items) for dataset, items in of.items()}


def kinds_of_samples(folder: Path, dataset: str) -> dict[tuple[str, str], tuple[str, ...]] | None:
    """What is unusual about a dataset's answers, by subset and sample.

    Args:
        folder: the run folder.
        dataset: the dataset's name.

    Returns:
        None where nothing was ever written down, as in folders of 0.1.
    """
    path = path_in(folder)
    if not path.exists():
        return None
    return {
        (str(item.get("subset")), str(item.get("sample"))): tuple(map(str, item.get("kinds") or ()))
        for item in objects_in(path)
        if item.get("dataset") == dataset
    }


def _count(items: Iterable[dict[str, Any]]) -> AnswerCounts:
    kinds: Counter[str] = Counter()
    limits: Counter[int | None] = Counter()
    cut_thoughts = 0
    for item in items:
        found = {str(kind) for kind in item["kinds"]}
        kinds.update(found)
        if AnswerKind.CUT_OFF.value in found:
            limits[item.get("max_tokens")] += 1
            cut_thoughts += bool(found & {AnswerKind.ONLY_THOUGHTS.value, AnswerKind.OPEN_THOUGHT.value})
    return AnswerCounts(dict(kinds.most_common()), cut_thoughts, limits.most_common(1)[0][0] if limits else None)
