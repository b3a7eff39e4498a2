"""Brings saved answers and verdicts in line with the data as it is now, before anything is asked or judged.

EvalScope knows a saved answer by the place of its row. With another `limit`, other `repeats` or data that has changed,
the same place is another row. So each answer is moved to where its row is now; those whose rows are not chosen are put
aside, and those of rows that come back are taken from there. A verdict stays with its answer while the right answer is
the same.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.native.native_verdicts import is_fallback
from evalscope_evalflow.backends.native.rows_files import (
    TAG,
    SavedRows,
    SubsetRows,
    add_verdicts,
    answer_digest,
    by_index,
    digest,
    json_rows,
    verdict_key,
    write_json_rows,
)

_OF_MESSAGES = ("role", "content", "tool_calls", "tool_call_id", "function")
_MEDIA = ("image", "audio", "video")


@dataclass(frozen=True)
class Place:
    """Where one benchmark's files are, and who judges it.

    Attributes:
        folder: the run folder.
        model: the model's name, as EvalScope files it.
        dataset: the benchmark.
        judge: the folder of the judge whose verdicts are in use.
        repeats: how often each question is asked.
    """

    folder: Path
    model: str
    dataset: str
    judge: str
    repeats: int = 1

    def file(self, kind: str, subset: str) -> Path:
        """EvalScope's file of `predictions` or `reviews`."""
        return self.folder / kind / self.model / f"{self.dataset}_{subset}.jsonl"

    @property
    def saved(self) -> SavedRows:
        """What is known of its rows."""
        return SavedRows(self.folder, self.dataset)


@dataclass(frozen=True)
class Aligned:
    """What became of the saved answers and verdicts of a benchmark.

    Attributes:
        requested: rows that are chosen now.
        answered: those of them that have an answer.
        put_aside: answers to rows that are not chosen now.
        brought_back: answers that had been put aside.
        scored_anew: verdicts that no longer count, as the right answer has changed.
        moved: for each subset, indexes of rows that another row has now, or none.
        rewritten: the answers of each subset whose file was written again, by their indexes.
    """

    requested: int
    answered: int
    put_aside: int = 0
    brought_back: int = 0
    scored_anew: int = 0
    moved: Mapping[str, frozenset[int]] = field(default_factory=dict)
    rewritten: Mapping[str, Mapping[int, dict[str, Any]]] = field(default_factory=dict)


def subset_rows(samples: Sequence[Any], *, metadata_is_asked: bool = False) -> SubsetRows:
    """Digests of EvalScope's samples, in the order of their indexes.

    Args:
        samples: with their prompts made.
        metadata_is_asked: whether what is asked depends on more than the prompt, as in a conversation.
    """
    asked, scored = [], []
    for sample in samples:
        prompt = sample.input
        messages = [prompt] if isinstance(prompt, str) else [_message(item) for item in prompt]
        metadata = plain(getattr(sample, "metadata", None))
        parts = [plain(getattr(sample, name, None)) for name in ("tools", "files", "setup")]
        choices, target = plain(getattr(sample, "choices", None)), plain(getattr(sample, "target", None))
        asked.append(digest([messages, *parts, metadata if metadata_is_asked else None]))
        scored.append(digest([choices, target, metadata]))
    return SubsetRows(asked, scored)


def align(place: Place, now: Mapping[str, SubsetRows], samples: Mapping[str, Sequence[Any]]) -> Aligned:
    """Bring the saved answers and verdicts of a benchmark in line with its rows.

    A process that is killed in between leaves files that this can be called on again.

    Args:
        place: where they are.
        now: the rows of each subset as they are now.
        samples: EvalScope's samples of each subset, for what their rows carry.
    """
    saved = place.saved
    before = saved.rows()
    subsets = {
        name: _Subset(place, name, before.get(name), now.get(name, SubsetRows()), samples.get(name, ()))
        for name in {**now, **before}
    }
    found = [subset.align() for subset in subsets.values()]
    if dict(now) != before:
        saved.write_rows(now)
    moved = {name: rows for name in before for rows in [_moved(before[name], now.get(name, SubsetRows()))] if rows}
    answered, put_aside, brought_back, scored_anew = (sum(item[number] for item in found) for number in range(4))
    requested = sum(len(rows.asked) for rows in now.values())
    rewritten = {name: subset.rewritten for name, subset in subsets.items() if subset.rewritten is not None}
    return Aligned(requested, answered, put_aside, brought_back, scored_anew, moved, rewritten)


