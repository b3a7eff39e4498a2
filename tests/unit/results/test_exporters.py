"""Result exporters: `csv`, the documentation's example, and what one that fails does to a run."""

import csv
import re

import pytest
from doc_plugin import names_of_tests, run_example

from evalscope_evalflow.config import FlowConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError, EvalFlowError
from evalscope_evalflow.results.exporters import Exporter, export, load_exporter
from evalscope_evalflow.results.exporters.csv_exporter import COLUMNS
from evalscope_evalflow.results.outcome import FlowResult, ModelResult
from evalscope_evalflow.sweep import runner
from evalscope_evalflow.sweep.preparation import prepare
from evalscope_evalflow.testing.exporter_suite import ExporterSuite, run_of


class TestCsv(ExporterSuite):
    choice = "csv"

    def rows(self, folder):
        with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def read(self, folder):
        return [(row["model"], row["dataset"], row["score"]) for row in self.rows(folder)]

    def test_its_columns_are_stable(self, exporter, tmp_path):
        self.export(exporter, run_of(tmp_path, "whole", "half", "unjudged", "failed"))
        assert list(self.rows(tmp_path)[0]) == list(COLUMNS)
        assert COLUMNS == (
            "model", "dataset", "metric", "headline", "score", "complete", "why_not",
            "requested", "answered", "scored", "failed", "judged", "fallbacks",
            "cut_off", "empty", "remarks", "interval_low", "interval_high", "n_groups", "few_groups",
        )  # fmt: skip

    def test_what_is_missing_is_empty_and_says_why(self, exporter, tmp_path):
        self.export(exporter, run_of(tmp_path, "whole", "half", "unjudged", "failed"))
        found = {(row["model"], row["dataset"]): row for row in self.rows(tmp_path)}
        whole, half = found["whole", "first"], found["half", "first"]
        assert (whole["complete"], whole["why_not"], whole["scored"], whole["judged"]) == ("true", "", "8", "")
        assert (half["complete"], half["why_not"]) == ("false", "4 of 8 samples are missing")
        assert found["unjudged", "first"]["why_not"] == "no verdict of the judge"
        failed = found["failed", "second"]
        assert (failed["metric"], failed["why_not"], failed["requested"]) == ("", "the engine stopped", "")


def test_the_example_of_the_documentation_passes_the_suite(tmp_path):
    assert run_example("add-an-exporter.md", tmp_path, timeout_s=120) == names_of_tests(ExporterSuite)


class Failing(Exporter):
    name = "failing"
    interface_version = 1

    def __init__(self, action):
        super().__init__()
        self.action = action

    def export(self, result, folder):
        (folder / "half.txt").write_text("half of it")
        self.action(folder)


def raise_error(folder):
    raise ValueError("no connection\nmore")


@pytest.mark.parametrize(
    ("action", "why"),
    [
        (raise_error, "no connection"),
        (lambda folder: (folder / "pictures").mkdir(), "pictures is no file"),
        (lambda folder: (folder / "logs").write_text("x"), r".*logs is a folder"),
    ],
)
def test_one_that_fails_writes_nothing_and_the_others_go_on(tmp_path, action, why):
    (tmp_path / "logs").mkdir()
    warned = []
    exporters = [Failing(action), load_exporter(FlowConfig.parse({"exporters": "csv"}).exporters[0])]
    files = export(run_of(tmp_path, "a", "b", "c", "d"), exporters, warned.append)
    assert files == [tmp_path / "scores.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "scores.csv"]
    assert len(warned) == 1
    assert re.match(f"exporter failing failed, and wrote nothing: {why}$", warned[0])


@pytest.fixture
def task(tmp_path, gguf_file, make_env):
    def make(**section):
        models = [{"name": name, "path": str(gguf_file)} for name in ("a", "b")]
        section = {"backend": "Native", "models": models, "deploy": {"env": str(make_env())}, **section}
        return Task.parse({"datasets": ["general_qa"], "work_dir": str(tmp_path / "out"), "evalflow": section})

    return make


def test_unknown_plug_ins_are_reported_together_before_anything_starts(task):
    with pytest.raises(ConfigError) as caught:
        prepare(task(executor={"name": "local", "nodes": 2}, exporters=["csv", "cvs"]), lambda text: None)
    where = [problem.where for problem in caught.value.problems]
    assert where == ["evalflow.executor.nodes", "evalflow.exporters.1"]
    assert "Did you mean 'csv'?" in str(caught.value)


def test_a_run_of_which_nothing_finished_is_exported_before_its_error_is_raised(task, monkeypatch):
    found = task(exporters=["csv"])
    failed = [ModelResult(model, found.folder(model), error=EvalFlowError("no memory")) for model in found.models]
    monkeypatch.setattr(runner, "_run_all", lambda *_: failed)
    with pytest.raises(EvalFlowError, match="no model could be finished:\na: no memory\nb: no memory"):
        runner.run(found)
    lines = (found.work_dir / "scores.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["model", "a", "b"]


def test_the_exit_code_is_that_of_the_run_whatever_an_exporter_does(tmp_path):
    result = run_of(tmp_path, "a", "b", "c", "d")
    before = result.exit_code
    export(result, [Failing(raise_error)], lambda text: None)
    assert (result.exit_code, FlowResult(result.task, result.models[:1]).exit_code) == (before, 0)
