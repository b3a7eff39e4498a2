"""Run folders are found and read with no task file."""

import json
from pathlib import Path

import made_up_run as made
import pytest

from evalscope_evalflow.cli import main
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.results.run_folder_problems import NewerRunSkipped
from evalscope_evalflow.results.run_folders import find_runs

OLD = Path(__file__).parents[2] / "run_folders_0_1"


def test_a_single_run(tmp_path):
    made.run(tmp_path, [1, 0, 1, 1])
    (run,) = find_runs(tmp_path)
    assert (run.model, run.name, run.state, run.backend, run.datasets) == ("m", "m", "complete", "Native", ["d"])
    score = run.scores["d"]
    assert (score.value, score.n, score.metric, score.complete, score.run_id) == (0.75, 4, "accuracy", True, "run-1")


def test_a_sweep_in_the_order_of_its_numbers(tmp_path):
    for name in ("step-10", "step-9", "base"):
        made.run(tmp_path / name, [1], model=name)
    assert [run.name for run in find_runs(tmp_path)] == ["base", "step-9", "step-10"]


def test_all_below_outputs_have_names_of_their_own(tmp_path):
    for sweep in ("one", "two"):
        made.run(tmp_path / sweep / "m", [1])
    made.run(tmp_path / "three", [1], model="other")
    assert [run.name for run in find_runs(tmp_path)] == ["one/m", "other", "two/m"]


def test_results_of_earlier_runs_in_the_folder_stand(tmp_path):
    made.run(tmp_path, [1])
    earlier = {**made.result(0.5, 2), "run_id": "run-0", "ended": "2025-12-31T00:00:00+00:00"}
    made.record(tmp_path, results={"d": made.result(1.0, 1)}, earlier_results={"e": earlier})
    scores = find_runs(tmp_path)[0].scores
    assert [(name, score.value, score.run_id) for name, score in scores.items()] == [
        ("d", 1.0, "run-1"), ("e", 0.5, "run-0"),
    ]  # fmt: skip


@pytest.mark.parametrize(("state", "why"), [
    ("failed", "the run ended as failed, and wrote no result"),
    ("running", "the run has not finished"),
])  # fmt: skip
def test_an_unfinished_run_shows_what_there_is(tmp_path, state, why):
    made.lines(tmp_path / "predictions" / "m" / "d_s.jsonl", [made.answer(0), made.answer(1)])
    made.record(tmp_path, state=state, host="another-machine")
    cells = {"schema": 2, "datasets": {"d": {"requested": 9}}}
    (tmp_path / "evalflow" / "cells.json").write_text(json.dumps(cells))
    score = find_runs(tmp_path)[0].scores["d"]
    assert (score.value, score.answered, score.requested, score.complete) == (None, 2, 9, False)
    assert score.why_not.startswith(why)


def test_a_killed_run_keeps_the_report_of_the_run_before(tmp_path):
    made.run(tmp_path, [1, 0])
    record = json.loads((tmp_path / "evalflow" / "run.json").read_text())
    del record["results"]
    record["state"] = "died"
    (tmp_path / "evalflow" / "run.json").write_text(json.dumps(record))
    score = find_runs(tmp_path)[0].scores["d"]
    assert (score.value, score.complete, score.why_not) == (0.5, False, "the run was killed before its end")


def test_a_torn_record_is_no_end(tmp_path):
    made.run(tmp_path, [1, 0])
    (tmp_path / "evalflow" / "cells.json").write_text(json.dumps({"schema": 2, "datasets": {"d": {}}}))
    (tmp_path / "evalflow" / "run.json").write_text('{"run_id": "x", "sta')
    (run,) = find_runs(tmp_path)
    assert (run.state, run.model, run.scores["d"].value) == ("unknown", "m", 0.5)


