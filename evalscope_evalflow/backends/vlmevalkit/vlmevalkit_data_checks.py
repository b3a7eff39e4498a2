"""Looks at datasets of the user's own before anything starts, as VLMEvalKit would read their TSV files.

VLMEvalKit reads them with pandas, which takes `None`, `NA` and the like for empty cells; makes multiple choice of files
with the columns A and B, and open questions, which it cannot score, of all others; and leaves out rows without a
picture where there is a column for it.
"""

from __future__ import annotations

import ast
import os
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends import data_images
from evalscope_evalflow.backends.data_files import BrokenFile, DataFile, Patience, Row
from evalscope_evalflow.backends.data_findings import Findings, as_notes, place
from evalscope_evalflow.config import catalog
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError, Problem, nearest

# What pandas.read_csv takes for an empty cell (its STR_NA_VALUES).
_EMPTY = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null")
)  # fmt: skip
_REFERENCE = 64  # characters; a shorter picture is the index of another row (vlmeval/dataset/image_base.py)
# In the names of datasets that VLMEvalKit scores by rules of their own (vlmeval/dataset/utils/multiple_choice.py).
_SCORED_OTHERWISE = ("MMMU", "LEGO")
_CIRCULAR = ("mmbench", "ccbench", "circular", "mmcr")
_ANSWERS = ("answers", "label", "target", "gold", "response", "solution", "correct", "ground_truth")


def data_problems(task: Task, notify: Callable[[str], None]) -> Iterator[Problem]:
    """What is wrong with the datasets' files in LMUData.

    Args:
        task: the task.
        notify: is called with how much was looked at, if it was not everything.
    """
    patience = Patience()
    limit = task.stock.get("limit")
    limit = limit if isinstance(limit, int) and limit > 0 else None
    for dataset in task.datasets:
        path = catalog.lmudata() / f"{dataset}.tsv"
        if not path.is_file():
            continue
        # The published file is known by its MD5, and may have gigabytes.
        published = task.flow.verify_md5 and _is_published(dataset, task.flow.worker_env, ask=False)
        look = _Look(dataset, DataFile(path, Patience(0) if published else patience), task.flow.mode != "infer")
        problems, notes = look.problems(limit)
        if not look.broken and (published or (problems and _is_published(dataset, task.flow.worker_env, ask=True))):
            continue  # its class has rules of its own
        yield from problems
        for note in as_notes(notes):
            notify(note)
        if look.file.looked_at() and not look.broken:
            notify(f"{place(dataset, path)}: {look.file.looked_at()}")


def _is_published(dataset: str, worker_env: str | None, *, ask: bool) -> bool:
    """Whether VLMEvalKit has a dataset of this name; to be asked, it is imported once, for half a minute."""
    if dataset in catalog.DEFAULT_VLM_DATASETS:
        return True
    try:
        return dataset in catalog.vlmevalkit_datasets(worker_env, ask=ask)
    except (ConfigError, FileNotFoundError):  # it cannot be asked
        return False


