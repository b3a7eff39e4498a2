"""Tests that every result exporter passes. For an exporter of your own, subclass `ExporterSuite` in a pytest module:

    from evalscope_evalflow.testing.exporter_suite import ExporterSuite

    class TestMyExporter(ExporterSuite):
        choice = "my-exporter"  # as in the section's `exporters`

        def read(self, folder):
            lines = (folder / "scores.txt").read_text().splitlines()
            return [tuple(line.split("\\t")) for line in lines]

This module needs pytest; nothing in EvalFlow imports it. docs/contributing/add-an-exporter.md says more.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from evalscope_evalflow.backends import DatasetResult, Metric
from evalscope_evalflow.config import FlowConfig, plugins
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError, EvalFlowError
from evalscope_evalflow.results.exporters import GROUP, INTERFACE_VERSION, Exporter, export, load_exporter
from evalscope_evalflow.results.outcome import FlowResult, ModelResult
from evalscope_evalflow.results.score_rows import score_rows

ScoreText = tuple[str, str, str]  # a model, a dataset, and the score's text; empty: there is no score
NAMES = ("plain", "with, comma", 'with "quotes"', "with|bar", "größer", "=1+1")


def run_of(work_dir: Path, *names: str) -> FlowResult:
    """The results of a run whose models differ in how they ended.

    The first has every score; the second covers half of its samples; the third has no verdict of its judge; the last
    failed. Models between them are like the first.

    Args:
        work_dir: the run's work_dir.
        names: names of the models.
    """
    models = [{"name": name, "api_url": "http://127.0.0.1:9/v1"} for name in names]
    task = Task.parse(
        {
            "datasets": ["first", "second"],
            "work_dir": str(work_dir),
            "evalflow": {"backend": "Native", "models": models},
        }
    )
    results = [ModelResult(model, task.folder(model), _datasets()) for model in task.models]
    results[1].datasets[0] = _result("first", 0.25, requested=8, succeeded=4, failed=4)
    results[2].datasets[0] = _result("first", 0.0, answered=8, judged=0, fallbacks=8)
    results[-1] = ModelResult(task.models[-1], results[-1].folder, [], EvalFlowError("the engine stopped\nits log"))
    return FlowResult(task, results)


def _datasets() -> list[DatasetResult]:
    return [_result("first", 0.123456, answered=8), _result("second", 1.0, answered=8)]


def _result(dataset: str, score: float, **counts: Any) -> DatasetResult:
    metrics = [Metric("accuracy", score, 8, primary=True)]
    return DatasetResult(dataset, metrics, **{"requested": 8, "succeeded": 8, "report": Path("report.json"), **counts})


class ExporterSuite:
    """The tests; a subclass sets `choice` and reads back what its exporter wrote.

    Attributes:
        choice: the exporter as in the section's `exporters`: its name, or a mapping with its options.
    """

    choice: ClassVar[str | Mapping[str, Any]]

    @abstractmethod
    def read(self, folder: Path) -> list[ScoreText]:
        """The scores that the exporter wrote, in any order.

        Args:
            folder: the `work_dir` of the run.
        """

    @pytest.fixture
    def exporter(self) -> Exporter:
        """The exporter, by its entry point."""
        return self.load(self.choice)

    def load(self, choice: str | Mapping[str, Any]) -> Exporter:
        """The exporter that a section chooses.

        Raises:
            ConfigError: it cannot be used.
        """
        return load_exporter(FlowConfig.parse({"exporters": [choice]}).exporters[0])

    def export(self, exporter: Exporter, result: FlowResult) -> list[Path]:
        """Export results, with no failure."""
        failures: list[str] = []
        files = export(result, [exporter], failures.append)
        assert failures == []
        return files

    def test_it_is_found_by_its_name_and_says_which_interface_it_was_written_for(self, exporter: Exporter) -> None:
        assert exporter.name in plugins.known(GROUP)
        assert exporter.interface_version == INTERFACE_VERSION

    def test_every_score_is_the_one_that_the_table_shows(self, exporter: Exporter, tmp_path: Path) -> None:
        result = run_of(tmp_path, "whole", "half", "unjudged", "failed")
        self.export(exporter, result)
        expected = [(row.model, row.dataset, row.score_text) for row in score_rows(result)]
        assert ("half", "first", "0.2500") in expected
        assert ("unjudged", "first", "") in expected
        assert ("failed", "second", "") in expected
        assert sorted(self.read(tmp_path)) == sorted(expected)

    def test_names_come_back_as_they_are(self, exporter: Exporter, tmp_path: Path) -> None:
        self.export(exporter, run_of(tmp_path, *NAMES))
        assert {model for model, _, _ in self.read(tmp_path)} == set(NAMES)

    def test_a_second_export_replaces_the_first(self, exporter: Exporter, tmp_path: Path) -> None:
        self.export(exporter, run_of(tmp_path, "a", "b", "c", "d"))
        before = {path.name for path in tmp_path.iterdir()}
        self.export(exporter, run_of(tmp_path, "e", "f", "g", "h"))
        assert {path.name for path in tmp_path.iterdir()} == before
        assert {model for model, _, _ in self.read(tmp_path)} == set("efgh")

    def test_only_its_files_are_left_in_work_dir(self, exporter: Exporter, tmp_path: Path) -> None:
        files = self.export(exporter, run_of(tmp_path, "a", "b", "c", "d"))
        assert sorted(tmp_path.iterdir()) == sorted(files)

    def test_an_unknown_option_is_refused_by_its_name(self, exporter: Exporter) -> None:
        with pytest.raises(ConfigError, match="no_such_option"):
            self.load({"name": exporter.name, "no_such_option": 1})
