"""Every door to a score: the table, run.json, the CSV file, `run_task`'s result, and EvalScope's dashboard."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from evalscope_evalflow.results.exporters.csv_exporter import FILE, CsvExporter
from evalscope_evalflow.results.exporters.exported_results import of_result
from evalscope_evalflow.results.outcome import FlowResult
from evalscope_evalflow.results.tables import show_table

Scores = dict[str, float | None]


def table(text: str) -> Scores:
    """The scores in a table on a terminal, by dataset; one that is marked as incomplete is a score."""
    found: Scores = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if len(cells) > 3 and re.match(r"[\d.]+( \(incomplete\))?$|none$|not judged", cells[3]):
            found[cells[1]] = float(cells[3].split()[0]) if cells[3][0].isdigit() else None
    return found


def run_json(folder: Path) -> Scores:
    """The scores in a run folder's record; its list of metrics says the same."""
    found: Scores = {}
    for dataset, result in json.loads((folder / "evalflow" / "run.json").read_text())["results"].items():
        found[dataset] = _rounded(result["score"]["value"])
        named = result["metrics"].get(result["score"]["metric"])
        assert _rounded(named) == found[dataset], f"run.json contradicts itself: {result}"
    return found


def dashboard(folder: Path) -> Scores:
    """What EvalScope's dashboard shows of a run folder: the primary metric of each file in `reports/`."""
    found: Scores = {}
    for path in (folder / "reports").rglob("*.json"):
        report = json.loads(path.read_text())
        figures = [item for item in report["metrics"] if item["identity"] == report["primary_metric_identity"]]
        found[report["dataset_name"]] = _rounded(figures[0]["score"]) if figures else None
    return found


def csv_file(result: FlowResult) -> Scores:
    """The headline scores that the exporter `csv` writes."""
    with tempfile.TemporaryDirectory() as folder:
        CsvExporter().export(of_result(result), Path(folder))
        with (Path(folder) / FILE).open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["headline"] == "true"]
    return {row["dataset"]: float(row["score"]) if row["score"] else None for row in rows}


def run_task(result: FlowResult) -> Any:
    """What `run_task` returns of the run of one model, by dataset."""
    from evalscope_evalflow.plugin.stock_reports import to_stock

    found = to_stock(result)
    return found[result.models[0].model.name] if result.task.multi_model else found


def agree(result: FlowResult) -> Scores:
    """Look through every door at the run of one model.

    Args:
        result: the run's.

    Returns:
        The scores, which are the same through each of them.
    """
    (model,) = result.models
    output = io.StringIO()
    show_table(result.rows(), Console(file=output, width=250))
    reports = run_task(result)
    shown: dict[str, Scores] = {
        "table": table(output.getvalue()),
        "csv": csv_file(result),
        "run_task": {name: _rounded(report.score) for name, report in reports.items()},
        "as_record": {name: _rounded(item["score"]["value"]) for name, item in model.as_record().items()},
    }
    if (model.folder / "evalflow" / "run.json").exists():
        shown["run.json"] = run_json(model.folder)
    scores = {item.dataset: _rounded(item.score.value) for item in model.datasets}
    assert shown == dict.fromkeys(shown, scores)
    for item in model.datasets:
        report, score = reports[item.dataset], item.score
        assert (report.complete, report.judged, report.answered) == (score.complete, score.judged, score.answered)
        assert report.why_not == score.why_not
        assert bool(report.why_not) != (score.complete and not item.predicted_only)
    if not any(item.predicted_only for item in model.datasets):
        with_score = {name: value for name, value in scores.items() if value is not None}
        on_the_dashboard = {name: value for name, value in dashboard(model.folder).items() if name in scores}
        assert on_the_dashboard == with_score, "the dashboard shows something else"
    return scores


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
