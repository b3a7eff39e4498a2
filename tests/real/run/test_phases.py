"""Predict, release, judge: on the scripted engine, with a judge that watches."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import doors
import psutil
import pytest
import yaml
from judge_server import JudgeServer

pytestmark = pytest.mark.real
SCRIPTED = Path(__file__).parents[2] / "scripted"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _well(judge: JudgeServer) -> None:
    judge.asked.clear()
    judge.reply = lambda number: json.dumps({"verdict": "A" if number % 2 else "B"})
    judge.most_at_once = 0


@pytest.fixture
def run(stock_task: dict[str, Any], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the task in `tmp_path/work`; `flow` and `deploy` are settings of the section.

    Whatever the scores are, the table, the record and EvalScope's dashboard have the same.
    """

    def start(
        code: int = 0, mode: str = "all", script: tuple[str, ...] = (), command: str = "run", **changes: Any
    ) -> subprocess.CompletedProcess[str]:
        flow = {"backend": "Native", "mode": mode, **changes.pop("flow", {})}
        flow["deploy"] = {"engine": "scripted", "extra_args": list(script), **changes.pop("deploy", {})}
        task = {**stock_task, "model": "any/path", "model_id": "m", **changes, "evalflow": flow}
        file = tmp_path / "task.yaml"
        file.write_text(yaml.safe_dump(task))
        done = subprocess.run(
            [BIN / "evalflow", command, file], capture_output=True, text=True, timeout=200, check=False,
            env={**os.environ, "PYTHONPATH": str(SCRIPTED)},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        if command == "run" and mode != "infer" and code in (0, 3):
            work = tmp_path / "work"
            shown, recorded = doors.table(done.stdout), doors.run_json(work)
            assert shown == recorded
            assert doors.dashboard(work) == {name: score for name, score in shown.items() if score is not None}
        return done

    return start


def record(work: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "evalflow" / "run.json").read_text())
    return found


def report(work: Path) -> dict[str, Any]:
    """What a report says of scores and of what they stand on."""
    found = json.loads((work / "reports" / "m" / "general_mcq.json").read_text())
    return {name: found[name] for name in ("metrics", "execution_summary", "judge_summary")}


def answers(work: Path) -> list[str]:
    rows = [json.loads(line) for path in work.glob("predictions/m/*.jsonl") for line in path.read_text().splitlines()]
    return [
        row["model_output"]["choices"][0]["message"]["content"] for row in sorted(rows, key=lambda row: row["index"])
    ]


