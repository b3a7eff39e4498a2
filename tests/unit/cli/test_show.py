"""`evalflow show`."""

import json
import re
import subprocess
import sys

import made_up_run as made
import pytest

from evalscope_evalflow.cli import main
from evalscope_evalflow.state.costs import Cost, ModelCost


@pytest.fixture
def sweep(tmp_path):
    made.run(tmp_path / "a", [1, 0, 1, 1], model="a")
    made.run(tmp_path / "b", [0, 0, 1, 0], model="b")
    made.record(tmp_path / "a", "a", results={
        "d": made.result(0.75, 4, interval=[0.3, 0.95], few_groups=True, n_groups=4),
    })  # fmt: skip
    return tmp_path


def show(capsys, *args, columns=60, code=0):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        assert main(["show", *map(str, args)]) == code
    said = capsys.readouterr()
    text = said.err if code else said.out
    assert code or all(len(line.rstrip()) <= columns for line in text.splitlines())
    return text


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_scores_with_intervals(sweep, capsys, columns):
    lines = [line.split() for line in show(capsys, sweep, columns=columns).splitlines()]
    assert ["0.7500", "~0.300–0.950", "4/4"] in [line[-3:] for line in lines]
    assert ["0.2500", "4/4"] in [line[-2:] for line in lines]
    assert ["Metric:", "accuracy."] in lines


def test_a_single_run_says_what_it_is(sweep, capsys):
    made.record(sweep / "b", "b", state="died", engine="vllm", versions={"vllm": "0.19"}, results={})
    text = show(capsys, sweep / "b")
    assert text.startswith("b: was killed before its end, vllm 0.19, 2026-01-01 00:00\n")
    assert "0.2500*" in text
    assert "* incomplete: " in text
    assert "d: the run was killed before its end" in text


def test_only_answered(tmp_path, capsys):
    made.lines(tmp_path / "predictions" / "m" / "d_s.jsonl", [made.answer(0)])
    task = {"datasets": ["d"], "evalflow": {"backend": "Native", "mode": "infer"}}
    made.record(tmp_path, task=task)
    text = show(capsys, tmp_path)
    assert "only answered (mode: infer)" in text
    assert "not judged" in text


def test_wrong_samples_one_below_the_other(sweep, capsys):
    text = show(capsys, sweep, "--wrong", "--models", "a")
    assert [" ".join(line.split()) for line in text.splitlines() if line.strip()] == [
        "d / s 1 score 0", "asked question 1", "answer said 1", "extracted A", "right target 1", "1 of 4 samples.",
    ]  # fmt: skip


def test_the_judges_verdict_and_its_reason(tmp_path, capsys):
    made.run(tmp_path, [1, 1])
    made.lines(
        tmp_path / "reviews" / "m" / "d_s.jsonl", [made.judged(0, "B", "It is [bold]wrong[/bold]."), made.unjudged(1)]
    )
    wrong = show(capsys, tmp_path, "--wrong")
    assert "judge      B" in wrong
    assert "why        It is [bold]wrong[/bold]." in wrong
    unjudged = show(capsys, tmp_path, "--not_judged")
    assert "d / s 1  not judged" in unjudged
    assert "why        server error: judge down" in unjudged


def test_failed_and_cut_off(tmp_path, capsys):
    made.run(tmp_path, [1, 1])
    made.lines(
        tmp_path / "evalflow" / "failures.jsonl",
        [{"dataset": "d", "subset": "s", "sample": 2, "kind": "timeout", "transient": True, "message": "slow"}],
    )
    made.lines(
        tmp_path / "evalflow" / "answer_kinds.jsonl",
        [{"dataset": "d", "subset": "s", "sample": "0", "kinds": ["cut_off"]}],
    )
    text = show(capsys, tmp_path, "--failed", "--cut_off")
    assert "d / s 0  score 1, cut off" in text
    assert "d / s 2  no answer" in text
    assert "failure  timeout: slow" in text
    assert "2 of 3 samples." in text


def test_as_many_as_wanted_of_every_run(sweep, capsys):
    text = show(capsys, sweep, "-n", 3)
    assert [line.split()[0] for line in text.splitlines() if " / d / s " in line] == ["a", "a", "b"]
    assert "3 of 8 samples shown; -n 8 shows all." in text


