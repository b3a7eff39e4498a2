"""What is wrong with the rows of a data file: one problem for each kind, with the lines that have it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from evalscope_evalflow.errors import Problem

SHOWN = 5  # lines that a problem names
KEPT = 100_000  # numbers of rows that are remembered of each kind


@dataclass
class _Finding:
    what: str
    todo: str
    certain: bool
    lines: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    number: int = 0


class Findings:
    """What is found in one file."""

    def __init__(self, dataset: str, path: Path) -> None:
        self._dataset, self._path = dataset, path
        self._found: dict[str, _Finding] = {}

    def add(self, kind: str, row: int, line: int, what: str, todo: str, *, certain: bool = True) -> None:
        """Take note of a row.

        Args:
            kind: rows of one kind are one problem.
            row: the row's number, from 1.
            line: its line in the file, from 1.
            what: what is wrong with it, as it is shown of the first row.
            todo: what to do about it.
            certain: whether the run would fail by it, or its score be wrong; else it is only said.
        """
        found = self._found.setdefault(kind, _Finding(what, todo, certain))
        found.number += 1
        if len(found.lines) < SHOWN:
            found.lines.append(line)
        if len(found.rows) < KEPT:
            found.rows.append(row)

    def split(self, total: int, used: int | None, shuffled: bool) -> tuple[list[Problem], list[Problem]]:
        """What ends a run or spoils its score, and what may do so.

        Args:
            total: rows that were read.
            used: rows that the task takes; None for all.
            shuffled: whether they are taken by chance, and not from the beginning.
        """
        sure: list[Problem] = []
        perhaps: list[Problem] = []
        for found in self._found.values():
            if used is None or used >= total:
                hit = True
            elif shuffled:  # so many are bad that some are taken for certain
                hit = found.number > total - used
            else:
                hit = found.rows[0] <= used
            if not hit and not shuffled:
                continue
            (sure if hit and found.certain else perhaps).append(self._problem(found))
        return sure, perhaps

    def _problem(self, found: _Finding) -> Problem:
        first, *others = found.lines
        more = found.number - len(found.lines)
        what = found.what
        if others:
            named = ", ".join(map(str, others))
            what += f"; so do{'es' if not more and len(others) == 1 else ''} line{'s' * (len(others) > 1)} {named}"
            what += f" and {more:,} more" if more else ""
        return Problem(place(self._dataset, self._path, first), what, found.todo)


def place(dataset: str, path: Path, line: int | None = None) -> str:
    """Where a problem is: the dataset, its file and the line."""
    return f"{dataset}, {os.path.abspath(path)}" + (f":{line}" if line else "")


def as_notes(problems: Iterable[Problem]) -> Iterable[str]:
    """The same as lines for a reader."""
    return (f"{problem.where}: {problem.what}" for problem in problems)
