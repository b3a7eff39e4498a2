"""EvalScope's own settings reach the stock task: its analysis of reports, and its progress file."""

import pytest

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.config.task import Task

JUDGE = {"models": [{"model_id": "j", "api_url": "http://127.0.0.1:9/v1"}]}


def task(tmp_path, **stock):
    models = [{"name": "m", "api_url": "http://127.0.0.1:9/v1"}]
    return Task.parse(
        {"datasets": ["gsm8k"], "work_dir": str(tmp_path), **stock, "evalflow": {"backend": "Native", "models": models}}
    )


def sent(found):
    return load_backend("Native").start_task(found, found.models[0], ["infer", "judge"], 4).as_dict()["stock_task"]


def test_the_progress_file_and_the_analysis_are_passed_on(tmp_path):
    stock = sent(task(tmp_path, enable_progress_tracker=True, analysis_report=True, judge=JUDGE))
    assert (stock["enable_progress_tracker"], stock["analysis_report"]) == (True, True)


@pytest.mark.parametrize("given", [{"judge": JUDGE}, {}], ids=["judge", "no judge"])
def test_an_analysis_that_nobody_would_write_is_left_out_and_that_is_said(tmp_path, given):
    found = task(tmp_path, analysis_report=True, **given)
    notes = []
    assert list(load_backend("Native").check_data(found, notes.append)) == []
    assert notes == ([] if given else ["analysis_report: no judge is given to write it, so that it is left out"])
    assert ("analysis_report" in sent(found)) == bool(given)
