"""`--export`: results in other forms, at a run's end or of folders that are finished."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.errors import ConfigError, ExitCode, Problem
from evalscope_evalflow.terminal_text import printable

if TYPE_CHECKING:
    from evalscope_evalflow.results.run_folders import RunFolder

EXPORTS = "exports"  # the folder of exports beside what is exported
HELP = "export results: csv, jsonl, parquet, mlflow, wandb or a plugin's name; with options as JSON"


def export_choice(text: str) -> str | dict[str, Any]:
    """An exporter: its name, or a JSON object with its name and options."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error}") from error
    if not isinstance(value.get("name"), str):
        raise argparse.ArgumentTypeError(f'{text} names no exporter, as {{"name": "csv", …}} does')
    return dict(value)


def add_export(parser: argparse.ArgumentParser) -> None:
    """`--export`, for commands whose other flags are not a task's."""
    parser.add_argument("--export", nargs="+", type=export_choice, metavar="NAME", help=HELP)


def with_exporters(task: Mapping[str, Any], chosen: Sequence[str | dict[str, Any]] | None) -> dict[str, Any]:
    """A task whose results are exported as `--export` says, in place of what it says itself."""
    section = task.get("evalflow") or {}
    if chosen is None or not isinstance(section, Mapping):  # what is wrong with it is said by whoever reads it
        return dict(task)
    return {**task, "evalflow": {**section, "exporters": list(chosen)}}


@dataclass(frozen=True)
class Exported:
    """What an export of finished folders has written.

    Attributes:
        folder: where files are.
        files: the files.
        messages: what each exporter says of where its results are.
        failed: a line for each exporter that failed.
    """

    folder: Path
    files: tuple[Path, ...]
    messages: tuple[str, ...]
    failed: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 where an exporter failed."""
        return ExitCode.FAILED if self.failed else ExitCode.COMPLETE


def export_finished(
    shown: Path,
    target: str | None,
    runs: Sequence[RunFolder],
    datasets: Sequence[str] | None,
    chosen: Sequence[str | dict[str, Any]],
) -> Exported:
    """Export what finished run folders hold; where it went is said on standard error.

    Args:
        shown: the folder that the runs were found below.
        target: where files go; None: `exports` in that folder.
        runs: the run folders.
        datasets: names of the datasets to export; None: all.
        chosen: exporters.

    Raises:
        ConfigError: there is no such exporter, an option is wrong, a library is missing, or the target is no folder for
            exports.
    """
    from evalscope_evalflow.config import FlowConfig
    from evalscope_evalflow.results.exporters import export, load_exporters
    from evalscope_evalflow.results.exporters.exported_results import of_folder

    folder = shown / EXPORTS if target is None else user_path(target)
    _check_target(folder, shown, runs)
    failed: list[str] = []
    messages: list[str] = []
    exporters = load_exporters(FlowConfig.parse({"exporters": list(chosen)}).exporters, "--export")
    try:
        files = export(of_folder(folder, runs, datasets), exporters, failed.append, messages.append)
    except OSError as error:
        raise ConfigError(Problem("--output", f"{folder} cannot be written: {error.strerror}")) from None
    for line in (*messages, *failed):
        _say(line)
    return Exported(folder, tuple(files), tuple(messages), tuple(failed))


def _check_target(folder: Path, shown: Path, runs: Sequence[RunFolder]) -> None:
    """Refuse folders in which a run or a sweep has files of its own.

    Raises:
        ConfigError: it is one, or a file.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ConfigError(Problem("--output", f"{folder} is a file", "With --export, give a folder."))
    place = folder.resolve()
    parts = [run.folder.resolve() for run in runs]
    inside = any(place == part or (place.is_relative_to(part) and place != part / EXPORTS) for part in parts)
    if place == shown.resolve() or inside or os.path.exists(place / "summary.json"):
        what = f"{folder} holds files of runs, and an export would replace some"
        raise ConfigError(Problem("--output", what, f"Give another folder; without --output it is {shown / EXPORTS}."))


def _say(line: str) -> None:
    sys.stderr.write(f"evalflow: {printable(line)}\n")
