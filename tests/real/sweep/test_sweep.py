"""Several models at once: scripted engines and llama.cpp, with real workers, on two slots."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from fault_run import orphans_come_here, wait_for
from judge_server import JudgeServer

from evalscope_evalflow.processes import registry

pytestmark = pytest.mark.real
SCRIPTED = Path(__file__).parents[2] / "scripted"
BIN = Path(sys.executable).parent
GONE_WITHIN_S = 5.0
ITEMS = 8


@pytest.fixture(autouse=True)
def _nobody_is_overlooked() -> Iterator[None]:
    with orphans_come_here():
        yield


class Sweep:
    """A task of several models, and what its folders say of it."""

    def __init__(self, stock_task: dict[str, Any], folder: Path) -> None:
        self.stock, self.folder, self.work = stock_task, folder, Path(stock_task["work_dir"])
        self.env = {**os.environ, "PYTHONPATH": str(SCRIPTED)}

    def write(self, models: dict[str, list[str]], slots: str = "0,1", **changes: Any) -> Path:
        """A task file; `models`: how each one's scripted server behaves."""
        section = {
            "backend": "Native",
            "models": [
                {"name": name, "path": "any", "deploy": {"extra_args": script}} for name, script in models.items()
            ],
            "deploy": {"engine": "scripted", "devices": slots, "tensor_parallel": 1},
            **changes.pop("flow", {}),
        }
        path = self.folder / "task.yaml"
        path.write_text(yaml.safe_dump({**self.stock, **changes, "evalflow": section}))
        return path

    def start(self, file: Path) -> subprocess.Popen[str]:
        return subprocess.Popen([BIN / "evalflow", "run", file], stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                                text=True, env=self.env)  # fmt: skip

    def run(self, file: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        process = self.start(file)
        out, err = process.communicate(timeout=250)
        assert process.returncode == code, err
        return subprocess.CompletedProcess([], process.returncode, out, err)

    def record(self, model: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.work / model / "evalflow" / "run.json").read_text())
        return found

    def events(self, model: str) -> list[dict[str, Any]]:
        path = self.work / model / "evalflow" / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def answers(self, model: str) -> dict[int, str]:
        rows = [
            json.loads(line)
            for path in (self.work / model).glob(f"predictions/{model}/*.jsonl")
            for line in path.read_text().splitlines()
        ]
        assert len({row["index"] for row in rows}) == len(rows)  # nothing was asked twice
        return {row["index"]: row["model_output"]["choices"][0]["message"]["content"] for row in rows}

    def evaluates(self, *models: str) -> bool:
        """Whether each of these has saved an answer, and not all."""
        return all(0 < self.saved(model) < ITEMS for model in models)

    def saved(self, model: str) -> int:
        files = (self.work / model).glob(f"predictions/{model}/*.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in files)


@pytest.fixture
def a_sweep(stock_task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path / "runtime"))  # `stop --all` is for these runs alone
    return Sweep(stock_task, tmp_path)


