"""`evalflow run` on a real Ray cluster: the scores of the executor `local`, and everything killed in mid-run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from fault_run import orphans_come_here
from ray_cluster import TwoNodes, actor_processes, wait_gone, wait_until

pytestmark = pytest.mark.cluster
BIN = Path(sys.executable).parent
SCRIPTED = Path(__file__).parents[2] / "scripted"
KEY = "sk-never-to-be-on-a-node"
ITEMS = 8


@pytest.fixture(autouse=True)
def _nobody_is_overlooked() -> Iterator[None]:
    with orphans_come_here():
        yield


class Task:
    """A task of several models, each the same, and what its folder says of them."""

    def __init__(self, stock: Mapping[str, Any], folder: Path, models: str, **section: Any) -> None:
        self._file = folder / "task.yaml"
        self._environment = {**os.environ, "PYTHONPATH": str(SCRIPTED), "JUDGE_KEY": KEY}
        self.work = folder / "work"
        self.models = models
        path = section.pop("path")
        listed = [{"name": model, "path": path} for model in models]
        task = {**stock, "work_dir": str(self.work), "eval_backend": "evalflow"}
        folder.mkdir()
        self._file.write_text(yaml.safe_dump({**task, "evalflow": {"backend": "Native", "models": listed, **section}}))

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BIN / "evalflow", "run", self._file],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self._environment,
        )  # fmt: skip

    def run(self) -> str:
        process = self.start()
        out, _ = process.communicate(timeout=400)
        assert process.returncode == 0, out
        return out

    def answers(self, model: str) -> dict[int, str]:
        files = (self.work / model).glob(f"predictions/{model}/*.jsonl")
        rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
        assert len({row["index"] for row in rows}) == len(rows)  # nothing was answered twice
        return {row["index"]: row["model_output"]["choices"][0]["message"]["content"] for row in rows}

    def saved(self, model: str) -> int:
        files = (self.work / model).glob(f"predictions/{model}/*.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in files)

    def score(self, model: str) -> dict[str, Any]:
        """The score with what it covers, as the record has it."""
        record = json.loads((self.work / model / "evalflow" / "run.json").read_text())
        found: dict[str, Any] = record["results"]["general_mcq"]["score"]
        return found


def holders_of(key: str) -> list[list[str]]:
    """Commands of processes that have a key in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if key in process.environ().values():
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return found


def test_the_scores_are_those_of_the_executor_local(
    stock_task: dict[str, Any], ray_nodes: TwoNodes, tmp_path: Path, gguf: Path
) -> None:
    # With as many threads as cores in each of them, engines that share a machine wait for each other for minutes.
    section: dict[str, Any] = {"path": str(gguf), "deploy": {"max_model_len": 1024, "extra_args": ["--threads", "1"]}}
    ray = {"name": "ray", "address": ray_nodes.address, "pass_env": ["EVALFLOW_RUNTIME_DIR"]}
    there = Task(stock_task, tmp_path / "there", "abc", executor=ray, **section)
    there.run()
    here = Task(stock_task, tmp_path / "here", "a", **section)
    here.run()
    for model in there.models:
        assert there.answers(model) == here.answers("a")
        assert len(there.answers(model)) == ITEMS
        assert there.score(model) == here.score("a")
    wait_gone(there.work)
    assert actor_processes() == []


def test_driver_worker_and_raylet_are_killed_and_nothing_is_left_lost_or_answered_twice(
    stock_task: dict[str, Any], ray_nodes: TwoNodes, tmp_path: Path
) -> None:
    """The command is killed, and its jobs go on; then they are killed, too, and the same command does what is left."""
    ray = {"name": "ray", "address": ray_nodes.address, "pass_env": ["EVALFLOW_RUNTIME_DIR", "PYTHONPATH"]}
    deploy = {"engine": "scripted", "devices": "0,1", "tensor_parallel": 2, "extra_args": ["--answer-seconds", "1"]}
    task = Task(stock_task, tmp_path / "task", "abc", path="any", executor=ray, deploy=deploy)
    driver = task.start()
    wait_until(lambda: sum(task.saved(model) > 0 for model in "abc") == 2, "two of three are being answered", 150)
    before = {model: task.saved(model) for model in "abc"}
    driver.kill()
    driver.communicate()
    wait_until(lambda: any(task.saved(model) > count + 1 for model, count in before.items()), "jobs go on", 60)
    assert holders_of(KEY) == []  # but for the command's own, and it is dead
    on_second, others = [], []
    for process in actor_processes():
        (on_second if process.ppid() == ray_nodes.second_raylet else others).append(process)
    assert (len(on_second), len(others)) == (1, 1)
    others[0].kill()
    ray_nodes.kill_raylet()
    wait_until(lambda: len(actor_processes()) <= 1, "both are lost", 60)
    out = task.run()
    for model in "abc":
        assert len(task.answers(model)) == ITEMS, out
        assert task.score(model)["complete"], out
    wait_gone(task.work)
    assert actor_processes() == []
    files = (path for path in task.work.rglob("*") if path.is_file())
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
