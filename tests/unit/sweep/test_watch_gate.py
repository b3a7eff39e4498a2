"""The gate of a watched training: levels, looks that are kept, and the command."""

import json
import sys

import made_up_run
import numpy as np
import pytest

from evalscope_evalflow.config.watch_settings import WatchGate
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.sweep.watching.watch_gate import FILE, GateKeeper, level_of_look

N = 60


def test_the_levels_of_all_looks_add_up_to_the_whole():
    assert level_of_look(1, 0.05) == pytest.approx(0.0304, abs=1e-4)
    assert sum(level_of_look(k, 0.05) for k in range(1, 100_000)) == pytest.approx(0.05, abs=1e-5)


def false_stops(levels, trainings=1000, questions=300, seed=7):
    """The share of trainings, none of them worse than the baseline, that are stopped within so many looks.

    Each training's looks share one baseline, so they depend on each other, as real ones do.
    """
    from scipy.special import stdtr

    random = np.random.default_rng(seed)
    stopped = 0
    for _ in range(trainings):
        difficulty = random.beta(2, 2, questions)
        baseline = random.random(questions) < difficulty
        tuned = random.random((len(levels), questions), dtype=np.float32) < difficulty
        differences = tuned.astype(np.float32) - baseline
        means = differences.mean(axis=1)
        errors = differences.std(axis=1, ddof=1) / np.sqrt(questions)
        p = 2 * stdtr(questions - 1, -np.abs(means / errors))
        stopped += bool(((p < levels) & (means < 0)).any())
    return stopped / trainings


def test_at_most_five_percent_of_good_trainings_are_stopped_within_200_looks():
    looks = np.arange(1, 201)
    assert false_stops(np.array([level_of_look(int(k), 0.05) for k in looks])) <= 0.05
    assert false_stops(np.full(200, 0.05), trainings=200) > 0.2  # which is what it is for


@pytest.fixture
def work(tmp_path):
    made_up_run.run(tmp_path / "base", [1.0] * N, "base")
    made_up_run.run(tmp_path / "good", [1.0] * N, "good")
    made_up_run.run(tmp_path / "bad", [0.0] * (N // 2) + [1.0] * (N // 2), "bad")
    return tmp_path


@pytest.fixture
def script(tmp_path):
    """A program that writes down its arguments, and ends with what `code` says."""
    path = tmp_path / "stop.py"
    path.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\nhere = pathlib.Path(__file__).parent\n"
        "with (here / 'called').open('a') as file:\n    print(json.dumps(sys.argv[1:]), file=file)\n"
        "sys.exit(int((here / 'code').read_text()) if (here / 'code').exists() else 0)\n"
    )
    path.chmod(0o755)
    return path


def calls(work):
    path = work / "called"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keeper(work, script, said=None, **settings):
    said = [] if said is None else said
    gate = WatchGate(baseline="base", command=[str(script), "$(rm -rf x); --now"], **settings)
    return GateKeeper(gate, work, ["base"], said.append, said.append)


def test_one_that_falls_below_the_baseline_has_the_command_called_without_a_shell(work, script):
    said = []
    gate = keeper(work, script, said)
    assert not gate.stops("good", "1")
    assert calls(work) == []
    assert gate.stops("bad", "2")
    assert calls(work) == [["$(rm -rf x); --now", "bad"]]
    assert any("bad: blocked (look 2, tested at a level of 0.0076)" in line for line in said)
    looks = json.loads((work / FILE).read_text())["looks"]
    assert [(look["model"], look["number"], look["called"]) for look in looks] == [("good", 1, False), ("bad", 2, True)]


def test_looks_are_counted_across_restarts_and_none_is_made_twice(work, script):
    assert keeper(work, script).stops("bad", "1")
    again = keeper(work, script)
    assert not again.stops("bad", "1")
    assert again.has_looked_at("bad", "1")
    assert len(calls(work)) == 1
    assert again.stops("bad", "written again")
    assert json.loads((work / FILE).read_text())["looks"][1]["level"] == level_of_look(2, 0.05)


def test_a_command_that_fails_stops_nothing_and_is_called_again(work, script):
    (work / "code").write_text("3")
    said = []
    gate = keeper(work, script, said)
    assert not gate.stops("bad", "1")
    assert not gate.has_looked_at("bad", "1")
    assert any("failed with exit code 3; watching goes on" in line for line in said)
    (work / "code").write_text("0")
    assert gate.stops("bad", "1")
    assert len(json.loads((work / FILE).read_text())["looks"]) == 1


def test_nothing_is_looked_at_before_the_baseline_has_scores(work, script):
    made_up_run.record(work / "base", "base", "running")
    gate = keeper(work, script)
    assert not gate.stops("bad", "1")
    assert not gate.has_looked_at("bad", "1")
    assert not (work / FILE).exists()


def test_a_policy_says_how_far_it_may_fall(work, script, tmp_path):
    policy = tmp_path / "gate.yaml"
    policy.write_text("supporting: {d: {max_drop: 0.6}}\n")
    assert not keeper(work, script, policy=str(policy)).stops("bad", "1")
    policy.write_text("supporting: {d: {max_drop: 0.4}}\n")
    (work / FILE).unlink()
    assert keeper(work, script, policy=str(policy)).stops("bad", "1")


def test_what_is_wrong_is_said_before_anything_starts(work, script):
    with pytest.raises(ConfigError) as caught:
        GateKeeper(WatchGate(baseline="bse", command=["/no/such"]), work, ["base"], print, print)
    assert "'bse' is neither a model of the task nor a run folder" in str(caught.value)
    assert "/no/such is no program that can be called" in str(caught.value)
    with pytest.raises(ConfigError, match="no shell is used"):
        WatchGate(baseline="base", command="scancel 1234")
    (work / FILE).write_text("{")
    with pytest.raises(ConfigError, match="counts the looks"):
        keeper(work, script)