def test_long_texts_are_shortened_unless_asked_for(tmp_path, capsys):
    made.lines(tmp_path / "predictions" / "m" / "d_s.jsonl", [made.answer(0, "long " * 1000)])
    made.record(tmp_path)
    assert "characters, see --full" in " ".join(show(capsys, tmp_path, "--samples").split())
    assert len(show(capsys, tmp_path, "--full")) > 5000


def test_json(sweep, capsys):
    found = json.loads(show(capsys, sweep, "--json", "--wrong", columns=9999))
    assert (found["schema"], found["exit_code"], len(found["runs"])) == ("evalflow.show/1", 0, 2)
    assert found["runs"][0]["scores"][0]["interval"] == [0.3, 0.95]
    assert {row["run"] for row in found["samples"]} == {"a", "b"}
    assert (found["samples_matching"], found["samples_in_all"]) == (4, 8)


def test_what_it_cost(sweep, capsys):
    cost = Cost(input_tokens=45, output_tokens=41, held_s=100.0, loading_s=30.0, answering_s=70.0, gpu_s=200.0)
    for name in ("a", "b"):
        made.record(sweep / name, name, cost=ModelCost(cost, {"d": cost}).as_record(), results={})
    said = "45 tokens in, 41 out; 200 GPU-seconds (30% loading, 70% answering, 0% idle)"
    assert f"Cost: {said}" in show(capsys, sweep / "a", columns=120)
    text = show(capsys, sweep, columns=120)
    assert f"b: cost {said}" in text
    assert "All: cost 90 tokens in, 82 out; 400 GPU-seconds" in text
    found = json.loads(show(capsys, sweep, "--json", columns=9999))["runs"][0]["cost"]
    assert (found["gpu_s"], found["cells"]["d"]["output_tokens"]) == (200.0, 41)


def test_into_a_file(sweep, tmp_path, capsys):
    assert show(capsys, sweep, "--output", tmp_path / "scores.txt") == ""
    assert "0.7500" in (tmp_path / "scores.txt").read_text()
    assert "cannot be written" in show(capsys, sweep, "--output", tmp_path / "no" / "x", code=2)


@pytest.mark.parametrize(("args", "said"), [
    (["--models", "aa"], "--models: no run of 'aa' is there"),
    (["--datasets", "dd"], "--datasets: no run has 'dd'\n    Did you mean 'd'?"),
    (["--models", "zzz"], "is there\n    Known: a, b"),
    (["-n", "0"], "-n: must be 1 or more"),
])  # fmt: skip
def test_what_is_not_there(sweep, capsys, args, said):
    assert said in show(capsys, sweep, *args, code=2)


def test_a_folder_that_is_none(tmp_path, capsys):
    assert "no run folder is in" in show(capsys, tmp_path, code=2)


def test_nothing_is_imported_that_reading_does_not_need(sweep):
    code = (
        "import sys; from evalscope_evalflow.cli import main; main(['show', sys.argv[1]]); "
        "main(['show', sys.argv[1], '--wrong']); "
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(sweep)], capture_output=True, text=True, check=True)
    slow = {"pandas", "scipy", "matplotlib", "evalscope", "pydantic", "tenacity"}
    assert slow.isdisjoint(done.stdout.splitlines()[-1].split())


def test_a_long_name_is_folded_before_a_number_is_cut(tmp_path, capsys):
    name = "a_dataset_with_a_rather_long_name_indeed"
    score = made.result(0.75, 1319, interval=[0.72, 0.78], unjudged=3, failed=12, cut_off=140, empty=11, complete=False)
    made.record(tmp_path, task={"datasets": [name], "evalflow": {"backend": "Native"}}, results={name: score})
    lines = [line.split() for line in show(capsys, tmp_path).splitlines()]
    (row,) = [line for line in lines if "0.7500*" in line]
    assert row[-3:] == ["0.7500*", "0.720–0.780", "1319/1319"]
    assert "failed 12, not judged 3, cut off 140, no text 11" in " ".join(" ".join(line) for line in lines)
    (row,) = [line.split() for line in show(capsys, tmp_path, columns=80).splitlines() if "0.7500*" in line]
    assert row[-6:] == ["0.720–0.780", "1319/1319", "12", "3", "140", "11"]


