"""A judge of one's own: deployed once for all models, when they leave room; restarted; gone at the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from fault_run import orphans_come_here, wait_for

from evalscope_evalflow.processes import registry

pytestmark = pytest.mark.real
SCRIPTED = Path(__file__).parents[2] / "scripted"
BIN = Path(sys.executable).parent
ITEMS = 8
VERDICT = '{"verdict": "A"}'


@pytest.fixture(autouse=True)
def _nobody_is_overlooked() -> Iterator[None]:
    with orphans_come_here():
        yield


class Judged:
    """A task whose judge is the scripted engine."""

    def __init__(self, stock_task: dict[str, Any], folder: Path) -> None:
        self.stock, self.folder, self.work = stock_task, folder, Path(stock_task["work_dir"])
        self.journal = folder / "judge.jsonl"
        self.env = {**os.environ, "PYTHONPATH": str(SCRIPTED)}

    def write(self, models: list[str], script: tuple[str, ...] = (), slots: str = "0", **flow: Any) -> Path:
        answer = ["--answer", VERDICT, "--journal", str(self.journal), *script]
        section = {
            "backend": "Native",
            "models": [{"name": name, "path": "any"} for name in models],
            "judge": {"name": "boss", "path": "any", "deploy": {"extra_args": answer}},
            "deploy": {"engine": "scripted", "devices": slots, "tensor_parallel": 1},
            **flow,
        }
        path = self.folder / "task.yaml"
        path.write_text(yaml.safe_dump({**self.stock, "judge": {"strategy": "llm"}, "evalflow": section}))
        return path

    def start(self, file: Path) -> subprocess.Popen[str]:
        return subprocess.Popen([BIN / "evalflow", "run", file], stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                                text=True, env=self.env)  # fmt: skip

    def run(self, file: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        process = self.start(file)
        out, err = process.communicate(timeout=250)
        assert process.returncode == code, err
        return subprocess.CompletedProcess([], process.returncode, out, err)

    def asked(self) -> int:
        """Requests for verdicts that the judge was sent."""
        if not self.journal.exists():
            return 0
        rows = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return sum(row["path"].endswith("chat/completions") for row in rows)

    def result(self, model: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.work / model / "evalflow" / "run.json").read_text())
        return found


@pytest.fixture
def judged(stock_task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judged:
    monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path / "runtime"))
    return Judged(stock_task, tmp_path)


def test_one_judge_for_two_models_on_one_device_after_their_answers_and_it_is_gone(judged: Judged) -> None:
    done = judged.run(judged.write(["a", "b"]))
    assert done.stderr.count("judge boss: starting scripted") == 1
    assert "judge boss: scripted and all it started are gone" in done.stderr
    last = max(done.stderr.index(f"{name}: scripted and all it started are gone") for name in ("a", "b"))
    assert last < done.stderr.index("judge boss: starting")
    assert 2 * ITEMS <= judged.asked() <= 2 * ITEMS + 1, "and one that waits for readiness"
    for name in ("a", "b"):
        found = judged.result(name)
        assert found["state"] == "complete"
        score = found["results"]["general_mcq"]["score"]
        assert (score["value"], score["judged"]) == (1.0, ITEMS)
        assert found["judge"]["name"] == "boss"
    assert registry.entries() == []
    command = "".join(path.read_text() for path in judged.work.rglob("*.yaml"))
    assert "127.0.0.1" not in command, "the judge's address is in no file of EvalScope's"

    before = judged.asked()
    done = judged.run(judged.write(["a", "b"]))
    assert "judge boss: starting" not in done.stderr
    assert judged.asked() == before

    # Another judge, by its engine's settings: it judges everything anew; no model is started.
    done = judged.run(judged.write(["a", "b"], ("--answer-prompt", 'x y z={"verdict": "B"}')))
    assert done.stderr.count("another judge; earlier verdicts") == 2
    assert "a: starting" not in done.stderr
    assert judged.asked() - before >= 2 * ITEMS


def test_a_judge_that_is_evaluated_too_goes_on_with_that_models_engine(judged: Judged) -> None:
    """With one device, its own answers come last, and the engine is started once for both."""
    file = judged.write(["boss", "b"])
    task = yaml.safe_load(file.read_text())
    section = task["evalflow"]
    # No journal: it is a file among the settings, and changes, so that the engine would be another one.
    section["models"][0]["deploy"] = section["judge"]["deploy"] = {"extra_args": ["--answer", VERDICT]}
    file.write_text(yaml.safe_dump(task))
    plan = subprocess.run([BIN / "evalflow", "check", file], capture_output=True, text=True, env=judged.env, check=True)
    assert "with boss's engine" in plan.stdout
    done = judged.run(file)
    assert re.findall(r"s  (b|boss): starting scripted", done.stderr) == ["b", "boss"], done.stderr
    assert "judge boss: goes on with a model's scripted" in done.stderr
    assert "judge boss: starting" not in done.stderr
    assert "judge boss: scripted and all it started are gone" in done.stderr
    for name in ("boss", "b"):
        assert judged.result(name)["results"]["general_mcq"]["score"]["judged"] == ITEMS
    assert registry.entries() == []


def test_a_judge_that_dies_in_mid_judging_is_started_again_and_keeps_what_it_said(judged: Judged) -> None:
    file = judged.write(["a"], ("--die-after-requests", "6"), judge_max_num_seqs=1)
    done = judged.run(file)
    assert "judge boss: starting it again (1 of 2)" in done.stderr
    assert judged.result("a")["results"]["general_mcq"]["score"]["judged"] == ITEMS
    assert registry.entries() == []


def test_infer_today_and_own_judge_tomorrow(judged: Judged) -> None:
    done = judged.run(judged.write(["a"], mode="infer"))
    assert "judge boss" not in done.stderr
    done = judged.run(judged.write(["a"], mode="judge"))
    assert "a: starting" not in done.stderr
    assert judged.result("a")["results"]["general_mcq"]["score"]["judged"] == ITEMS


def test_struck_while_it_judges_nothing_is_left(judged: Judged) -> None:
    process = judged.start(judged.write(["a"], ("--answer-seconds", "5"), judge_max_num_seqs=1))
    wait_for(lambda: judged.asked() >= 2, "it judges", 100)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    _, alive = psutil.wait_procs(below, timeout=5)
    assert [other.cmdline() for other in alive if other.status() != psutil.STATUS_ZOMBIE] == []


def test_llamacpp_judges(judged: Judged, gguf: Path) -> None:
    """Its verdicts cannot be read; that it was asked, and released, is what is shown."""
    file = judged.write(["a"])
    task = yaml.safe_load(file.read_text())
    deploy = {"engine": "llamacpp", "max_model_len": 2048}
    task["evalflow"]["judge"] = {"path": str(gguf), "generation_config": {"max_tokens": 4}, "deploy": deploy}
    file.write_text(yaml.safe_dump({**task, "limit": 2}))
    done = judged.run(file, code=3)
    assert "llamacpp and all it started are gone" in done.stderr
    assert judged.result("a")["results"]["general_mcq"]["score"]["unjudged"] == 2
    assert registry.entries() == []
