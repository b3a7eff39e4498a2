"""Run folders that version 0.1 wrote are read and resumed: what is done is not done again, and what is missing is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from judge_server import JudgeServer
from old_run_folders import model_of_the_runs, unpack
from vlm_runs import UNCLEAR, serve

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def model(gguf, tmp_path_factory):
    """The GGUF file, with the time that it had for those runs."""
    return model_of_the_runs(gguf, tmp_path_factory.mktemp("model"))


def evalflow(command: str, task: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "evalscope_evalflow", command, str(task)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=task.parent,
        env={**os.environ, **variables},
    )


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a run folder but the diary, which has a line more after each look."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("events.jsonl", "run.lock")
    }


def events(folder: Path) -> list[str]:
    lines = (folder / "evalflow" / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def rows(folder: Path, pattern: str) -> list[str]:
    return [line for path in sorted(folder.glob(pattern)) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("name", "code"), [("complete", 0), ("judged", 0), ("failed", 3)])
def test_what_is_done_stays_as_it_is(name, code, model, tmp_path):
    task = unpack(name, tmp_path / name, model)
    work = tmp_path / name / "work"
    before = files(work)
    checked = evalflow("check", task)
    assert checked.returncode == 0, checked.stderr
    assert "done" in checked.stdout
    done = evalflow("run", task)
    assert done.returncode == code, done.stderr
    assert "nothing is left to do; nothing was started" in done.stderr
    assert "was not written down" in done.stderr
    # What 0.1 did not write down counts as it is now, and is told once.
    after = files(work)
    assert {name for name in after if after[name] != before.get(name)} == {"evalflow/cells.json"}
    assert "max_model_len" in json.loads(after["evalflow/cells.json"])["datasets"]["general_qa"]["assumed"]
    assert events(work)[-1] == "NothingLeft"
    again = evalflow("run", task)
    assert "was not written down" not in again.stderr
    assert files(work) == after


def test_an_interrupted_run_asks_only_for_what_is_missing(model, tmp_path):
    task = unpack("interrupted", tmp_path / "run", model)
    work = tmp_path / "run" / "work"
    before = rows(work, "predictions/*/*.jsonl")
    done = evalflow("run", task)
    assert done.returncode == 0, done.stderr
    after = rows(work, "predictions/*/*.jsonl")
    assert [row for row in after if row in before] == before
    assert len(after) == 10
    again = files(work)
    assert "nothing was started" in evalflow("run", task).stderr
    assert files(work) == again
    assert json.loads((work / "evalflow" / "cells.json").read_text())["schema"] == 2


def test_a_model_of_a_sweep_that_is_only_answered_is_judged_without_an_engine(model, tmp_path):
    task = unpack("sweep", tmp_path / "run", model)
    alpha, beta = tmp_path / "run" / "work" / "alpha", tmp_path / "run" / "work" / "beta"
    before = files(alpha)
    answers = rows(beta, "predictions/*/*.jsonl")
    done = evalflow("run", task)
    assert done.returncode == 0, done.stderr
    unchanged = {name: text for name, text in files(alpha).items() if name != "evalflow/cells.json"}
    assert unchanged == {name: text for name, text in before.items() if name != "evalflow/cells.json"}
    assert rows(beta, "predictions/*/*.jsonl") == answers
    assert "EngineStarting" not in events(beta)
    assert list(beta.glob("reports/*/*.json"))


def test_a_verdict_that_is_missing_is_asked_of_the_judge_alone(model, tmp_path):
    with JudgeServer() as judge:
        task = unpack("judged", tmp_path / "run", model, judge=judge.url)
        (reviews,) = (tmp_path / "run" / "work").glob("reviews/*/*.jsonl")
        *kept, _ = reviews.read_text().splitlines(keepends=True)
        reviews.write_text("".join(kept))
        done = evalflow("run", task)
        assert done.returncode == 0, done.stderr
        assert len(judge.asked) == 1
    assert len(reviews.read_text().splitlines()) == len(kept) + 1
    assert "EngineStarting" not in events(tmp_path / "run" / "work")


def test_what_failed_permanently_is_not_asked_again(model, tmp_path):
    task = unpack("failed", tmp_path / "run", model)
    work = tmp_path / "run" / "work"
    failures = (work / "evalflow" / "failures.jsonl").read_text()
    (predictions,) = work.glob("predictions/*/*.jsonl")
    *kept, _ = predictions.read_text().splitlines(keepends=True)
    predictions.write_text("".join(kept))
    done = evalflow("run", task)
    assert done.returncode == 3, done.stderr
    assert len(predictions.read_text().splitlines()) == len(kept) + 1
    again = (work / "evalflow" / "failures.jsonl").read_text().removeprefix(failures)
    assert all(json.loads(line)["message"].startswith("not asked again") for line in again.splitlines())


def test_answers_to_another_task_are_refused_with_the_difference(model, tmp_path):
    task = unpack("complete", tmp_path / "run", model)
    text = task.read_text()
    assert "temperature: 0.0" in text
    task.write_text(text.replace("temperature: 0.0", "temperature: 0.5"))
    done = evalflow("run", task)
    assert done.returncode == 2
    assert "generation_config.temperature was 0.0 and is 0.5" in done.stderr


def test_a_folder_of_vlmevalkits_is_done_and_scored_again_from_its_verdicts(vlmeval_env, tmp_path):
    task = unpack("vlmevalkit", tmp_path / "run", vlmeval=str(vlmeval_env))
    work, variables = tmp_path / "run" / "work", {"LMUData": str(tmp_path / "run" / "data")}
    before = files(work)
    done = evalflow("run", task, **variables)
    assert done.returncode == 0, done.stderr
    assert "nothing was started" in done.stderr
    after = files(work)
    assert {name for name in after if after[name] != before.get(name)} == {"evalflow/cells.json"}
    shutil.rmtree(work / "reports")
    done = evalflow("run", task, **variables)
    assert done.returncode == 0, done.stderr
    assert list(work.glob("reports/*/shapes.json"))


def test_an_interrupted_run_of_vlmevalkits_asks_only_for_what_is_missing(vlmeval_env, tmp_path):
    with serve(tmp_path, "m.o-1", "", "--answer", UNCLEAR) as api, JudgeServer() as judge:
        judge.reply = lambda _: "A"
        task = unpack(
            "vlmevalkit_interrupted", tmp_path / "run", judge=judge.url, api=api.url, vlmeval=str(vlmeval_env)
        )
        work, variables = tmp_path / "run" / "work", {"LMUData": str(tmp_path / "run" / "data")}
        checked = evalflow("check", task, **variables)
        assert checked.returncode == 0, checked.stderr
        assert "shapes: answered, 8 answers" in checked.stdout
        assert "LogicVista: started, 2 answers" in checked.stdout
        api.forget()
        done = evalflow("run", task, **variables)
        assert done.returncode == 0, done.stderr
        assert (len(api.prompts), len(judge.asked)) == (1 + 3, 13), "one to see that it works, and what was missing"
        again = files(work)
        assert "nothing was started" in evalflow("run", task, **variables).stderr
        assert files(work) == again
    assert json.loads((work / "evalflow" / "cells.json").read_text())["schema"] == 2
