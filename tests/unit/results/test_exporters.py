"""Result exporters: `csv`, the documentation's example, and what one that fails does to a run."""

import csv
import io
import json
import re
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
from doc_plugin import names_of_tests, run_example
from exported_runs import FORMULA, KEY, sweep_of

from evalscope_evalflow.config import FlowConfig, PluginChoice
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError, EvalFlowError
from evalscope_evalflow.results.csv_cells import cell, text_of, write_rows
from evalscope_evalflow.results.exporters import Exporter, export, load_exporter, load_exporters
from evalscope_evalflow.results.exporters.table_columns import COLUMNS
from evalscope_evalflow.results.outcome import FlowResult, ModelResult
from evalscope_evalflow.sweep import runner
from evalscope_evalflow.sweep.preparation import prepare
from evalscope_evalflow.testing.exporter_suite import NAMES, ExporterSuite, run_of


class TestCsv(ExporterSuite):
    choice = "csv"

    def rows(self, folder):
        with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def read(self, folder):
        return [(text_of(row["model"]), row["dataset"], row["score"]) for row in self.rows(folder)]

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

    def test_no_cell_is_a_formula(self, exporter, tmp_path):
        self.export(exporter, run_of(tmp_path, *NAMES))
        assert "'=1+1" in {row["model"] for row in self.rows(tmp_path)}


class TestJsonLines(ExporterSuite):
    choice = "jsonl"

    def rows(self, folder):
        return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]

    def read(self, folder):
        return [(row["model"], row["dataset"], score_text(row["score"])) for row in self.rows(folder)]

    def test_its_fields_are_the_columns_of_the_csv_file_with_numbers_as_numbers(self, exporter, tmp_path):
        self.export(exporter, run_of(tmp_path, "whole", "half", "unjudged", "failed"))
        whole = self.rows(tmp_path)[0]
        assert list(whole) == list(COLUMNS)
        assert (whole["score"], whole["complete"], whole["judged"]) == (0.123456, True, None)


class TestParquet(ExporterSuite):
    choice: ClassVar = {"name": "parquet", "samples": False}

    def read(self, folder):
        rows = pq.read_table(folder / "scores.parquet").to_pylist()
        return [(row["model"], row["dataset"], score_text(row["score"])) for row in rows]

    def test_its_columns_have_types(self, exporter, tmp_path):
        self.export(exporter, run_of(tmp_path, "whole", "half", "unjudged", "failed"))
        schema = pq.read_schema(tmp_path / "scores.parquet")
        assert schema.names == list(COLUMNS)
        types = {name: str(schema.field(name).type) for name in ("score", "complete", "judged", "why_not")}
        assert types == {"score": "double", "complete": "bool", "judged": "int64", "why_not": "string"}


def test_samples_are_exported_in_each_form_and_no_key_with_them(tmp_path):
    results = sweep_of(tmp_path, one=0.5, two=None)
    exporters = load_exporters(FlowConfig.parse({"exporters": ["csv", "jsonl", "parquet"]}).exporters)
    files = export(results, exporters, pytest.fail)
    assert [path.name for path in files] == [
        f"{name}.{ending}" for ending in ("csv", "jsonl", "parquet") for name in ("samples", "scores")
    ]
    for path in files:
        assert KEY.encode() not in path.read_bytes()
    frame = results.samples()
    assert list(frame["answer"]) == [FORMULA, "-3"] * 2
    with (tmp_path / "samples.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["answer"] for row in table] == [f"'{FORMULA}", "-3"] * 2
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line["answer"] for line in lines] == [FORMULA, "-3"] * 2
    parquet = pq.read_table(tmp_path / "samples.parquet")
    assert parquet.column("run").to_pylist() == ["one", "one", "two", "two"]
    assert set(table[0]) == set(lines[0]) == set(parquet.column_names) == set(frame.columns)


def test_scores_of_a_finished_folder_have_their_intervals_and_what_is_missing_its_reason(tmp_path):
    export(sweep_of(tmp_path, one=0.5, two=None), [load_exporter(PluginChoice(name="jsonl"))], pytest.fail)
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [(row["model"], row["metric"], row["score"]) for row in rows] == [
        ("one", "acc", 0.5), ("one", "f1", 0.25), ("two", "acc", None),
    ]  # fmt: skip
    assert (rows[0]["interval_low"], rows[0]["n_groups"], rows[1]["interval_low"]) == (0.4, 2, None)
    assert rows[2]["why_not"] == "no verdict of the judge"


def score_text(score):
    return "" if score is None else f"{score:.4f}"


TEXTS = [
    ("=1+1", "'=1+1"),
    ("@SUM(A1)", "'@SUM(A1)"),
    ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
    ("-2+3", "'-2+3"),
    ("\t=1", "'\t=1"),
    ("\r=1", "'\r=1"),
    ("＝1", "'＝1"),
    ("'=1", "''=1"),
    ("'quoted'", "'quoted'"),
    ("-3", "-3"),
    ("+1.5e-3", "+1.5e-3"),
    ("-", "'-"),
    ("a=1", "a=1"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "written"), TEXTS)
def test_a_text_that_a_spreadsheet_would_compute_is_written_as_a_text_and_can_be_read_back(text, written):
    assert cell(text) == written
    assert text_of(written) == text


@pytest.mark.parametrize(
    ("value", "written"), [(-0.5, "-0.5"), (-3, "-3"), (True, "true"), (None, ""), (float("nan"), "")]
)
def test_numbers_stay_numbers(value, written):
    assert cell(value) == written


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


@pytest.mark.parametrize("text", ["a\rb", "\r=1+1", "a\r\nb", "a\nb", 'a"b', "a,b", "x\u2028y"])
def test_a_row_stays_one_row_whatever_a_text_holds(text):
    file = io.StringIO(newline="")
    write_rows(file, [["name", "n"], [text, 1]])
    written = file.getvalue()
    assert written.endswith("\n")
    assert not written.endswith("\r\n")
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert [[text_of(value) for value in row] for row in rows] == [["name", "n"], [text, "1"]]
