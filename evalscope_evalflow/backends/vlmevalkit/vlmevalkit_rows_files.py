"""The rows of one of VLMEvalKit's datasets, told by their content: saved answers follow them when the data changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalscope_evalflow.events import any_json
from evalscope_evalflow.events.whole_files import write_whole

NOT_ASKED = ("index", "answer")  # columns that say where a row is, and what is right


@dataclass(frozen=True)
class Followed:
    """Where saved answers are after the data has changed.

    Attributes:
        texts: answers to rows of today, by index as text.
        aside: answers to rows that are not in the data now, each with the digest of what was asked.
        moved: indexes, of then and now, that stand for another row than before, or for none.
        changed: these, and those whose right answer is another.
    """

    texts: dict[str, str]
    aside: list[tuple[str, str]]
    moved: frozenset[str]
    changed: frozenset[str]


def rows_of(data: Any) -> dict[str, list[str]]:
    """Digests of what each row asks, and of all of it but its place, by index as text.

    Args:
        data: the dataset's DataFrame.
    """
    names = sorted(str(name) for name in data.columns if name != "index")
    columns = {name: [_short(str(value)) for value in data[name]] for name in names}
    asked = [name for name in names if name not in NOT_ASKED]
    return {
        str(index): [_digest(columns, asked, number), _digest(columns, names, number)]
        for number, index in enumerate(data["index"])
    }


def follow(
    before: Mapping[str, Sequence[str]],
    now: Mapping[str, Sequence[str]],
    texts: Mapping[str, str],
    aside: Iterable[tuple[str, str]],
) -> Followed:
    """Put each answer where its row is now.

    Args:
        before: the rows that the answers are to, as `rows_of` gives them.
        now: those of today.
        texts: the saved answers, by index as text.
        aside: answers that were put aside earlier.
    """
    found: dict[str, str] = {}
    free: dict[str, list[str]] = defaultdict(list)
    for index, text in texts.items():
        asked = before[index][0] if index in before else None
        if asked is None or (index in now and now[index][0] == asked):
            found[index] = text
        else:
            free[asked].append(text)
    for asked, text in aside:
        if text not in free[asked]:  # a kill may have left it in both places
            free[asked].append(text)
    for index, (asked, _) in now.items():
        if index not in found and free[asked]:
            found[index] = free[asked].pop(0)
    places = {*before, *now}
    moved = {index for index in places if _at(before, index, 0) != _at(now, index, 0)}
    changed = {index for index in places if _at(before, index, 1) != _at(now, index, 1)}
    left = [(asked, text) for asked, rest in free.items() for text in rest]
    return Followed(found, left, frozenset(moved), frozenset(moved | changed))


def read_aside(path: Path) -> list[tuple[str, str]]:
    """Answers that were put aside, each with the digest of what was asked."""
    found = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                item = any_json.loads(line)
                found.append((str(item["asked"]), str(item["prediction"])))
    return found


def write_aside(path: Path, aside: Sequence[tuple[str, str]]) -> None:
    """Replace the file of the answers that are put aside."""
    if not aside:
        path.unlink(missing_ok=True)
        return
    lines = [json.dumps({"asked": asked, "prediction": text}) + "\n" for asked, text in aside]
    write_whole(path, "".join(lines))


def _short(text: str) -> str:
    """A cell, or a digest of one that holds much, such as an image."""
    return text if len(text) <= 256 else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _digest(columns: Mapping[str, Sequence[str]], names: Iterable[str], number: int) -> str:
    found = hashlib.sha256()
    for name in names:
        found.update(f"{name}\0{columns[name][number]}\0".encode("utf-8", "surrogatepass"))
    return found.hexdigest()[:16]


def _at(rows: Mapping[str, Sequence[str]], index: str, place: int) -> str | None:
    return rows[index][place] if index in rows else None
