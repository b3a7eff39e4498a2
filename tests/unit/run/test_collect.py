"""A rerun of what is done: its results are read, its record stays, and nothing that was counted is counted again."""

import json
from pathlib import Path

import pytest
from test_resume import checkpoint, make, write  # noqa: F401 - fixtures

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.backends.native import native_results
from evalscope_evalflow.display.model_display import ModelDisplay
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.events.run_events import RunFinished, RunState, SamplesUnreadable, WorkPlanned
from evalscope_evalflow.results import score_intervals
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.run.collect import collect, finished, with_samples
from evalscope_evalflow.run.context import Run
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.state import cells as ledger
from evalscope_evalflow.state import failures
from evalscope_evalflow.state.record import Record
from evalscope_evalflow.worker.request_failures import Failures


@pytest.fixture
def task(make):  # noqa: F811
    return make()


def make_run(task, *subscribers):
    run = Run(task, task.models[0], Control())
    for subscriber in subscribers:
        run.subscribe(subscriber)
    return run


def finish(task):
    """A run that has done everything."""
    model = task.models[0]
    for dataset in task.datasets:
        write(task, dataset)
    run = make_run(task)
    record = Record(run.folder, "run-1", task=task.part(model), model=model.name)
    record.on_event(WorkPlanned(["infer", "judge"]))
    result = ModelResult(model, run.folder, collect(run, {}))
    state = RunState.COMPLETE if result.complete else RunState.INCOMPLETE
    record.on_event(RunFinished(state, results=result.as_record()))
    return task.folder(model)


def look(run):
    return finished(run, run.saved())


def run_json(folder):
    return (folder / "evalflow" / "run.json").read_text()


def test_what_is_done_and_recorded_stays_as_it_is(task):
    folder = finish(task)
    before = run_json(folder)
    for number in (1, 2):
        done = look(make_run(task))
        assert [(item.dataset, item.succeeded) for item in done.datasets] == [("general_qa", 4), ("general_mcq", 4)]
        assert run_json(folder) == before
        events = [json.loads(line)["event"] for line in (folder / "evalflow" / "events.jsonl").read_text().splitlines()]
        assert events[-number - 1 :] == ["RunFinished", *["NothingLeft"] * number]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(state="interrupted"),
        lambda data: data["results"]["general_qa"].update(answered=3),
        lambda data: data["results"].pop("general_mcq"),
    ],
    ids=["state", "results", "datasets"],
)
def test_a_record_that_does_not_say_so_is_made_anew(task, change):
    folder = finish(task)
    data = json.loads(run_json(folder))
    change(data)
    (folder / "evalflow" / "run.json").write_text(json.dumps(data))
    assert look(make_run(task)) is None


def test_permanent_failures_are_reported_with_why_where_and_what_to_do(task, capsys):
    model, folder = task.models[0], task.folder(task.models[0])
    for dataset in task.datasets:
        write(task, dataset, answers=3)
        noted = Failures(str(failures.path_in(folder)), failures.cause(task, model))
        noted.add(dataset, "s", 3, "c", "request_refused", False, "max_tokens must be positive")
    record = Record(folder, "run-1", task=task.part(model), model="m")
    results = collect(make_run(task), {})
    record.on_event(RunFinished(RunState.INCOMPLETE, results=ModelResult(model, folder, results).as_record()))
    assert look(make_run(task, ModelDisplay(Reporter(), "m"))) is not None
    said = capsys.readouterr().err
    why = "1 × request refused (permanent): max_tokens must be positive"
    assert f"general_qa is incomplete: 3 of 4 answered; {why} (each of them: {failures.path_in(folder)})" in said
    assert "samples that failed permanently are asked again when their cause changes, or with `reuse: false`" in said


def test_what_has_no_score_and_nothing_left_is_finished_too(task):
    """Every sample failed permanently: the report lies outside `reports/`, and is found there."""
    model, folder = task.models[0], task.folder(task.models[0])
    for dataset in task.datasets:
        write(task, dataset, answers=0)
        noted = Failures(str(failures.path_in(folder)), failures.cause(task, model))
        for number in range(4):
            noted.add(dataset, "s", number, "c", "request_refused", False, "no")
    record = Record(folder, "run-1", task=task.part(model), model="m")
    results = collect(make_run(task), {})
    assert [item.score.value for item in results] == [None, None]
    assert list((folder / "reports").rglob("*.json")) == []
    record.on_event(RunFinished(RunState.INCOMPLETE, results=ModelResult(model, folder, results).as_record()))
    done = look(make_run(task))
    assert done is not None
    assert [(item.score.value, item.report.is_file()) for item in done.datasets] == [(None, True)] * 2