def test_an_export_leaves_the_sweeps_own_files_as_they_are(sweep, tmp_path, capsys):
    (sweep / "scores.csv").write_text("the sweep's")
    (sweep / "summary.json").write_text("{}")
    assert main(["show", str(sweep), "--models", "a", "--export", "csv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    files = [str(sweep / "exports" / name) for name in ("samples.csv", "scores.csv")]
    assert (found["schema"], found["exported"]["files"], found["exported"]["failed"]) == ("evalflow.show/1", files, [])
    assert main(["show", str(sweep), "--export", "csv", "--output", str(tmp_path / "exp")]) == 0
    assert "\nb,d," in (tmp_path / "exp" / "scores.csv").read_text()
    assert "\nb,d," not in (sweep / "exports" / "scores.csv").read_text()
    for target in (sweep, sweep / "a", sweep / "a" / "reports"):
        said = show(capsys, sweep, "--export", "csv", "--output", target, code=2)
        assert "holds files of runs, and an export would replace some" in said
        assert str(sweep / "exports") in said
    assert (sweep / "scores.csv").read_text() == "the sweep's"


@pytest.mark.parametrize(("args", "said"), [
    (["--export", "csv", "--samples", "-n", "3"], "--export: does not go with --samples, -n"),
    (["--export", "csv", "--format", "html"], "--export: does not go with --format"),
    (["--browser", "--json"], "--browser: does not go with"),
    (["--json", "--format", "html"], "--json: does not go with --format html"),
])  # fmt: skip
def test_flags_that_one_of_would_be_left_out(sweep, capsys, args, said):
    capsys.readouterr()
    assert main(["show", str(sweep), *args]) == 2
    assert said in capsys.readouterr().err
    assert not (sweep / "exports").exists()


def test_the_files_ending_says_the_format(sweep, tmp_path, capsys):
    show(capsys, sweep, "--output", tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())["schema"] == "evalflow.show/1"
    show(capsys, sweep, "--output", tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text().startswith("<!DOCTYPE html>")
    show(capsys, sweep, "--format", "table", "--output", tmp_path / "y.json")
    assert (tmp_path / "y.json").read_text().lstrip().startswith("95 %")


def test_answers_whose_files_are_gone(sweep, capsys):
    for kind in ("predictions", "reviews"):
        for path in (sweep / "a" / kind).rglob("*.jsonl"):
            path.unlink()
    said = "the files of these answers are no longer there: a score is left, and no samples"
    assert f"a / d: {said}" in show(capsys, sweep, columns=120)
    assert f"a: {said}" in show(capsys, sweep, "--samples", columns=120)
    assert f"b: {said}" not in show(capsys, sweep, "--samples", columns=120)
    runs = json.loads(show(capsys, sweep, "--json", columns=9999))["runs"]
    assert [run["files_gone"] for run in runs] == [True, False]


def test_no_number_is_cut_where_a_line_is_too_short(sweep, capsys):
    text = show(capsys, sweep, columns=32)
    assert "a / d\n  score: 0.7500\n  95 % interval: ~0.300–0.950\n  samples: 4/4\n" in text


@pytest.mark.parametrize(
    ("scores", "direction", "value_range", "wrong"),
    [
        ([3, 10, 10, 3], "higher_is_better", {"min": 0, "max": 10}, 2),
        ([9, 8, 9, 7], "higher_is_better", {"min": 0, "max": 10}, 4),
        ([3, 10, 9, 10], "higher_is_better", None, 2),
        ([0.0, 0.0, 1.2, 2.0], "lower_is_better", None, 2),
        ([0.0, 0.5, 1.0, 0.0], "lower_is_better", {"min": 0, "max": 1}, 2),
        ([1, 0, 1, 1], "higher_is_better", {"min": 0, "max": 1}, 1),
    ],
)
def test_what_is_wrong_goes_by_the_metrics_scale_at_every_door(tmp_path, capsys, scores, direction, value_range, wrong):
    made.run(tmp_path, scores)
    identity = {"name": "accuracy", "aggregation": "mean", "dimensions": {}}
    said = {"kind": "quality", "direction": direction, "value_range": value_range}
    metrics = [{"identity": identity, "num": 4, "score": 1, "semantics": said}]
    made.report(tmp_path, "m", "d", sum(scores) / 4, 4, metrics=metrics)
    made.record(tmp_path, results={"d": made.result(sum(scores) / 4, 4)})
    assert json.loads(show(capsys, tmp_path, "--json", "--wrong", columns=9999))["samples_matching"] == wrong
    page = tmp_path / "page.html"
    assert main(["show", str(tmp_path), "--output", str(page)]) == 0
    data = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.S)[1])
    is_ = data["columns"].index("is")
    assert sum("wrong" in row[is_] for row in data["rows"]) == wrong
