"""What a run folder knows of a dataset's rows: `evalflow/saved/DATASET`.

A row is told by its content and not by its place, so that saved answers outlive a larger `limit`, more `repeats`,
rows that were inserted, and right answers that were mended:

- `data.json`, small: what was chosen of which files when the answers in `predictions` were last brought in line.
- `rows.json`: for each subset and each row, by EvalScope's index, a digest of what is asked (`asked`) and of what an
  answer is compared with (`scored`).
- `answers/SUBSET.jsonl`: answers that are not chosen now, to rows that may come back.
- `verdicts/JUDGE/SUBSET.jsonl`: verdicts that are not in use now, by the judge that gave them.

A row of these two, and a row of EvalScope's files that we have written again, carries its digests in `evalflow`;
EvalScope passes over that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends.native.native_verdicts import is_fallback
from evalscope_evalflow.events import any_json
from evalscope_evalflow.events.schema import SCHEMA
from evalscope_evalflow.events.whole_files import write_whole

TAG = "evalflow"
_ANSWER = ("messages", "model_output", "agent_trace")  # of a prediction: what a verdict is on


@dataclass(frozen=True)
class SubsetRows:
    """The rows of a subset, by EvalScope's index.

    Attributes:
        asked: a digest of what each asks.
        scored: a digest of what each answer is compared with.
    """

    asked: list[str] = field(default_factory=list)
    scored: list[str] = field(default_factory=list)


class SavedRows:
    """The files of one dataset."""

    def __init__(self, folder: Path, dataset: str) -> None:
        """
        Args:
            folder: the run folder.
            dataset: the dataset's name.
        """
        self.folder = folder / "evalflow" / "saved" / dataset

    def header(self) -> dict[str, Any]:
        """What `data.json` says; empty where it is not there, or is broken."""
        return _object(self.folder / "data.json")

    def write_header(self, **facts: Any) -> None:
        """Write `data.json`."""
        write_whole(self.folder / "data.json", json.dumps({"schema": SCHEMA, **facts}))

    def rows(self) -> dict[str, SubsetRows]:
        """What `rows.json` says, by subset; empty where it is not there, or is broken."""
        found = _object(self.folder / "rows.json").get("subsets")
        if not isinstance(found, dict):
            return {}
        with contextlib.suppress(KeyError, TypeError):
            return {name: SubsetRows(list(item["asked"]), list(item["scored"])) for name, item in found.items()}
        return {}

    def write_rows(self, subsets: Mapping[str, SubsetRows]) -> None:
        """Write `rows.json`."""
        plain = {name: {"asked": item.asked, "scored": item.scored} for name, item in subsets.items()}
        write_whole(self.folder / "rows.json", json.dumps({"schema": SCHEMA, "subsets": plain}))

    def answers(self, subset: str) -> Path:
        """The file of the answers of a subset that are not chosen now."""
        return self.folder / "answers" / f"{subset}.jsonl"

    def verdicts(self, judge: str, subset: str) -> Path:
        """The file of a judge's verdicts on a subset that are not in use now."""
        return self.folder / "verdicts" / judge / f"{subset}.jsonl"

    def count_verdicts(self, judge: str) -> int:
        """How many verdicts of a judge are not in use now."""
        return sum(1 for path in (self.folder / "verdicts" / judge).glob("*.jsonl") for _ in json_rows(path))


def judge_id(verdicts: Mapping[str, Any] | None) -> str:
    """The name of a judge's folder.

    Args:
        verdicts: what its verdicts depend on, as cells.json has it; None: nobody knows.
    """
    return "unknown" if verdicts is None else digest(verdicts)


def digest(value: Any) -> str:
    """A short fingerprint of what JSON can hold."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=lambda item: type(item).__name__)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def answer_digest(prediction: Mapping[str, Any]) -> str:
    """A fingerprint of an answer: the same wherever the row has moved."""
    return digest([prediction.get(name) for name in _ANSWER])


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; half a line, of a process that was killed, is none."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                row = any_json.loads(line)
                if isinstance(row, dict):
                    yield row


def by_index(path: Path) -> dict[int, dict[str, Any]]:
    """The rows of one of EvalScope's files by their index; the last of several is the one that counts."""
    return {row["index"]: row for row in json_rows(path) if isinstance(row.get("index"), int)}


def write_json_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSON-lines file, as a whole."""
    write_whole(path, "".join(_line(row) for row in rows))


def add_verdicts(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add to the verdicts that are not in use now; of several on the same the newest is kept."""
    before = {verdict_key(row): row for row in json_rows(path)}
    now = before | {verdict_key(row): dict(row) for row in rows}
    if now != before:
        write_json_rows(path, now.values())


def verdict_key(review: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """What a verdict is on: the answer, and what it is compared with; None: nobody knows."""
    tag = review.get(TAG) or {}
    return tag.get("answer"), tag.get("scored")


def _line(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a pair, which JSON can hold and UTF-8 cannot
        text = json.dumps(row)
    return text + "\n"


def archive_verdicts(
    saved: SavedRows, judge: str, subset: str, predictions: Path, reviews: Path, rows: Mapping[str, SubsetRows]
) -> None:
    """Move the verdicts of a subset to those that are not in use, as another judge's will take their place.

    Args:
        saved: the dataset's files.
        judge: the folder of the judge that gave them.
        subset: the subset's name.
        predictions: EvalScope's file of the answers that they are on.
        reviews: EvalScope's file of the verdicts; it is removed.
        rows: what is known of the rows.
    """
    answered, known = by_index(predictions), rows.get(subset)
    kept = []
    for index, review in by_index(reviews).items():
        if is_fallback(review) or index not in answered:
            continue
        scored = known.scored[index] if known and index < len(known.scored) else None
        tag = {"answer": answer_digest(answered[index]), "scored": scored}
        kept.append({**review, TAG: {**tag, **(review.get(TAG) or {})}})
    add_verdicts(saved.verdicts(judge, subset), kept)
    reviews.unlink(missing_ok=True)


def _object(path: Path) -> dict[str, Any]:
    try:
        data = any_json.load_file(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # another OSError: it is there
        return {}
    return data if isinstance(data, dict) else {}
