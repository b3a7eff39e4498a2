"""What a sweep leaves in its folder."""

import csv
import json

from evalscope_evalflow.backends import DatasetResult, Metric
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.results.outcome import FlowResult, ModelResult
from evalscope_evalflow.results.sweep_files import write_sweep_files


def sweep(folder):
    section = {"backend": "Native", "models": [{"name": name, "path": f"/{name}"} for name in ("a", "b")]}
    task = Task.parse({"datasets": ["d"], "work_dir": str(folder), "evalflow": section})
    a, b = task.models
    done = DatasetResult("d", [Metric("acc", 0.5, 4, True)], 4, 4, report=folder, answered=4,
                         interval=(0.15, 0.85), n_groups=4, few_groups=True)  # fmt: skip
    return FlowResult(
        task, [ModelResult(a, folder / "a", [done]), ModelResult(b, folder / "b", error=EngineError("no"))]
    )


def test_scores_and_summary(tmp_path):
    warned = []
    written = write_sweep_files(sweep(tmp_path), warned.append)
    assert [path.name for path in written] == ["scores.csv", "summary.json"]
    assert warned == []
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["score"], row["interval_low"], row["few_groups"]) for row in rows] == [
        ("a", "0.5000", "0.1500", "true"), ("b", "", "", ""),
    ]  # fmt: skip
    found = json.loads((tmp_path / "summary.json").read_text())
    assert (found["schema"], found["exit_code"]) == ("evalflow.summary/1", 1)
    assert found["models"]["a"]["results"]["d"]["score"]["interval"] == [0.15, 0.85]
    assert (found["models"]["b"]["state"], found["models"]["b"]["error"]) == ("failed", "no")


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path):
    (tmp_path / "summary.json").mkdir()
    (tmp_path / "scores.csv").mkdir()
    warned = []
    assert write_sweep_files(sweep(tmp_path), warned.append) == []
    assert len(warned) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "summary.json"]
