"""A sweep of checkpoints that differ in their weights alone: one engine answers with one's after another's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoints
import leftovers
import psutil
import pytest
import yaml
from fault_run import orphans_come_here
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from evalscope_evalflow.processes import registry

pytestmark = pytest.mark.real
SCRIPTED = Path(__file__).parents[2] / "scripted"
EVALFLOW = Path(sys.executable).parent / "evalflow"
CONFIG = checkpoints.dense(64, 1, 4, 2, 128, vocab_size=64, tie_word_embeddings=True)
FAMILY = ("step-1", "step-2", "step-3")
ITEMS = 2


def test_one_engine_for_all(stock_task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path / "runtime"))
    models = []
    for name in (*FAMILY, "long"):
        config = {**CONFIG, "max_position_embeddings": 65536} if name == "long" else CONFIG
        folder = checkpoints.write_random(tmp_path / name, config, list(checkpoints.tensors(config)))
        models.append({"name": name, "path": str(folder)})
    deploy = {"engine": "scripted-swap", "devices": "0", "extra_args": ["--answer", "ANSWER: A of {weights}"]}
    section = {"backend": "Native", "models": models, "deploy": deploy}
    file = tmp_path / "task.yaml"

    def write() -> None:
        file.write_text(yaml.safe_dump({**stock_task, "limit": ITEMS, "evalflow": section}))

    write()
    said = _evalflow("check", file)
    assert "step-2 and step-3 take step-1's engine: their weights alone differ" in said
    assert "long cannot: max_position_embeddings differs" in said
    models.pop()
    write()
    with orphans_come_here():
        said = _evalflow("run", file)
    for before, name in (("step-1", "step-2"), ("step-2", "step-3")):
        assert f"{name}: scripted-swap goes on from {before} with these weights" in said

    work = Path(stock_task["work_dir"])
    records = {name: json.loads((work / name / "evalflow" / "run.json").read_text()) for name in FAMILY}
    for name, record in records.items():
        fingerprint = checkpoints.weights_hash(tmp_path / name)
        assert record["state"] == "complete"
        assert _answers(work / name, name) == [f"ANSWER: A of {fingerprint}"] * ITEMS
        assert record["weights"]["fingerprint"] == fingerprint
        assert record["weights"]["checkpoint"] == str(tmp_path / name)
    assert [records[name]["weights"]["took_from"] for name in FAMILY] == ["", "step-1", "step-2"]
    assert {records[name]["reused"]["run_id"] for name in FAMILY[1:]} == {records["step-1"]["run_id"]}
    starts = {name: (work / name / "evalflow" / "engine.log").read_text().count("listening on") for name in records}
    assert starts == {"step-1": 1, "step-2": 0, "step-3": 0}
    assert records["step-3"]["release"]["released"] is True
    assert registry.entries() == []

    # Nobody but the owner had the control key, and nothing of it is left.
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if re.search(rb"\bec-[\w-]{30,}", path.read_bytes())]


def _evalflow(*words: str | Path) -> str:
    """What a command says, on both of its outputs."""
    env = {**os.environ, "PYTHONPATH": str(SCRIPTED), "COLUMNS": "300"}
    done = subprocess.run([EVALFLOW, *words], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def _answers(folder: Path, model: str) -> list[str]:
    rows = [
        json.loads(line)
        for path in folder.glob(f"predictions/{model}/*.jsonl")
        for line in path.read_text().splitlines()
    ]
    return [row["model_output"]["choices"][0]["message"]["content"] for row in rows]


@pytest.mark.parametrize("victim", ["engine", "engine's guard", "worker", "worker's guard", "owner"])
def test_killed_while_weights_are_replaced(
    victim: str, stock_task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left, no answer is of other weights, and the same command does what is missing."""
    monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path / "runtime"))
    paths = [
        checkpoints.write_random(tmp_path / name, CONFIG, list(checkpoints.tensors(CONFIG))) for name in FAMILY[:2]
    ]
    arguments = ["--answer", "ANSWER: A of {weights}", "--swap-seconds", "2"]
    deploy = {"engine": "scripted-swap", "devices": "0", "extra_args": arguments}
    section = {"backend": "Native", "models": [str(path) for path in paths], "deploy": deploy}
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump({**stock_task, "limit": ITEMS, "evalflow": section}))
    work = Path(stock_task["work_dir"])
    command = [EVALFLOW, "run", file]
    env = {**leftovers.marked(tmp_path), "PYTHONPATH": str(SCRIPTED), "COLUMNS": "300"}
    with orphans_come_here():
        run = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        log = work / "step-1" / "evalflow" / "engine.log"
        wait = Retrying(
            retry=retry_if_result(lambda found: not found), stop=stop_after_delay(60), wait=wait_fixed(0.05)
        )
        wait(lambda: log.exists() and "swapping" in log.read_text())
        wait(lambda: _victim(run.pid, victim)).kill()
        _, said = run.communicate(timeout=120)
        left = Retrying(retry=retry_if_result(bool), stop=stop_after_delay(20), wait=wait_fixed(0.1))
        left(lambda: leftovers.left_of(tmp_path))
        goes_on = victim.startswith("engine")
        assert ("could not take step-2's weights" in said) is goes_on, said
        assert run.returncode == {"owner": -9}.get(victim, 0 if goes_on else 1), said
        if not goes_on:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
    for path in paths:
        fingerprint = checkpoints.weights_hash(path)
        assert _answers(work / path.name, path.name) == [f"ANSWER: A of {fingerprint}"] * ITEMS
        record = json.loads((work / path.name / "evalflow" / "run.json").read_text())
        assert record["state"] == "complete"
        assert record.get("weights", {}).get("fingerprint", fingerprint) == fingerprint  # none of an engine of its own
    assert leftovers.left_of(tmp_path) == []


def _victim(owner: int, victim: str) -> psutil.Process | None:
    """A process of a run: the owner, its engine, its second model's worker, or a guard of one; None: not yet there."""
    process = psutil.Process(owner)
    if victim == "owner":
        return process
    word = str(SCRIPTED) if victim.startswith("engine") else "evalscope_evalflow/worker"
    guards = [child for child in process.children() if any(word in part for part in child.cmdline())]
    guard = max(guards, key=psutil.Process.create_time)
    if victim.endswith("guard"):
        return guard
    return next((child for child in guard.children() if any(word in part for part in child.cmdline())), None)
