"""What a sweep leaves in its folder: `scores.csv` and `summary.json`, of all of its models."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evalscope_evalflow.events.whole_files import write_whole
from evalscope_evalflow.results.exporters import export
from evalscope_evalflow.results.exporters.csv_exporter import FILE as SCORES
from evalscope_evalflow.results.exporters.csv_exporter import CsvExporter
from evalscope_evalflow.results.json_output import document
from evalscope_evalflow.results.outcome import FlowResult, ModelResult
from evalscope_evalflow.state.costs import read_costs, sum_of

SUMMARY = "summary.json"


def write_sweep_files(result: FlowResult, warn: Callable[[str], None]) -> list[Path]:
    """Write both files into the sweep's folder, in place of those of an earlier sweep there.

    Args:
        result: the results of every model, failed ones included.
        warn: is called with a line for each file that could not be written; the results stand all the same.

    Returns:
        The files that were written.
    """
    written = export(result, [CsvExporter(CsvExporter.Options(samples=False))], warn)
    path = result.task.work_dir / SUMMARY
    try:
        write_whole(path, json.dumps(summary(result), indent=2) + "\n")
    except OSError as error:
        warn(f"{path} could not be written: {error.strerror}")
        return written
    return [*written, path]


def summary(result: FlowResult) -> dict[str, Any]:
    """A sweep's results as a JSON document.

    Args:
        result: the results of every model.
    """
    costs = {item.model.name: read_costs(item.folder) for item in result.models}
    payload = {
        "work_dir": result.task.work_dir.absolute(),
        "datasets": result.task.datasets,
        "models": {
            item.model.name: {**_model(item, result.task.work_dir), "cost": costs[item.model.name].as_record()}
            for item in result.models
        },
        "cost": sum_of(cost.total for cost in costs.values()).as_record(),
        "skipped": result.skipped,
        "scores": SCORES,
    }
    return document("summary", payload, int(result.exit_code))


def _model(item: ModelResult, work_dir: Path) -> dict[str, Any]:
    state = "failed" if item.error is not None or item.left else "complete" if item.complete else "incomplete"
    error = str(item.error) if item.error is not None else "; ".join(item.left) or None
    return {
        "folder": os.path.relpath(item.folder, work_dir),
        "state": state,
        "error": error,
        "results": item.as_record(),
    }
