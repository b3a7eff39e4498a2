import json
import os

import pytest

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.backends.native import native_verdicts as verdicts
from evalscope_evalflow.backends.native.native_backend import has_predictions
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.state import cells as ledger


@pytest.fixture
def task(tmp_path):
    return Task.parse(
        {
            "datasets": ["general_qa", "general_mcq"],
            "work_dir": str(tmp_path),
            "evalflow": {"backend": "Native", "models": [{"name": "m", "path": "/m"}]},
        }
    )


@pytest.fixture
def folder(task):
    return task.folder(task.models[0])


def metric(name, score, num=6, aggregation="mean", **dimensions):
    identity = {"name": name, "aggregation": aggregation, "dimensions": dimensions}
    return {"identity": identity, "legacy_name": None, "num": num, "score": score, "macro_score": score}


def execution(requested, succeeded, errored):
    return {
        "requested": requested,
        "succeeded": succeeded,
        "errored": errored,
        "incomplete": bool(errored),
        "subsets": {},
    }


@pytest.fixture
def report(folder):
    """Writes a report as EvalScope 1.14 does."""

    def write(dataset, metrics, model="m", file=None, **more):
        path = folder / "reports" / model / (file or f"{dataset}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {
            "schema_version": 2,
            "name": f"{model}@{dataset}",
            "dataset_name": dataset,
            "model_name": model,
            "metrics": metrics,
            "primary_metric_identity": metrics[0]["identity"] if metrics else None,
            "judge_summary": None,
            "execution_summary": execution(6, 6, 0),
            **more,
        }
        path.write_text(json.dumps(data))
        return path

    return write


def results(task, before=()):
    return {item.dataset: item for item in load_backend("Native").look(task, task.models[0]).results(dict(before))}


def test_a_full_report_is_a_complete_result(task, report):
    path = report("general_qa", [metric("accuracy", 0.8333)])
    found = results(task)["general_qa"]
    assert found.complete
    assert (found.requested, found.succeeded, found.failed) == (6, 6, 0)
    assert (found.metrics[0].name, found.metrics[0].score, found.metrics[0].samples) == ("accuracy", 0.8333, 6)
    assert found.report == path


def test_a_dataset_without_a_report_is_there_and_incomplete(task, report):
    report("general_qa", [metric("accuracy", 1.0)])
    found = results(task)
    assert list(found) == ["general_qa", "general_mcq"]
    assert not found["general_mcq"].complete
    assert found["general_mcq"].report is None


def test_a_score_of_1_over_5_of_12_is_incomplete(task, report):
    report("general_qa", [metric("accuracy", 1.0, num=5)], execution_summary=execution(12, 5, 7))
    found = results(task)["general_qa"]
    assert not found.complete
    assert (found.requested, found.succeeded, found.failed) == (12, 5, 7)


def test_a_run_in_which_nothing_was_answered_is_incomplete(task, report):
    report("general_qa", [], execution_summary=execution(12, 0, 12))
    found = results(task)["general_qa"]
    assert not found.complete
    assert (found.metrics, found.succeeded) == ([], 0)


def test_a_judge_that_failed_makes_a_result_incomplete_and_says_so(task, report):
    """EvalScope falls back to its rules then, and its report looks like any other."""
    judge = {"status": "degraded", "scored": 6, "total": 6, "valid_observations": 2, "total_observations": 6}
    report("general_qa", [metric("accuracy", 0.5)], judge_summary=judge)
    found = results(task)["general_qa"]
    assert not found.complete
    assert found.notes == ["4 of 6 answers have no verdict"]


def test_a_judge_that_worked_needs_no_note(task, report):
    judge = {"status": "success", "scored": 6, "total": 6, "valid_observations": 6, "total_observations": 6}
    report("general_qa", [metric("accuracy", 0.5)], judge_summary=judge)
    assert results(task)["general_qa"].complete


def test_a_report_older_than_completeness_counts_what_its_metrics_stand_on(task, report):
    metrics = [metric("accuracy", 0.5, num=4), metric("rouge", 0.1, num=6)]
    report("general_qa", metrics, execution_summary=None)
    found = results(task)["general_qa"]
    assert (found.requested, found.succeeded, found.complete) == (6, 6, True)


def test_the_primary_metric_comes_first(task, report):
    metrics = [
        metric("rouge", 0.1, ngram=1, statistic="recall"),
        metric("rouge", 0.3, ngram="L", statistic="f1"),
        metric("rouge", 0.2, ngram=2, statistic="f1"),
    ]
    report("general_qa", metrics, primary_metric_identity=metrics[1]["identity"])
    found = results(task)["general_qa"].metrics
    assert [item.name for item in found] == ["rouge (L, f1)", "rouge (1, recall)", "rouge (2, f1)"]
    assert [item.primary for item in found] == [True, False, False]


