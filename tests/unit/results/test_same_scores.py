"""Every door shows the same score of a run, whatever became of the run."""

import csv
import json

import made_up_run as made
import pytest

import evalscope_evalflow
from evalscope_evalflow.cli import main
from evalscope_evalflow.results.html import report
from evalscope_evalflow.results.run_folders import find_runs

SCORES = [1.0, 0.0, 1.0, 1.0] * 6
LIMIT = "3 of 24 answers were cut off at max_tokens 24; raise generation_config.max_tokens"


def finished(folder):
    made.run(folder, SCORES)
    cells = {"schema": 2, "datasets": {"d": {"requested": 24}}}
    (folder / "evalflow" / "cells.json").write_text(json.dumps(cells))
    kinds = [
        {"dataset": "d", "subset": "s", "sample": str(index), "kinds": ["cut_off"], "max_tokens": 24}
        for index in range(3)
    ]
    made.lines(folder / "evalflow" / "answer_kinds.jsonl", kinds)
    ends = {"interval": [0.55, 0.88], "n_groups": 24, "few_groups": False, "cut_off": 3}
    made.record(folder, results={"d": {**made.result(0.75, 24, **ends), "remarks": [LIMIT]}})


def interrupted(folder):
    finished(folder)
    (folder / "reports" / "m" / "d.json").unlink()
    reviews = folder / "reviews" / "m" / "d_s.jsonl"
    reviews.write_text("".join(reviews.read_text().splitlines(keepends=True)[:15]))
    made.record(folder, state="interrupted")


def running(folder):
    finished(folder)
    made.record(folder, state="running", host="another-machine")


def torn(folder):
    finished(folder)
    (folder / "evalflow" / "run.json").write_text('{"run_id": "x", "sta')


def answered(folder):
    finished(folder)
    (folder / "reports" / "m" / "d.json").unlink()
    (folder / "reviews" / "m" / "d_s.jsonl").unlink()
    made.record(folder, task={"datasets": ["d"], "evalflow": {"backend": "Native", "mode": "infer"}})


@pytest.mark.parametrize(("make", "value", "covered", "table", "interval", "why"), [
    (finished, 0.75, 24, "0.7500", True, ""),
    (interrupted, None, 15, "none", False, "the run ended as interrupted, and wrote no result; 15 of 24 samples have"),
    (running, 0.75, 24, "0.7500", True, "the run has not finished"),
    (torn, 0.75, 24, "0.7500", True, "no record of a finished run"),
    (answered, None, 24, "not judged", False, "the run ended as complete, and wrote no result; not judged"),
])  # fmt: skip
def test_every_door_shows_the_same(tmp_path, capsys, monkeypatch, make, value, covered, table, interval, why):
    folder = tmp_path / "sweep"
    make(folder)
    assert main(["show", str(folder), "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["runs"][0]["scores"]
    row = evalscope_evalflow.load(folder).scores.iloc[0]
    pages = []
    monkeypatch.setattr(report, "render", lambda page, comparison: pages.append(page) or "")
    report.report_html(find_runs(folder))
    (line,) = pages[0].scores
    assert main(["show", str(folder), "--export", "csv", "--output", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "scores.csv").open() as file:
        (exported,) = csv.DictReader(file)

    assert (shown["value"], line.value, exported["score"]) == (value, value, "" if value is None else f"{value:.4f}")
    assert row.isna()["score"] if value is None else row["score"] == value
    assert (line.text, line.n, line.requested) == (table, covered, 24)
    scored = 0 if make is answered else covered
    assert (shown["n"], row["scored"], exported["scored"]) == (scored, scored, str(scored))
    assert (shown["cut_off"], row["cut_off"], line.cut_off, exported["cut_off"]) == (3, 3, 3, "3")
    assert LIMIT in shown["remarks"]
    assert LIMIT in row["remarks"]
    assert LIMIT in line.note
    assert LIMIT in exported["remarks"]
    assert (shown["interval"] is not None) == interval
    if interval:
        assert (row["interval_low"], line.low) == (shown["interval"][0], shown["interval"][0])
        assert float(exported["interval_low"]) == pytest.approx(shown["interval"][0], abs=1e-4)
    else:
        assert row.isna()["interval_low"]
        assert (line.low, exported["interval_low"]) == (None, "")
    assert shown["why_not"].startswith(why)
    assert line.note.startswith(why)
    assert shown["why_not"] == row["why_not"] == exported["why_not"]


def test_what_is_incomplete_though_every_sample_has_a_score_is_said_to_be_so(tmp_path, capsys):
    running(tmp_path)
    assert main(["show", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "0.7500*" in said
    assert "d: the run has not finished" in said
    assert "* incomplete: over fewer samples than were to be scored, or of a run whose end is not on record." in said