@dataclass
class _Look:
    """A look at one file."""

    dataset: str
    file: DataFile
    scored: bool
    broken: bool = False  # no dataset can be read from it, whatever its rules
    _lines: dict[str, int] = field(default_factory=dict)  # the first line of each index
    _pictured: set[str] = field(default_factory=set)  # indexes of rows with a picture of their own
    _borrowed: list[tuple[Row, str]] = field(default_factory=list)  # rows with another's picture

    def problems(self, limit: int | None) -> tuple[list[Problem], list[Problem]]:
        """What ends a run or spoils its score, and what may do so.

        Args:
            limit: rows that the task takes; None for all.
        """
        path = self.file.path
        findings = Findings(self.dataset, path)
        try:
            for row in self.file.rows():
                if row.number == 1:
                    missing = list(self._missing_columns())
                    if missing:
                        return missing, []
                self._check(row, findings)
        except BrokenFile as error:
            self.broken = True
            return [Problem(place(self.dataset, path, error.line), error.what, error.todo)], []
        if not self.file.rows_read:
            self.broken = True
            return [Problem(place(self.dataset, path), "it has no rows", "Put a question into each row.")], []
        if self.file.whole:
            self._check_borrowed(findings)
        return findings.split(self.file.rows_read, limit, shuffled=False)

    def _missing_columns(self) -> Iterator[Problem]:
        columns = self.file.columns
        wanted = ["index", "question", *(["answer"] if self.scored else [])]
        for name in wanted:
            if name in columns:
                continue
            what = f"there is no column `{name}`; there are {', '.join(columns[:10])}"
            yield Problem(place(self.dataset, self.file.path, 1), what, self._meant(name) or f"Add `{name}`.")
        if "A" not in columns or "B" not in columns:
            what = "it has no columns `A` and `B`, and VLMEvalKit does not score open questions of your own"
            lists = next((name for name in ("options", "choices") if name in columns), "")
            todo = f"Write the options of `{lists}` into A, B, …." if lists else "Give options in columns A, B, …."
            todo += " Open questions can be asked with `backend: Native`: general_vqa, general_qa."
            yield Problem(place(self.dataset, self.file.path, 1), what, todo)

    def _meant(self, name: str) -> str:
        columns = self.file.columns
        alike = _ANSWERS if name == "answer" else ()
        lowered = {column.lower().strip(): column for column in columns}
        found = next((lowered[item] for item in (name, *alike) if item in lowered), "")
        if found:
            return f"Rename `{found}`."
        hint = nearest(name, [column for column in columns if len(column) > 1])
        return f"{hint} Rename it." if hint else ""

    def _check(self, row: Row, findings: Findings) -> None:
        def add(kind: str, what: str, todo: str) -> None:
            findings.add(kind, row.number, row.line, what, todo)

        if row.extra:
            add("extra", f"it has {row.extra} more cells than the header has names", "Take out the tabs.")
            return
        values = {name: value for name, value in row.values.items() if value is not None and value not in _EMPTY}
        if not values and ("image" in row.values or "image_path" in row.values):
            return  # VLMEvalKit leaves it out
        index = _as_number(values.get("index", ""))
        if not index:
            add("index", "its `index` is empty", "Number the rows.")
        elif index in self._lines:
            add("duplicate", f"its index {index} is that of line {self._lines[index]} too", "Number each row anew.")
        else:
            self._lines[index] = row.line
        if "question" not in values:
            add("question", "its `question` is empty", "Fill it in.")
        if any(word in self.dataset.lower() for word in _CIRCULAR) and index and not index.lstrip("-").isdecimal():
            add("number", f"its index {index} is no number, as VLMEvalKit needs it here", "Number the rows.")
        if self.scored and not any(word in self.dataset for word in _SCORED_OTHERWISE):
            self._check_answer(row, values, add)
        if "image" in row.values:
            self._check_picture(row, index, values, add)
        elif "image_path" in row.values:
            self._check_path(values.get("image_path"), add)

    def _check_answer(self, row: Row, values: dict[str, Any], add: Callable[[str, str, str], None]) -> None:
        letters = [name for name in string.ascii_uppercase if name in values]
        answer = values.get("answer")
        if answer is None:
            add("no answer", "its `answer` is empty, so that no answer is right", "Fill it in.")
        elif not letters:
            add("options", "it has no options: A, B, … are empty", "Fill them in.")
        elif answer not in letters:
            what = f"its answer {_short(answer)!r} is none of its options {', '.join(letters)}, so that none is right"
            same = [letter for letter in letters if values[letter] == answer]
            if same:
                what = f"its answer {_short(answer)!r} is the text of {same[0]}, and not its letter"
            elif row.values.get(answer):
                what += f" (VLMEvalKit reads {row.values[answer]!r} in {answer} as an empty cell)"
            add("answer", what, "Write the letter of the right option.")

    def _check_picture(
        self, row: Row, index: str, values: dict[str, Any], add: Callable[[str, str, str], None]
    ) -> None:  # fmt: skip
        picture = values.get("image")
        if picture is None:
            what = "its `image` is empty, and VLMEvalKit would leave it out without a word"
            add("no image", what, "Give the picture in base64, or take the row out.")
            return
        if len(picture) <= _REFERENCE:
            self._borrowed.append((row, picture))
            return
        self._pictured.add(index)
        if "image_path" in values or not data_images.file_problem(self._folder / f"{index}.jpg"):
            return  # it was written there before, and is not decoded again
        for text in _several(picture):
            problem = data_images.base64_problem(text)
            if problem:
                add("image", f"its `image` {problem}", "Give the picture in base64.")
                return

    def _check_borrowed(self, findings: Findings) -> None:
        """Rows with an index in place of a picture."""
        for row, index in self._borrowed:
            if _as_number(index) not in self._pictured:
                what = f"its `image` {_short(index)!r} is neither a picture in base64 nor the index of a row with one"
                # VLMEvalKit looks at all rows, whatever the limit.
                findings.add("borrowed", 1, row.line, what, "Give the picture in base64.")

    def _check_path(self, given: str | None, add: Callable[[str, str, str], None]) -> None:
        if given is None:
            add("no path", "its `image_path` is empty", "Give the picture's path.")
            return
        for path in _several(given):
            if data_images.is_remote(path):
                continue
            problem = data_images.file_problem(path)
            if not problem and not os.path.splitext(path)[1]:
                problem = "has no ending, such as .jpg, by which VLMEvalKit knows pictures"
            if problem:
                beside = next((folder / path for folder in self._places if (folder / path).is_file()), None)
                relative = "paths are relative to the folder that you run in"
                todo = f"Write {beside}: {relative}." if beside else f"Mend the path; {relative}."
                add(f"path {problem}", f"its `image_path` {path} {problem}", todo)
                return

    @property
    def _folder(self) -> Path:
        """Where VLMEvalKit writes a dataset's pictures."""
        return self.file.path.parent / "images" / self.dataset

    @property
    def _places(self) -> tuple[Path, ...]:
        """Where people put pictures."""
        return self._folder, self.file.path.parent, self.file.path.parent / "images"


def _several(cell: str) -> list[str]:
    """A cell's pictures: it may be a list in Python's writing."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            found = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [cell]
        if isinstance(found, list):
            return [str(item) for item in found]
    return [cell]


def _as_number(index: str) -> str:
    """An index as pandas reads it: 007 is 7."""
    text = index.strip()
    return str(int(text)) if text.isdecimal() and len(text) < 19 else text


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