def test_without_a_primary_metric_none_is_claimed(task, report):
    report("general_qa", [metric("a", 0.1), metric("b", 0.2)], primary_metric_identity=None)
    assert [item.primary for item in results(task)["general_qa"].metrics] == [False, False]


def test_metrics_that_differ_in_aggregation_have_different_names(task, report):
    """The record keeps them in a mapping by name."""
    report("general_qa", [metric("acc", 0.1), metric("acc", 0.4, aggregation="pass@4")])
    names = [item.name for item in results(task)["general_qa"].metrics]
    assert len(set(names)) == 2


def test_a_metric_that_could_not_be_scored_has_no_score(task, report):
    report("general_qa", [metric("accuracy", None)])
    assert results(task)["general_qa"].metrics[0].score is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_torn_report_is_no_report(task, report, text):
    report("general_qa", [metric("accuracy", 1.0)]).write_text(text)
    assert results(task)["general_qa"].report is None


def test_another_models_report_is_not_taken_for_this_ones(task, report):
    report("general_qa", [metric("accuracy", 1.0)], model="other")
    assert results(task)["general_qa"].report is None


def test_the_stock_task_is_this_models_in_its_own_folder(task, folder):
    stock = load_backend("Native").stock_task(task, task.models[0], 7)
    assert (stock["model"], stock["work_dir"], stock["no_timestamp"]) == ("m", str(folder), True)
    assert (stock["eval_backend"], stock["eval_type"]) == ("Native", "openai_api")
    assert stock["eval_batch_size"] == 7
    assert stock["ignore_errors"] is True
    assert "evalflow" not in stock
    assert "use_cache" not in stock


def test_the_users_own_batch_size_wins_over_the_engines(task):
    own = Task(task.flow, {**task.stock, "eval_batch_size": 3}, task.models, task.multi_model, task.work_dir)
    assert load_backend("Native").stock_task(own, own.models[0], 7)["eval_batch_size"] == 3


