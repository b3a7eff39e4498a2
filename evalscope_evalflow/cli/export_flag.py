"""`--export`: results in other forms, at a run's end or of folders that are finished."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.errors import ExitCode

if TYPE_CHECKING:
    from evalscope_evalflow.results.run_folders import RunFolder

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


def export_finished(
    folder: Path,
    runs: Sequence[RunFolder],
    datasets: Sequence[str] | None,
    chosen: Sequence[str | dict[str, Any]],
) -> int:
    """Export what finished run folders hold; where it went is said on standard error.

    Args:
        folder: where files go.
        runs: the run folders.
        datasets: names of the datasets to export; None: all.
        chosen: exporters.

    Returns:
        The exit code: 1 where an exporter failed.

    Raises:
        ConfigError: there is no such exporter, an option is wrong, or a library is missing.
    """
    from evalscope_evalflow.config import FlowConfig
    from evalscope_evalflow.results.exporters import export, load_exporters
    from evalscope_evalflow.results.exporters.exported_results import of_folder

    failed: list[str] = []
    exporters = load_exporters(FlowConfig.parse({"exporters": list(chosen)}).exporters, "--export")
    export(of_folder(folder, runs, datasets), exporters, failed.append, _say)
    for line in failed:
        _say(line)
    return ExitCode.FAILED if failed else ExitCode.COMPLETE


def _say(line: str) -> None:
    sys.stderr.write(f"evalflow: {line}\n")