def test_without_a_record_or_with_something_left_it_is_not_finished(task):
    folder = finish(task)
    (folder / "evalflow" / "run.json").rename(folder / "elsewhere")
    assert look(make_run(task)) is None
    (folder / "elsewhere").rename(folder / "evalflow" / "run.json")
    (folder / "reports" / "m" / "general_qa.json").unlink()
    assert look(make_run(task)) is None


def test_rows_are_counted_once_and_again_when_their_file_has_changed(task, monkeypatch):
    folder = finish(task)
    counted = []
    rows = native_results._rows
    monkeypatch.setattr(native_results, "_rows", lambda path: counted.append(path.name) or rows(path))
    look = load_backend("Native").look
    assert [look(task, task.models[0]).answers(dataset) for dataset in task.datasets] == [4, 4]
    assert counted == []
    path = folder / "predictions" / "m" / "general_qa_s.jsonl"
    path.write_text(path.read_text() + '{"index": 4}\n')
    assert [look(task, task.models[0]).answers(dataset) for dataset in task.datasets] == [5, 4]
    assert counted == [path.name]


def test_a_count_of_an_older_version_or_none_is_no_obstacle(task):
    folder = finish(task)
    for cells in (lambda item: item.pop("counted"), lambda item: item.update(counted={"predictions/m/x.jsonl": [1]})):
        data = json.loads(ledger.path_in(folder).read_text())
        for item in data["datasets"].values():
            cells(item)
        ledger.path_in(folder).write_text(json.dumps(data))
        assert look(make_run(task)) is not None


def test_the_record_of_one_model_holds_no_other(task, tmp_path):
    many = type(task).parse(
        {
            "datasets": ["general_qa"],
            "work_dir": str(tmp_path),
            "evalflow": {"backend": "Native", "models": [{"name": name, "path": f"/{name}"} for name in "ab"]},
        }
    )
    assert many.part(many.models[1])["evalflow"]["models"] == [{"name": "b", "path": "/b"}]
    assert "models" not in task.part(task.models[0])["evalflow"]


def test_cells_are_written_only_where_something_is_new(task):
    folder = finish(task)
    path: Path = ledger.path_in(folder)
    before = path.stat().st_ino
    ledger.update_all(folder, {"general_qa": {"requested": 4}})
    assert path.stat().st_ino == before
    assert ledger.update(folder, "general_qa", requested=5).requested == 5
    assert path.stat().st_ino != before


def test_an_interval_is_recorded_and_goes_with_a_score_that_is_the_same(task):
    folder = finish(task)
    record = json.loads(run_json(folder))
    for item in record["results"].values():
        item["score"] |= {"interval": [0.2, 0.9], "n_groups": 4, "few_groups": True}
    (folder / "evalflow" / "run.json").write_text(json.dumps(record))
    result = look(make_run(task))
    assert result is not None
    assert {item.score.interval for item in result.datasets} == {(0.2, 0.9)}
    assert json.loads(run_json(folder)) == record


def test_a_record_without_intervals_says_enough(task):
    folder = finish(task)
    record = json.loads(run_json(folder))
    for item in record["results"].values():
        for name in ("interval", "n_groups", "few_groups"):
            del item["score"][name]
    (folder / "evalflow" / "run.json").write_text(json.dumps(record))
    assert look(make_run(task)) is not None


def test_samples_that_cannot_be_read_end_no_run(task, monkeypatch):
    finish(task)
    seen = []

    class Sink:
        def on_event(self, event):
            seen.append(event)

    def broken(run, results):
        raise KeyError("index")

    monkeypatch.setattr(score_intervals, "with_intervals", broken)
    run = make_run(task, Sink())
    results = collect(run, {})
    assert with_samples(run, results) == results
    assert [event.reason for event in seen if isinstance(event, SamplesUnreadable)] == ["KeyError: 'index'"]