def saved(folder, text="{}\n"):
    for name in ("configs/task_config.yaml", "predictions/m/general_qa_qa.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_saved_predictions_are_gone_on_from(task, folder):
    saved(folder)
    assert load_backend("Native").stock_task(task, task.models[0], 1)["use_cache"] == str(folder)


def test_there_is_nothing_to_go_on_from_without_task_and_answers(folder):
    """EvalScope refuses a folder that has no task, and appends to one that has no answers."""
    assert not has_predictions(folder)
    saved(folder, text="")
    assert not has_predictions(folder)
    saved(folder)
    (folder / "configs" / "task_config.yaml").unlink()
    assert not has_predictions(folder)


def archive(task, kept):
    return load_backend("Native").archive(task, task.models[0], kept)


def test_earlier_results_are_archived_whole(task, folder, tmp_path):
    kept = tmp_path / "kept"
    assert not archive(task, kept)
    saved(folder)
    (folder / "mine.txt").write_text("mine")
    ledger.path_in(folder).parent.mkdir()
    ledger.update(folder, "general_qa", requested=1)
    assert archive(task, kept)
    assert (kept / "predictions" / "m" / "general_qa_qa.jsonl").is_file()
    assert (kept / "evalflow" / "cells.json").is_file()
    assert not has_predictions(folder)
    assert ledger.read(folder) == {}
    assert (folder / "mine.txt").is_file()


def test_verdicts_are_archived_without_answers_and_without_other_datasets(task, folder, report, tmp_path):
    saved(folder)
    reviews = folder / "reviews" / "m"
    reviews.mkdir(parents=True)
    answers = json.dumps({"index": 0, "model_output": {"text": "A"}}) + "\n"
    (folder / "predictions" / "m" / "general_qa_qa.jsonl").write_text(answers)
    for name in ("general_qa_qa.jsonl", "general_mcq_val.jsonl"):
        (reviews / name).write_text('{"index": 0}\n')
    path = report("general_qa", [metric("accuracy", 1.0)])
    assert load_backend("Native").archive_verdicts(task, task.models[0], "general_qa", tmp_path / "kept")
    found = list((folder / "evalflow" / "saved" / "general_qa" / "verdicts").rglob("*.jsonl"))
    assert [path.name for path in found] == ["qa.jsonl"]
    assert not path.exists()
    assert [item.name for item in reviews.iterdir()] == ["general_mcq_val.jsonl"]
    assert has_predictions(folder)


def test_answers_are_counted_by_dataset(task, folder):
    saved(folder, "{}\n{}\n")
    (folder / "predictions" / "m" / "general_mcq_val.jsonl").write_text("{}\n\n{}\n{}")
    backend = load_backend("Native")
    assert [backend.look(task, task.models[0]).answers(name) for name in task.datasets] == [2, 2]


def review(index, status=None):
    summary = None if status is None else {"status": status}
    return json.dumps({"index": index, "sample_score": {"score": {"judge_summary": summary}}}) + "\n"


def test_fallbacks_are_counted_and_dropped(task, folder, report):
    """A rule's score in place of the judge's is none; one that needed no judge is."""
    file = folder / "reviews" / "m" / "general_qa_qa.jsonl"
    file.parent.mkdir(parents=True)
    rows = [review(0, "success"), review(1, "fallback"), review(2, "degraded"), review(3), review(4, "excluded")]
    file.write_text("".join(rows) + '{"index": 5, "sample')
    judge = {"status": "degraded", "total": 4, "valid_observations": 1, "total_observations": 4}
    report("general_qa", [metric("accuracy", 0.5)], judge_summary=judge)
    found = results(task)["general_qa"]
    assert (found.judged, found.fallbacks, found.complete) == (1, 3, False)
    assert found.notes == ["the judges came to no verdict on 3 of 4 answers"]
    assert verdicts.drop_fallbacks([file]) == 3
    assert file.read_text() == review(0, "success") + review(3) + '{"index": 5, "sample'
    assert verdicts.drop_fallbacks([file]) == 0


def test_an_old_report_is_not_taken_for_a_new_one_and_stays(task, report):
    path = report("general_qa", [metric("accuracy", 1.0)])
    before = load_backend("Native").stamps(task, task.models[0])
    assert results(task, before)["general_qa"].report is None
    assert path.exists()
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # written anew
    assert results(task, before)["general_qa"].report == path


def test_a_score_of_nothing_or_of_some_is_not_complete(task, report):
    report("general_qa", [metric("accuracy", None)])
    assert not results(task)["general_qa"].complete
    report("general_qa", [metric("accuracy", 1.0)], execution_summary=execution(5, 3, 0))
    assert not results(task)["general_qa"].complete
    report("general_qa", [metric("accuracy", 1.0)], execution_summary=execution(5, 5, 0))
    assert results(task)["general_qa"].complete


@pytest.mark.parametrize("shorter", [["general_mcq"], ["general_mcq", "general_mcq_long"]])
def test_files_of_a_dataset_whose_name_goes_on_are_never_its_own(tmp_path, shorter):
    """Whoever asked it: another task, or, in a folder without our ledger, EvalScope itself."""
    data = {"work_dir": str(tmp_path), "evalflow": {"backend": "Native", "models": [{"name": "m", "path": "/m"}]}}
    task = Task.parse({**data, "datasets": shorter})
    folder = task.folder(task.models[0])
    for kind in ("predictions", "reviews"):
        (folder / kind / "m").mkdir(parents=True)
        for name, rows in (("general_mcq_a", 1), ("general_mcq_long_a", 2), ("gsm8k_main", 3), ("gsm8k_indic_en", 4)):
            (folder / kind / "m" / f"{name}.jsonl").write_text("{}\n" * rows)
    alone = Task.parse({**data, "datasets": ["gsm8k"]})
    look = load_backend("Native").look
    assert look(alone, alone.models[0]).answers("gsm8k") == 3, "EvalScope has a dataset gsm8k_indic"
    (folder / "evalflow").mkdir()
    ledger.update(folder, "general_mcq_long", requested=2)
    assert look(task, task.models[0]).answers("general_mcq") == 1
    assert look(task, task.models[0]).verdicts("general_mcq") == 1


def test_answers_and_verdicts_may_have_a_torn_row(task, folder):
    rows = [folder / "predictions" / "m" / "d.jsonl", folder / "reviews" / "m" / "d.jsonl"]
    for path in [*rows, folder / "reports" / "m" / "d.json"]:
        path.parent.mkdir(parents=True)
        path.write_text("{")
    assert sorted(load_backend("Native").row_files(folder)) == rows


def test_a_dataset_that_could_not_be_scored_shows_its_answers(task, folder):
    path = folder / "predictions" / "m" / "general_qa_default.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("{}\n{}\n")
    (folder / "evalflow").mkdir(exist_ok=True)
    ledger.update(folder, "general_qa", requested=3)
    result = results(task)["general_qa"]
    assert (result.answered, result.requested, result.complete) == (2, 3, False)