def kill_within(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Strike, and see to it that nothing is left."""
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(below, timeout=GONE_WITHIN_S)
    assert [other.cmdline() for other in alive if other.status() != psutil.STATUS_ZOMBIE] == []


def test_models_share_two_slots_and_one_that_fails_fails_alone(a_sweep: Sweep) -> None:
    slow = ["--answer-seconds", "0.2"]
    file = a_sweep.write({"a": slow, "bad": ["--exit-after-start", "7"], "b": slow, "c": slow})
    done = a_sweep.run(file, code=1)
    assert [a_sweep.record(name)["state"] for name in ("a", "bad", "b", "c")] == [
        "complete",
        "failed",
        "complete",
        "complete",
    ]
    assert "bad: scripted stopped while it was starting (exit code 7" in done.stderr
    assert "4 of 4 models finished" in done.stderr
    for name in ("a", "b", "c"):
        line = next(line for line in done.stdout.splitlines() if f"│ {name} " in line)
        assert f"{ITEMS}/{ITEMS}" in line
    assert "failed" in next(line for line in done.stdout.splitlines() if "│ bad" in line)

    # No slot had two engines at once, and there were two engines at once.
    held: dict[str, list[tuple[float, float]]] = {}
    for name in ("a", "b", "c"):
        times = {
            (event["event"], event["phase"]): datetime.fromisoformat(event["time"]).timestamp()
            for event in a_sweep.events(name)
            if "phase" in event
        }
        slot = a_sweep.record(name)["task"]["evalflow"]["models"][0]["deploy"]["devices"]
        held.setdefault(slot, []).append((times["PhaseBegan", "load"], times["PhaseEnded", "release"]))
    assert sorted(held) == ["0", "1"]
    for spans in held.values():
        spans.sort()
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
    (first, *_), (second, *_) = held["0"], held["1"]
    assert first[0] < second[1]
    assert second[0] < first[1]

    # What is missing is done, and no more.
    before = {name: (a_sweep.work / name / "evalflow" / "engine.log").stat().st_size for name in ("a", "b", "c")}
    file = a_sweep.write({"a": slow, "bad": slow, "b": slow, "c": slow})
    done = a_sweep.run(file)
    assert a_sweep.record("bad")["state"] == "complete"
    assert done.stderr.count("nothing is left to do; nothing was started") == 3
    assert before == {
        name: (a_sweep.work / name / "evalflow" / "engine.log").stat().st_size for name in ("a", "b", "c")
    }
    assert len(a_sweep.answers("bad")) == ITEMS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_struck_in_the_middle_nothing_is_left_and_the_rest_is_done_later(
    a_sweep: Sweep, number: signal.Signals
) -> None:
    slow, fast = ["--answer-seconds", "2"], ["--answer-seconds", "0.1"]  # so that none ends by itself meanwhile
    process = a_sweep.start(a_sweep.write({"a": slow, "b": slow, "c": slow}))
    wait_for(lambda: a_sweep.evaluates("a", "b"), "two models are evaluated at once", 200)
    kill_within(process, number)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    saved = {name: a_sweep.answers(name) for name in ("a", "b")}
    assert not a_sweep.events("c")
    if number == signal.SIGINT:
        assert [a_sweep.record(name)["state"] for name in ("a", "b")] == ["interrupted"] * 2
    a_sweep.run(a_sweep.write({"a": fast, "b": fast, "c": fast}))
    for name in ("a", "b", "c"):
        answers = a_sweep.answers(name)
        assert len(answers) == ITEMS
        assert answers.items() >= saved.get(name, {}).items()


def test_one_is_stopped_and_then_all(a_sweep: Sweep) -> None:
    slow = ["--answer-seconds", "4"]  # so that none ends by itself meanwhile
    process = a_sweep.start(a_sweep.write({"a": slow, "b": slow, "c": slow, "d": slow}))
    wait_for(lambda: a_sweep.evaluates("a", "b"), "two models are evaluated at once", 100)
    assert subprocess.run([BIN / "evalflow", "stop", "a"], env=a_sweep.env, check=False).returncode == 0
    wait_for(lambda: any(entry.model == "c" for entry in registry.entries()), "the next one has its slot", 30)
    assert a_sweep.record("a")["state"] == "interrupted"
    assert process.poll() is None
    assert subprocess.run([BIN / "evalflow", "stop", "--all"], env=a_sweep.env, check=False).returncode == 0
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert not a_sweep.events("d")
    assert registry.entries() == []


def test_a_judge_is_never_asked_more_at_once_than_it_takes(a_sweep: Sweep) -> None:
    """Two models are judged at the same time, and share what the judge gives."""
    with JudgeServer() as judge:
        pause = wait_briefly(0.3)
        judge.reply = lambda number: (pause(), '{"verdict": "A"}')[1]
        models = {"model_id": "judge", "api_url": judge.url, "api_key": "none"}
        file = a_sweep.write(
            {"a": [], "b": []}, flow={"judge_max_num_seqs": 4}, judge={"models": [models], "strategy": "llm"},
            eval_batch_size=8,
        )  # fmt: skip
        a_sweep.run(file)
        assert len(judge.asked) == 2 * ITEMS
        assert 1 < judge.most_at_once <= 4


def test_a_folder_in_use_is_told_before_anything_is_started(a_sweep: Sweep) -> None:
    file = a_sweep.write({"a": ["--answer-seconds", "1"], "b": ["--answer-seconds", "1"]})
    process = a_sweep.start(file)
    wait_for(lambda: a_sweep.saved("b"), "it evaluates", 100)
    second = a_sweep.run(file, code=2)
    assert f"{a_sweep.work / 'a'} is in use by another run: {a_sweep.record('a')['run_id']}" in second.stderr
    kill_within(process, signal.SIGINT)


def test_llamacpp_on_two_slots(a_sweep: Sweep, gguf: Path) -> None:
    """Three models, which are one, give the same answers, whoever runs beside them."""
    models = [{"name": name, "path": str(gguf)} for name in ("x", "y", "z")]
    file = a_sweep.write({}, flow={"models": models, "deploy": {"devices": "0,1", "max_model_len": 1024}}, limit=2)
    a_sweep.run(file)
    answers = [a_sweep.answers(name) for name in ("x", "y", "z")]
    assert len(answers[0]) == 2
    assert answers[0] == answers[1] == answers[2]


def wait_briefly(seconds: float) -> Callable[[], None]:
    import threading

    return lambda: threading.Event().wait(seconds) and None