def events(work: Path) -> list[str]:
    lines = (work / "evalflow" / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def engine_started(work: Path) -> bool:
    return "command" in record(work)


def test_the_engine_is_gone_before_the_judge_is_asked_about_more_than_one_answer(
    run: Callable[..., Any], judge: JudgeServer, tmp_path: Path
) -> None:
    """Seen from the judge's side; and its slowness costs the engine nothing. The one answer is not judged twice."""
    work = tmp_path / "work"
    seen: list[tuple[bool, list[str]]] = []

    def look(number: int) -> str:
        if number == 1:
            assert "AnswersSaved" not in events(work), "others are still being answered"
        if number == 2:
            assert "AnswersSaved" in events(work)
            command = record(work)["command"]
            port = int(command[command.index("--port") + 1])
            with socket.socket() as probe:
                taken = probe.connect_ex(("127.0.0.1", port)) == 0
            alive = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
            seen.append((taken, [line for line in alive if "scripted_server" in line and f"--port {port}" in line]))
        time.sleep(0.5)
        return '{"verdict": "A"}'

    judge.reply = look
    script = ("--answer-seconds", "0.3")
    run(judge=judge.settings, eval_batch_size=1, flow={"judge_max_num_seqs": 2}, script=script)
    assert seen == [(False, [])]
    assert len(judge.asked) == 8
    assert judge.most_at_once == 2
    found = record(work)
    assert list(found["phases_s"]) == ["load", "infer", "release", "judge"]
    assert found["phases_s"]["judge"] >= 2
    without = found["phases_s"]["load"] + found["phases_s"]["infer"] + found["phases_s"]["release"]
    assert found["engine_held_s"] <= without + 0.5
    assert found["results"]["general_mcq"]["judged"] == 8


def test_a_judge_that_nobody_understands_is_told_of_while_the_model_answers(
    run: Callable[..., Any], judge: JudgeServer, tmp_path: Path
) -> None:
    judge.reply = lambda _: "B"
    done = run(code=3, judge=judge.settings, eval_batch_size=1, script=("--answer-seconds", "0.3"))
    why = """e.g. 'B'; expected a JSON object with "verdict\""""
    ahead = (
        "general_mcq: the judge was asked about one answer ahead, and gave no verdict: the judge's reply could not be"
    )
    assert f"{ahead} parsed for 1 of 1 answers, {why}" in " ".join(done.stderr.split())
    happened = events(tmp_path / "work")
    assert happened.index("JudgeProbed") < happened.index("AnswersSaved")
    assert f"the judge's reply could not be parsed for 8 of 8 answers, {why}" in " ".join(done.stdout.split())
    assert len(judge.asked) == 8, "what it said ahead is what it says"
    found = record(tmp_path / "work")["results"]["general_mcq"]["score"]
    assert (found["value"], found["judged"], found["unjudged"]) == (None, 0, 8)


def test_the_worker_gets_ready_while_the_engine_loads(run: Callable[..., Any], tmp_path: Path) -> None:
    """The run begins the moment that both are there, and the record says what share of the one the other hid."""
    run(mode="infer", script=("--load-seconds", "10"))
    lines = (tmp_path / "work" / "evalflow" / "events.jsonl").read_text().splitlines()
    when: dict[str, datetime] = {}
    for event in map(json.loads, lines):
        when[f"{event['event']} {event.get('phase', '')}".strip()] = datetime.fromisoformat(event["time"])
    engine, worker = when["PhaseEnded load"], when["WorkerWaiting"]
    assert when["PhaseBegan load"] <= when["WorkerImported"] <= worker
    assert (when["WorkerAsking"] - max(engine, worker)).total_seconds() < 3  # 0.05 on an idle machine
    found = record(tmp_path / "work")["overlap"]
    assert found["engine_ready_s"] >= 10
    took, hidden = ((moment - when["PhaseBegan load"]).total_seconds() for moment in (worker, engine))
    assert found["worker_ready_s"] == pytest.approx(took, abs=1)
    assert found["share"] == pytest.approx(min(1, hidden / took), abs=0.05)


def test_infer_today_and_judge_tomorrow(run: Callable[..., Any], judge: JudgeServer, tmp_path: Path) -> None:
    """With a judge that nobody had thought of; the results are those of one go."""
    work = tmp_path / "work"
    run(judge=judge.settings)
    whole = report(work)
    work.rename(tmp_path / "whole")
    judge.asked.clear()

    locked = {**judge.settings["models"][0], "api_key": "${A_KEY_THAT_IS_NOT_HERE}"}
    done = run(mode="infer", judge={**judge.settings, "models": [locked]})
    assert "not judged" in done.stdout
    assert "8/8" in done.stdout
    assert not (work / "reports").exists() or not list((work / "reports").rglob("*.json"))
    assert record(work)["state"] == "complete"
    assert judge.asked == []
    assert answers(work) == answers(tmp_path / "whole")

    run(mode="judge", judge=judge.settings)
    assert not engine_started(work)
    assert record(work)["phases"] == ["judge"]
    assert report(work) == whole
    assert len(judge.asked) == 8

    judge.asked.clear()
    before = record(work)
    done = run(judge=judge.settings)
    assert "nothing is left to do; nothing was started" in done.stderr
    assert "8/8" in done.stdout
    assert judge.asked == []
    assert record(work) == before, "it says how these results were made"
    assert events(work)[-2:] == ["RunFinished", "NothingLeft"]
    assert report(work) == whole


def test_a_rerun_judges_only_what_has_no_verdict(run: Callable[..., Any], judge: JudgeServer, tmp_path: Path) -> None:
    """The judge goes down in the middle: what it judged is kept, the rest is marked, and made good later."""
    work = tmp_path / "work"
    run(judge=judge.settings)
    whole = report(work)
    shutil.rmtree(work)
    judge.asked.clear()

    verdict = judge.reply
    judge.reply = lambda number: verdict(number) if number <= 3 else 503
    deploy = {"stall_timeout_s": 5}
    done = run(code=3, judge=judge.settings, flow={"judge_max_num_seqs": 1}, deploy=deploy)
    assert f"the judge at {judge.url} fails a request (503: the judge is unwell)" in done.stderr
    assert "(incomplete)" in done.stdout
    assert "3/8" in done.stdout
    assert doors.table(done.stdout) == {"general_mcq": 0.6667}, "the judge's own figure: A, B and A"
    assert [metric["num"] for metric in report(work)["metrics"]] == [3]
    assert report(work)["execution_summary"] | {"succeeded": 3, "errored": 5} == report(work)["execution_summary"]
    assert (
        record(work)["results"]["general_mcq"] | {"judged": 3, "fallbacks": 5} == record(work)["results"]["general_mcq"]
    )
    assert record(work)["state"] == "incomplete"

    before = len(judge.asked)
    judge.reply = lambda number: verdict(number - before + 3)
    done = run(judge=judge.settings, flow={"judge_max_num_seqs": 1})
    assert len(judge.asked) - before == 5
    assert not engine_started(work)
    assert "5 verdicts on general_mcq were not the judge's own" in done.stderr
    assert report(work) == whole
    assert record(work)["state"] == "complete"


def scores(reviews: str) -> dict[int, Any]:
    """The score of each sample in a review file."""
    return {row["index"]: row["sample_score"]["score"] for row in map(json.loads, reviews.splitlines())}


def test_a_judge_that_nobody_can_read_gives_no_score(
    run: Callable[..., Any], judge: JudgeServer, tmp_path: Path
) -> None:
    """EvalScope would score each sample by a rule; the rule's figure is nowhere, and what the judge said is kept."""
    work = tmp_path / "work"
    judge.reply = lambda _: "B"
    done = run(code=3, judge=judge.settings)
    assert doors.table(done.stdout) == {"general_mcq": None}
    assert "0/8" in done.stdout
    assert list((work / "reports").rglob("*.json")) == []
    kept = json.loads((work / "evalflow" / "kept" / "reports" / "m" / "general_mcq.json").read_text())
    assert (kept["metrics"], kept["judge_summary"]["scored"], kept["judge_summary"]["total"]) == ([], 0, 8)
    reviews = [
        json.loads(line) for line in (work / "reviews" / "m" / "general_mcq_tiny.jsonl").read_text().splitlines()
    ]
    assert all(row["sample_score"]["score"]["value"] == {} for row in reviews)


def test_another_judge_judges_anew_and_the_old_verdicts_are_kept_and_used_when_it_is_back(
    run: Callable[..., Any], judge: JudgeServer, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    run(judge=judge.settings)
    before = (work / "reviews" / "m" / "general_mcq_tiny.jsonl").read_text()
    judge.asked.clear()
    wrong = {**judge.settings, "models": [{**judge.settings["models"][0], "system_prompt": "Be strict."}]}
    assert "judge.models.0.system_prompt: unknown key" in run(code=2, judge=wrong).stderr
    settings = {**judge.settings, "contract": {"system_prompt": "Be strict."}}
    done = run(judge=settings)
    assert "another judge; earlier verdicts on general_mcq are kept" in done.stderr
    assert not engine_started(work)
    assert len(judge.asked) == 8
    judge.asked.clear()
    run(judge=judge.settings)
    assert not judge.asked, "the first judge is back, and its verdicts are still there"
    after = (work / "reviews" / "m" / "general_mcq_tiny.jsonl").read_text()
    assert [scores(text) for text in (before, after)] == [scores(before)] * 2


def test_answers_that_failed_for_a_moment_are_asked_again_with_their_verdicts(
    run: Callable[..., Any], judge: JudgeServer, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    run(judge=judge.settings)
    whole = report(work)
    shutil.rmtree(work)
    judge.asked.clear()
    generation = {"max_tokens": 6, "temperature": 0.0, "retries": 0}
    run(code=3, script=("--fail-prompt", "river=500"), judge=judge.settings, generation_config=generation)
    lost = record(work)["results"]["general_mcq"]["failed"]
    assert lost == record(work)["results"]["general_mcq"]["failures"]["server_error"] > 0
    assert len(judge.asked) == 8 - lost
    run(judge=judge.settings, generation_config=generation)
    assert engine_started(work)
    assert len(judge.asked) == 8
    assert report(work)["execution_summary"] == whole["execution_summary"]
    assert record(work)["state"] == "complete"


def test_what_failed_permanently_starts_no_engine(run: Callable[..., Any], tmp_path: Path) -> None:
    work = tmp_path / "work"
    run(code=3, script=("--fail-prompt", "river=400"))
    before = record(work)
    done = run(code=3, script=("--fail-prompt", "river=400"))
    assert "nothing was started" in done.stderr
    assert "(incomplete)" in done.stdout
    assert "request refused (permanent)" in done.stdout
    assert record(work) == before, "it says how these results were made"
    assert events(work)[-2:] == ["RunFinished", "NothingLeft"]


def test_a_smaller_limit_starts_no_engine(run: Callable[..., Any], tmp_path: Path) -> None:
    work = tmp_path / "work"
    run()
    before = answers(work)
    done = run(limit=2)
    assert "6 saved answers not used, as their samples are not chosen now" in done.stderr
    assert not engine_started(work)
    assert record(work)["results"]["general_mcq"]["succeeded"] == 2
    assert len(answers(work)) < len(before)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"generation_config": {"max_tokens": 7, "temperature": 0.0}}, "generation_config.max_tokens was 6 and is 7"),
        ({"seed": 3}, "seed was not set and is 3"),
    ],
    ids=["generation", "seed"],
)
def test_answers_to_another_task_are_refused_and_kept(
    run: Callable[..., Any], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    work = tmp_path / "work"
    run()
    before = answers(work)
    done = run(code=2, **changes)
    assert says in done.stderr
    assert "reuse: false" in done.stderr
    assert answers(work) == before
    assert "done, 8 answers are saved" in run(command="check").stdout
    done = run(flow={"reuse": False}, **changes)
    assert "earlier results are kept in" in done.stderr
    assert len(list(work.glob("evalflow/kept/*/predictions/m/general_mcq_tiny.jsonl"))) == 1
    assert len(answers(work)) == changes.get("limit", 8)


def test_nothing_to_judge_is_told_at_once(run: Callable[..., Any], judge: JudgeServer) -> None:
    done = run(code=2, mode="judge", judge=judge.settings)
    assert "there is nothing to judge" in done.stderr
    assert "mode: infer" in done.stderr


def test_the_judge_is_asked_before_any_engine_is_started(run: Callable[..., Any], tmp_path: Path) -> None:
    gone = {"strategy": "llm", "models": [{"model_id": "judge", "api_url": "http://127.0.0.1:9/v1", "api_key": "k"}]}
    done = run(code=2, judge=gone)
    assert "judge.models.0" in done.stderr
    assert "cannot be reached" in done.stderr
    assert not (tmp_path / "work" / "evalflow").exists()
    run(mode="infer", judge=gone)  # nobody asks it today


def test_a_killed_judging_goes_on_where_it_was(run: Callable[..., Any], judge: JudgeServer, tmp_path: Path) -> None:
    work = tmp_path / "work"

    def die(number: int) -> str:
        if number == 4:
            found = record(work)
            os.kill(found["pid"], 9)
        return '{"verdict": "A"}'

    judge.reply = die
    run(code=-9, judge=judge.settings, flow={"judge_max_num_seqs": 1})
    judge.reply = lambda _: '{"verdict": "A"}'
    judge.asked.clear()
    run(judge=judge.settings)
    assert not engine_started(work)
    assert len(judge.asked) in (5, 6)  # the one that was on its way may be saved, or not
    assert record(work)["state"] == "complete"


def test_urls_of_both_forms_are_the_same_judge(run: Callable[..., Any], judge: JudgeServer, tmp_path: Path) -> None:
    run(judge=judge.settings)
    assert urlsplit(judge.url).path == "/v1"
    whole = {**judge.settings, "models": [{**judge.settings["models"][0], "api_url": judge.url + "/chat/completions"}]}
    assert "nothing was started" in run(judge=whole).stderr
    shutil.rmtree(tmp_path / "work" / "reviews")
    judge.asked.clear()
    run(judge=whole)
    assert len(judge.asked) == 8


def test_a_dataset_that_fails_fails_alone(run: Callable[..., Any], stock_task: dict[str, Any], tmp_path: Path) -> None:
    """Its rows lack a column that only the benchmark's own code asks for; the others are answered and scored, and once
    the rows have it, only it is asked.
    """
    data = tmp_path / "sums"
    data.mkdir()
    row = {"question": "What is 2 + 2?"}
    (data / "test.jsonl").write_text(json.dumps(row) + "\n")
    settings = {"gsm8k": {"local_path": str(data), "subset_list": ["default"], "few_shot_num": 0}}
    changes = {
        "datasets": ["gsm8k", "general_mcq"],
        "dataset_args": {**stock_task["dataset_args"], **settings},
    }
    done = run(code=3, **changes)
    assert "m: gsm8k failed: row 1 of its data: it has no 'answer'" in done.stderr
    assert next(line for line in done.stdout.splitlines() if "│ general_mcq" in line).count("8/8") == 1
    assert "m / gsm8k: it was ended by " in done.stdout
    assert record(tmp_path / "work")["state"] == "incomplete"
    (data / "test.jsonl").write_text(json.dumps({**row, "answer": "2 + 2 = 4\n#### 4"}) + "\n")
    done = run(**changes)
    assert "it was ended by" not in done.stdout
    assert len(answers(tmp_path / "work")) == 9
