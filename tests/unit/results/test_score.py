"""A score is the same through every door, whatever became of answers and verdicts, on both backends."""

import json
import pickle
from pathlib import Path

import doors
import pytest

from evalscope_evalflow.backends import DatasetResult, Metric
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_report import figures, write
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.events.run_events import RunFinished, RunState
from evalscope_evalflow.results.outcome import FlowResult, ModelResult
from evalscope_evalflow.run.collect import collect
from evalscope_evalflow.run.context import Run
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.state.record import Record
from evalscope_evalflow.worker.kept_reports import KEPT

NATIVE, VLM = "general_qa", "MMBench_DEV_EN"


@pytest.fixture
def task(request, tmp_path):
    """The task of one dataset, on the backend that a test is parametrised with."""
    backend = getattr(request, "param", "Native")
    dataset = NATIVE if backend == "Native" else VLM
    section = {"backend": backend, "models": [{"name": "m", "path": "/m"}]}
    return Task.parse({"datasets": [dataset], "work_dir": str(tmp_path), "evalflow": section})


def finish(task):
    """What a run does when it ends: collect the results, and write the record."""
    run = Run(task, task.models[0], Control())
    record = Record(run.folder, "run-1", task=task.part(run.model), model=run.model.name)
    result = ModelResult(run.model, run.folder, collect(run, {}))
    record.on_event(RunFinished(RunState.COMPLETE, results=result.as_record()))
    return FlowResult(task, [result])


def identity(name, **dimensions):
    aggregation = "pass_at_k" if "k" in dimensions else "mean"
    return {"name": name, "aggregation": aggregation, "dimensions": dimensions}


def metric(name, score, num, kind="quality", **dimensions):
    display = {"direction": "higher_is_better", "display_kind": "number"} if kind == "quality" else {}
    semantics = {"semantic_id": "x.y.z", "metric_name": name, "kind": kind, "display_kind": "number", **display}
    subsets = [{"name": "s", "score": score, "num": num}]
    return {
        "identity": identity(name, **dimensions), "num": num, "score": score,
        "categories": [{"name": ["default"], "subsets": subsets}], "semantics": semantics,
    }  # fmt: skip


def native(folder, metrics=(), answers=4, requested=4, statuses=(), primary=True, reported=True):
    """A run folder of the Native backend.

    Args:
        folder: the run folder.
        metrics: the report's.
        answers: saved answers.
        requested: those that were to be had.
        statuses: what became of each verdict.
        primary: whether the report names the first metric as its primary one.
        reported: whether there is a report.
    """
    for kind in ("predictions", "reviews"):
        path = folder / kind / "m" / f"{NATIVE}_s.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"index": number} for number in range(answers)]
        for row, status in zip(rows, statuses, strict=False):
            value = {"acc": 1.0} if status in ("success", "degraded") else {}
            score = {"value": value, "judge_summary": {"status": status}}
            row["sample_score"] = {"score": score if kind == "reviews" else {}}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad = sum(status != "success" for status in statuses)
    judged = len(statuses) - bad
    summary = {
        "status": "success" if not bad else "degraded" if judged else "excluded", "scored": judged,
        "total": len(statuses), "valid_observations": judged, "total_observations": len(statuses),
    }  # fmt: skip
    withheld = sum(status in ("excluded", "parse_error") for status in statuses)
    report = {
        "schema_version": 2, "name": f"m@{NATIVE}", "dataset_name": NATIVE, "model_name": "m", "metrics": list(metrics),
        "primary_metric_identity": metrics[0]["identity"] if metrics and primary else None,
        "judge_summary": summary if statuses else None,
        "execution_summary": {
            "requested": requested, "succeeded": answers - withheld, "errored": requested - answers + withheld
        },
    }  # fmt: skip
    if reported:
        path = folder / "reports" / "m" / f"{NATIVE}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(report))
    return path


