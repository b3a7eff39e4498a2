"""What a run folder is known to hold, dataset by dataset: `evalflow/cells.json`.

It tells without EvalScope whether anything is left to ask, or to judge, and what saved answers depend on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from evalscope_evalflow.events import any_json
from evalscope_evalflow.events.schema import SCHEMA
from evalscope_evalflow.events.whole_files import write_whole

FILE = "cells.json"  # {"schema": 2, "datasets": {…}}; 0.1 wrote the datasets alone


_NAMED: dict[str, type] = {"dict": dict, "list": list, "int": int, "str": str, "bool": bool}


@dataclass(frozen=True)
class Cell:
    """One model on one dataset.

    Attributes:
        predictions: what its answers depend on (see fingerprint.py).
        requested: samples that are to be answered; None while nobody has counted them.
        answered: those that were, when the last run had asked for all.
        cause: what its permanent failures depend on (see failures.py).
        verdicts: what its verdicts depend on; None while there are none.
        report: when its report was written, in nanoseconds since the epoch; None while there is none that covers
            these answers and verdicts.
        counted: rows of its files, so that they need not be counted again while a file is as it was: by the file's
            path in the run folder, [bytes, when it was written (ns since the epoch), rows].
        error: what ended its last run before its report; None: nothing did.
        accepted: what was another setting when its answers were made, in words, and was accepted.
        mixed: whether answers were added while there were such differences; else these are forgotten when the task is
            again as it was.
        assumed: names of what was not recorded when its answers were made, and was taken to be as it was later.
        batches: what its answers came from, in their order: for each engine, or way to run one, a mapping with `from`
            (answers that were there before) and what is known of it (see run/answer_batches.py).
        metrics_failed: metrics that could not be computed: of how many samples, and what went wrong with the first.
    """

    predictions: dict[str, Any] | None = None
    requested: int | None = None
    answered: int | None = None
    cause: str | None = None
    verdicts: dict[str, Any] | None = None
    report: int | None = None
    counted: dict[str, list[int]] | None = None
    error: str | None = None
    accepted: list[str] | None = None
    mixed: bool | None = None
    assumed: list[str] | None = None
    batches: list[dict[str, Any]] | None = None
    metrics_failed: dict[str, Any] | None = None


# What a field may hold, by its annotation; a value of another kind, as in a damaged file, counts as unknown.
_KINDS = {
    field.name: next(kind for name, kind in _NAMED.items() if str(field.type).startswith(name))
    for field in fields(Cell)
}


def path_in(folder: Path) -> Path:
    """The file of a run folder."""
    return folder / "evalflow" / FILE


def read(folder: Path) -> dict[str, Cell]:
    """The cells of a run folder by their datasets; none where the file is not there, or is broken.

    Raises:
        OSError: it is there, and cannot be read: what it holds must not be taken for nothing, and be overwritten.
    """
    try:
        data = any_json.load_file(path_in(folder))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    if not isinstance(data, dict):
        return {}
    if isinstance(data.get("schema"), int):
        data = data.get("datasets") or {}
    return {
        str(name): Cell(**_known(item))
        for name, item in (data.items() if isinstance(data, dict) else ())
        if isinstance(item, dict)
    }


def _known(item: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that hold what they should."""
    return {key: value for key, value in item.items() if isinstance(value, _KINDS.get(key, ()))}


def update(folder: Path, dataset: str, **changes: Any) -> Cell:
    """Change one cell. One run a folder: nobody else writes it."""
    return update_all(folder, {dataset: changes})[dataset]


def update_all(folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Cell]:
    """Change cells, in one write, or in none where nothing is new.

    Args:
        folder: the run folder.
        changes: fields of Cell, by dataset.

    Returns:
        All cells of the folder.
    """
    before = read(folder)
    cells = before | {name: replace(before.get(name, Cell()), **fields) for name, fields in changes.items()}
    path = path_in(folder)
    if cells == before:
        return cells
    data = {"schema": SCHEMA, "datasets": {name: asdict(item) for name, item in cells.items()}}
    write_whole(path, json.dumps(data, indent=1))
    return cells
