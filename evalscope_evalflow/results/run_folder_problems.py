"""What keeps a folder from being read as that of runs, in words; and runs that are left out beside others."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from evalscope_evalflow.errors import ConfigError, Problem, nearest
from evalscope_evalflow.events.schema import SCHEMA
from evalscope_evalflow.state import record as records

if TYPE_CHECKING:
    from evalscope_evalflow.results.run_folders import RunFolder

_WHERE = "DIR"


class NewerRunSkipped(UserWarning):
    """A run folder that a newer version of EvalFlow wrote is left out."""


def readable(runs: list[RunFolder]) -> list[RunFolder]:
    """Those that this version can read; the others are named in a warning.

    Raises:
        ConfigError: there is none.
    """
    newer = {
        str(run.folder): Problem(
            str(run.folder),
            f"its record has schema {run.record['schema']}, and this EvalFlow reads up to {SCHEMA}: a newer version "
            f"({run.versions.get(records.OURS) or 'unknown'}) wrote it",
            "Upgrade: pip install -U evalscope-evalflow.",
        )
        for run in runs
        if isinstance(run.record.get("schema"), int) and run.record["schema"] > SCHEMA
    }
    if len(newer) == len(runs):
        raise ConfigError(*newer.values())
    for problem in newer.values():
        text = f"{problem.where} is left out: {problem.what}. {problem.todo}"
        warnings.warn(text, NewerRunSkipped, stacklevel=4)
    return [run for run in runs if str(run.folder) not in newer]


def no_folder(path: Path) -> Problem:
    """What is said of a path that is no folder."""
    if path.exists():
        return Problem(_WHERE, f"{path} is a file, not a folder", "Give the folder of a run, or of a sweep.")
    beside = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    hint = nearest(path.name, beside)
    return Problem(_WHERE, f"{path} does not exist", f"{hint} It is the `work_dir` of a run or a sweep.".strip())


def no_run(path: Path) -> Problem:
    """What is said of a folder without a run."""
    around = next((folder for folder in path.resolve().parents if (folder / "evalflow" / "run.json").is_file()), None)
    if around is not None:
        return Problem(_WHERE, f"{path} is a part of a run folder", f"Give {around}.")
    if (path / "reports").is_dir() or (path / "predictions").is_dir():
        what = f"{path} was written by EvalScope without EvalFlow: it has no evalflow/run.json"
        return Problem(_WHERE, what, "`evalscope service` shows it. A run with `--eval-backend evalflow` can be read.")
    what = f"no run folder is in {path}: one has a file evalflow/run.json"
    return Problem(_WHERE, what, "Give the `work_dir` of a run or a sweep, or a folder above it.")