GOOD = [metric("accuracy", 0.75, 4)]
NATIVE_CASES = {
    "good judge": ({"metrics": GOOD, "statuses": ["success"] * 4}, 0.75, True),
    "no judge": ({"metrics": GOOD}, 0.75, True),
    "judge partly down": (
        {"metrics": [metric("accuracy", 1.0, 3)], "statuses": ["success"] * 3 + ["excluded"]}, 1.0, False
    ),
    "judge that nobody can read": ({"statuses": ["excluded"] * 4}, None, False),
    "such a judge, and a rule's figure of an older version": (
        {"metrics": [metric("rouge", 0.8333, 4)], "statuses": ["fallback"] * 4}, None, False
    ),
    "failed samples": ({"metrics": [metric("accuracy", 1.0, 3)], "answers": 3}, 1.0, False),
    "nothing answered": ({"answers": 0}, None, False),
    "nothing answered, and a benchmark that counts that as wrong": (
        {"metrics": [metric("accuracy", 0.0, 4)], "answers": 0}, None, False
    ),
    "no number": ({"metrics": [metric("accuracy", float("nan"), 4)]}, None, False),
    "no report": ({"reported": False}, None, False),
    "pass@k": (
        {"metrics": [*GOOD, metric("accuracy", 1.0, 2, k=2)], "answers": 4}, 0.75, True
    ),
    "pass@k, partly judged": (
        {"metrics": [metric("accuracy", 0.5, 3), metric("accuracy", 1.0, 1, k=2)],
             "statuses": ["success"] * 3 + ["excluded"]}, 0.5, False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NATIVE_CASES)
def test_native(task, name):
    how, value, complete = NATIVE_CASES[name]
    folder = task.folder(task.models[0])
    native(folder, **how)
    result = finish(task)
    assert doors.agree(result) == {NATIVE: value}
    score = result.models[0].datasets[0].score
    assert (score.complete, score.interval) == (complete, None)
    assert score.n == (0 if value is None else result.models[0].datasets[0].succeeded)
    kept = folder / KEPT / "m" / f"{NATIVE}.json"
    assert kept.exists() == (value is None and how.get("reported", True)), "evidence is kept, outside reports/"


def vlmevalkit(folder, scored, fallbacks=(), requested=4, answered=4, left_out=0, judge="referee"):
    """A run folder of the VLMEvalKit backend: three of four right, where they are scored."""
    import pandas

    files = Files(folder, "m", VLM)
    files.predictions.parent.mkdir(parents=True)
    files.predictions.write_bytes(b"x")
    files.write(
        requested=requested, answered=answered, scored=scored, left_out=left_out, judged=scored if judge else None,
        fallbacks={str(number): kind for number, kind in enumerate(fallbacks)}, judge=judge, error=None,
        stamp=files.stamp(),
    )  # fmt: skip
    if scored:
        table = pandas.DataFrame({"split": ["dev"], "Overall": [0.75]})
        rows = pandas.DataFrame({"split": ["dev"] * scored})
        write(
            files.report, dataset=VLM, model="m", found=figures(VLM, table, rows), scored=scored, requested=requested,
            judge=judge, fallbacks=dict.fromkeys(fallbacks, 1),
        )  # fmt: skip


VLM_CASES = {
    "good judge": ({"scored": 4}, 0.75, True),
    "no judge": ({"scored": 4, "judge": None}, 0.75, True),
    "judge partly down": ({"scored": 3, "fallbacks": ["server_error"]}, 0.75, False),
    "judge that nobody can read": ({"scored": 0, "fallbacks": ["unreadable"] * 4}, None, False),
    "failed samples": ({"scored": 3, "answered": 3}, 0.75, False),
    "a group without all its members": ({"scored": 2, "answered": 3, "left_out": 1}, 0.75, False),
}


@pytest.mark.parametrize("name", VLM_CASES)
@pytest.mark.parametrize("task", ["VLMEvalKit"], indirect=True)
def test_vlmevalkit(task, name):
    how, value, complete = VLM_CASES[name]
    vlmevalkit(task.folder(task.models[0]), **how)
    result = finish(task)
    assert doors.agree(result) == {VLM: value}
    score = result.models[0].datasets[0].score
    assert (score.complete, score.n) == (complete, how["scored"])


def test_what_evalscope_itself_reads_of_reports_is_what_the_tests_read(task):
    from evalscope.report import get_report_list

    folder = task.folder(task.models[0])
    native(folder, metrics=[metric("accuracy", 0.75, 4), metric("rouge", 0.1, 4)])
    found = {report.dataset_name: report.score for report in get_report_list([str(folder / "reports")])}
    assert found == doors.dashboard(folder) == {NATIVE: 0.75}


def test_mode_infer_has_no_score_and_says_so(tmp_path):
    section = {"backend": "Native", "mode": "infer", "models": [{"name": "m", "path": "/m"}]}
    task = Task.parse({"datasets": [NATIVE], "work_dir": str(tmp_path), "evalflow": section})
    native(task.folder(task.models[0]), reported=False)
    result = finish(task)
    assert doors.agree(result) == {NATIVE: None}
    assert result.models[0].datasets[0].score.why_not.startswith("not judged")


def test_the_result_is_evalscopes_report(task):
    """Usable wherever that is: as an instance, a dict, a pickle, and in EvalScope's own table."""
    from evalscope.report import Report, gen_table

    path = native(task.folder(task.models[0]), metrics=GOOD)
    report = doors.run_task(finish(task))[NATIVE]
    assert isinstance(report, Report)
    assert report.to_dict() == Report.from_json(str(path)).to_dict()
    assert (report.num, len(report.metrics), report.primary_metric.score) == (4, 1, 0.75)
    for copy in (pickle.loads(pickle.dumps(report)), report.model_copy(deep=True)):
        assert (copy.score, copy.complete, copy.evidence, copy.to_dict()) == (
            0.75, True, report.evidence, report.to_dict()
        )  # fmt: skip
    assert "0.75" in gen_table(report_list=[report])
    assert type(type(report).from_json(str(path))) is Report


def test_a_result_without_a_score_is_one_all_the_same(task):
    from evalscope.report import Report, gen_table

    native(task.folder(task.models[0]), statuses=["excluded"] * 4)
    report = doors.run_task(finish(task))[NATIVE]
    assert isinstance(report, Report)
    assert (report.score, report.complete, report.judged, report.answered) == (None, False, 0, 4)
    assert "no verdict" in report.why_not
    assert report.to_dict()["metrics"] == []
    gen_table(report_list=[report, report])  # no error


def test_a_report_that_got_no_score_goes_back_when_there_is_one(task):
    folder = task.folder(task.models[0])
    path = native(folder, statuses=["excluded"] * 4)
    finish(task)
    kept = folder / KEPT / "m" / path.name
    assert (path.exists(), kept.exists()) == (False, True)
    (folder / "reports" / "m").rmdir()
    native(folder, metrics=GOOD, statuses=["success"] * 4)
    assert doors.agree(finish(task)) == {NATIVE: 0.75}
    assert (path.exists(), kept.exists()) == (True, False)


def test_a_headline_is_a_figure_that_grades(task):
    """A report that names none may begin with a count of tokens."""
    tokens = metric("tokens", 812.0, 4, kind="diagnostic")
    native(task.folder(task.models[0]), metrics=[tokens, *GOOD], primary=False)
    result = finish(task)
    assert result.models[0].datasets[0].score.metric == "accuracy"


@pytest.mark.parametrize(
    ("judged", "fallbacks", "value"), [(0, 4, None), (0, 1, None), (3, 1, 0.5), (0, 0, 0.5), (4, 0, 0.5)]
)
def test_with_a_judge_that_gave_no_verdict_at_all_there_is_no_score(judged, fallbacks, value):
    """Whatever else needed no judge: that is a rule's figure."""
    result = DatasetResult(
        "d", [Metric("m", 0.5, 4)], requested=4, succeeded=4, answered=4, judged=judged, fallbacks=fallbacks,
        report=Path("r.json"),
    )  # fmt: skip
    assert result.score.value == value
    assert result.value_of(result.metrics[0]) == value