def _moved(before: SubsetRows, now: SubsetRows) -> frozenset[int]:
    return frozenset(
        index for index, asked in enumerate(before.asked) if index >= len(now.asked) or now.asked[index] != asked
    )


class _Subset:
    """One subset, while it is brought in line."""

    def __init__(
        self, place: Place, name: str, before: SubsetRows | None, now: SubsetRows, samples: Sequence[Any]
    ) -> None:
        self.place, self.name, self.before, self.now, self.samples = place, name, before, now, samples
        self.predictions, self.reviews = place.file("predictions", name), place.file("reviews", name)
        self.spare = place.saved.answers(name)
        self.verdicts = place.saved.verdicts(place.judge, name)
        self.aside: list[dict[str, Any]] = []  # answers to rows that are not chosen
        self.rewritten: dict[int, dict[str, Any]] | None = None

    def align(self) -> tuple[int, int, int, int]:
        """Do it; the number of answers that there are, that were put aside, and brought back, and of verdicts that
        no longer count."""
        answers, reviews = by_index(self.predictions), by_index(self.reviews)
        count = len(self.now.asked)
        same = self.before is None or self.before == self.now
        same = same and all(index < count for index in answers)
        answers_back = len(answers) < count and self.spare.exists()
        verdicts_back = len(reviews) < len(answers) and self.verdicts.exists()
        if same and not answers_back and not verdicts_back:
            return len(answers), 0, 0, 0
        # As they were, by what they are on: a review's own index means nothing once answers have been moved.
        on: dict[str, list[tuple[str | None, dict[str, Any]]]] = defaultdict(list)
        for index, review in reviews.items():
            tag = review.get(TAG) or {}
            answer = tag.get("answer") or (answer_digest(answers[index]) if index in answers else None)
            if answer is not None and not is_fallback(review):
                on[answer].append((tag["scored"] if "scored" in tag else self._before("scored", index), review))
        self.aside = list(json_rows(self.spare))
        chosen, left, back = self._choose(answers)
        return (len(chosen), *self._write(chosen, left, back, on))

    def _before(self, kind: str, index: int) -> str | None:
        """What was known of a row; of a folder that does not say, that it is the row of today."""
        rows: list[str] = getattr(self.before if self.before is not None else self.now, kind)
        return rows[index] if index < len(rows) else None

    def _choose(
        self, answers: Mapping[int, dict[str, Any]]
    ) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]], int]:
        """Which answer goes to which row; which go to none; and how many had been put aside."""
        chosen: dict[int, dict[str, Any]] = {}
        free: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for index in sorted(answers):
            row = self._tagged(answers[index], index)
            asked = row[TAG]["asked"]
            if index < len(self.now.asked) and self.now.asked[index] == asked:
                chosen[index] = row
            else:
                free[asked].append(row)
        # A kill may have left an answer in both places.
        twice = Counter(map(answer_digest, [*chosen.values(), *(row for rows in free.values() for row in rows)]))
        put_aside = []
        for row in self.aside:
            answer = answer_digest(row)
            twice[answer] -= 1
            if twice[answer] < 0:
                put_aside.append(row)
        from_spare = {id(row) for row in put_aside}
        for row in put_aside:
            free[str((row.get(TAG) or {}).get("asked"))].append(row)
        back = 0
        for index, asked in enumerate(self.now.asked):
            if index not in chosen and free.get(asked):
                row = free[asked].pop(0)
                back += id(row) in from_spare
                chosen[index] = row
        left = [row for rows in free.values() for row in rows]
        return chosen, left, back

    def _tagged(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        if isinstance(row.get(TAG), dict) and "asked" in row[TAG]:
            return row
        return {**row, TAG: {"asked": self._before("asked", index), "scored": self._before("scored", index)}}

    def _write(
        self,
        chosen: dict[int, dict[str, Any]],
        left: list[dict[str, Any]],
        back: int,
        on: dict[str, list[tuple[str | None, dict[str, Any]]]],
    ) -> tuple[int, int, int]:
        """Write the files: first what is put aside, so that nothing is ever in neither place; verdicts before answers,
        as those say what they are on."""
        now = self.now
        verdicts = {verdict_key(row): row for row in json_rows(self.verdicts)}
        reviewed = []
        anew = 0
        for index in sorted(chosen):
            answer, scored = answer_digest(chosen[index]), now.scored[index]
            known = on.get(answer, [])
            place = next((number for number, (on_row, _) in enumerate(known) if on_row in (None, scored)), None)
            if place is not None:
                review = known.pop(place)[1]
            else:
                review = verdicts.get((answer, scored)) or verdicts.get((answer, None)) or {}
            if review:
                reviewed.append(self._review(review, index, {"answer": answer, "scored": scored}))
            elif known:
                anew += 1
        unused = [
            {**review, TAG: {"answer": answer, "scored": scored}}
            for answer, rows in on.items()
            for scored, review in rows
        ]
        if unused:
            add_verdicts(self.verdicts, unused)
        before = {id(row) for row in self.aside}
        aside = [row for row in left if id(row) not in before]
        if aside:
            write_json_rows(self.spare, [*self.aside, *aside])
        if self.reviews.exists() or reviewed:
            write_json_rows(self.reviews, reviewed)
        rows = {index: self._prediction(chosen[index], index) for index in sorted(chosen)}
        if self.predictions.exists() or rows:
            write_json_rows(self.predictions, rows.values())
            self.rewritten = rows
        if len(left) < len(self.aside) + len(aside):
            write_json_rows(self.spare, left)
        return len(aside), back, anew

    def _prediction(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        """An answer as the row at its place; what it carries of the row's data gives way to what that is today."""
        tag, scored = row[TAG], self.now.scored[index]
        if tag.get("scored") not in (None, scored) and isinstance(row.get("metadata"), dict):
            own = getattr(self.samples[index], "metadata", None) or {}
            row = {**row, "metadata": {name: value for name, value in row["metadata"].items() if name not in own}}
        return {**row, "index": index, TAG: {"asked": self.now.asked[index], "scored": scored}}

    def _review(self, review: dict[str, Any], index: int, tag: dict[str, Any]) -> dict[str, Any]:
        """A verdict at the place of its answer."""
        repeats = max(1, self.place.repeats)
        score = dict(review.get("sample_score") or {})
        if score.get("sample_id") is not None:
            score["sample_id"] = index
        if score.get("group_id") is not None:
            score["group_id"] = index // repeats
        if score.get("generation_index") is not None:
            score["generation_index"] = index % repeats
        return {**review, "index": index, "sample_score": score, TAG: tag}


def plain(value: Any) -> Any:
    """A value as JSON has it, the same in every process."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return hashlib.sha256(value).hexdigest()
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    return type(value).__name__


def _message(message: Any) -> Any:
    """What of a message is sent; an image on this machine by its content."""
    found = {name: plain(getattr(message, name, None)) for name in _OF_MESSAGES}
    if isinstance(found["content"], list):
        found["content"] = [_part(part) for part in found["content"]]
    return found


def _part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    found = {name: value for name, value in part.items() if name != "internal"}
    for name in _MEDIA:
        path = str(found.get(name) or "").removeprefix("file://")
        if path and len(path) < os.pathconf("/", "PC_PATH_MAX") and os.path.isfile(path):
            with open(path, "rb") as file:
                found[name] = hashlib.sha256(file.read()).hexdigest()
    return found