@pytest.mark.parametrize(
    "name", ["complete", "failed", "interrupted", "judged", "vlmevalkit", "vlmevalkit_interrupted"]
)
def test_folders_of_0_1(name):
    (run,) = find_runs(OLD / name)
    results = run.record.get("results") or {}
    for dataset, score in run.scores.items():
        known = next(iter(results.get(dataset, {}).get("metrics", {}).values()), None)
        assert score.value == known
        assert score.complete == (run.state == "complete")
        assert score.complete or score.why_not


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "outputs").mkdir()
    with pytest.raises(ConfigError, match=r"no run folder is in .*outputs"):
        find_runs(tmp_path / "outputs")
    with pytest.raises(ConfigError, match=r"output does not exist\n.*Did you mean 'outputs'"):
        find_runs(tmp_path / "output")
    (tmp_path / "task.yaml").touch()
    with pytest.raises(ConfigError, match=r"task.yaml is a file, not a folder"):
        find_runs(tmp_path / "task.yaml")


def test_a_part_of_a_run_folder_names_it(tmp_path):
    made.run(tmp_path, [1])
    with pytest.raises(ConfigError, match=rf"is a part of a run folder\n *Give {tmp_path}"):
        find_runs(tmp_path / "predictions")


def test_a_folder_of_evalscopes_own(tmp_path):
    (tmp_path / "reports").mkdir()
    with pytest.raises(ConfigError, match="by EvalScope without EvalFlow"):
        find_runs(tmp_path)


def test_a_run_of_a_newer_version(tmp_path):
    made.record(tmp_path, schema=99, versions={"evalscope-evalflow": "9.0"})
    with pytest.raises(ConfigError, match=r"schema 99, .* a newer version \(9.0\) wrote it\n *Upgrade"):
        find_runs(tmp_path)


def test_a_run_of_a_newer_version_is_left_out_beside_others(tmp_path):
    made.run(tmp_path / "a", [1], model="a")
    made.run(tmp_path / "b", [1], model="b")
    made.record(tmp_path / "b", "b", schema=99, versions={"evalscope-evalflow": "9.0"})
    with pytest.warns(NewerRunSkipped, match=r"/b is left out: its record has schema 99.*\(9\.0\) wrote it\. Upgrade"):
        found = find_runs(tmp_path)
    assert [run.name for run in found] == ["a"]


@pytest.mark.parametrize(
    ("file", "place", "value"),
    [
        ("cells.json", ("datasets", "d", "predictions"), 1),
        ("cells.json", ("datasets", "d", "requested"), "x"),
        ("cells.json", ("datasets", "d", "verdicts"), [1]),
        ("cells.json", ("datasets", "d", "batches"), {}),
        ("cells.json", ("datasets",), [1]),
        ("run.json", ("results", "d", "notes"), 5),
        ("run.json", ("results", "d", "remarks"), "text"),
        ("run.json", ("results", "d", "score", "interval"), ["a", 1]),
        ("run.json", ("results", "d", "score", "n_groups"), "many"),
        ("run.json", ("results", "d", "metrics"), 3),
        ("run.json", ("earlier_results",), [1]),
    ],
)
def test_what_is_damaged_counts_as_unknown_at_every_door(tmp_path, capsys, file, place, value):
    for name in ("a", "b"):
        made.run(tmp_path / name, [1, 0, 1, 1, 0, 1, 1, 0], model=name)
        made.record(tmp_path / name, name, results={"d": made.result(0.625, 8)})
        (tmp_path / name / "evalflow" / "cells.json").write_text('{"schema": 2, "datasets": {"d": {"requested": 8}}}')
    path = tmp_path / "b" / "evalflow" / file
    data = found = json.loads(path.read_text())
    for step in place[:-1]:
        found = found[step]
    found[place[-1]] = value
    path.write_text(json.dumps(data))
    for words in (["show"], ["show", "--samples"], ["compare", "--baseline", "a"]):
        assert main([words[0], str(tmp_path), *words[1:]]) == 0, capsys.readouterr().err
    assert "a" in capsys.readouterr().out


def test_a_backend_that_is_not_installed_is_told_with_the_folder(tmp_path):
    made.run(tmp_path, [1])
    made.record(tmp_path, task={"datasets": ["d"], "evalflow": {"backend": "Flashcards"}})
    (run,) = find_runs(tmp_path)
    with pytest.raises(ConfigError, match=rf"{tmp_path}: Flashcards has evaluated it: .*\n *Install the package"):
        run.load_backend()
