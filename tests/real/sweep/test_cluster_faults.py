"""Cluster jobs as real processes of a scripted cluster: what dies is taken up again, and nothing is answered twice."""

from __future__ import annotations

import json
import os
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
from judge_server import JudgeServer
from scripted_cluster import ClusterMachine

from evalscope_evalflow.sweep.cluster import job_folder
from evalscope_evalflow.sweep.cluster.cluster_list import listed_jobs
from evalscope_evalflow.sweep.cluster.submitter_claim import read_submitter

pytestmark = pytest.mark.real
SCRIPTED = Path(__file__).parents[2] / "scripted"
BIN = Path(sys.executable).parent
ITEMS = 8
KEY = "sk-of-the-judge-0123456789"


class ClusterRun:
    """A task on the scripted cluster, and what its folders say of it."""

    def __init__(self, machine: ClusterMachine, stock_task: dict[str, Any], folder: Path) -> None:
        self.machine, self.work, self.folder = machine, Path(stock_task["work_dir"]), folder
        self.file = folder / "task.yaml"
        self._stock = stock_task

    def write(self, judge: JudgeServer | None = None, **seconds: float) -> None:
        """A task of these models, each with the seconds that an answer takes."""
        listed = [
            {
                "name": name,
                "path": "any",
                "deploy": {"extra_args": ["--answer-seconds", str(pace), "--journal", str(self.journal(name))]},
            }
            for name, pace in seconds.items()
        ]
        section: dict[str, Any] = {"backend": "Native", "models": listed, "executor": self.machine.choice}
        section["deploy"] = {"engine": "scripted", "tensor_parallel": 1}
        asked = (
            {"models": [{"model_id": "j", "api_url": judge.url, "api_key": KEY}], "strategy": "llm"} if judge else {}
        )
        task = {**self._stock, "evalflow": section, **({"judge": asked} if judge else {})}
        self.file.write_text(yaml.safe_dump(task))

    def start(self, *flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BIN / "evalflow", "run", self.file, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def journal(self, model: str) -> Path:
        return self.folder / f"{model}.journal"

    def saved(self, model: str) -> int:
        files = (self.work / model).glob(f"predictions/{model}/*.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in files)

    def follows(self, process: subprocess.Popen[str]) -> bool:
        found = read_submitter(self.work)
        return found is not None and found.pid == process.pid

    def asked(self, model: str) -> list[str]:
        """Prompts that its engines were asked, but for the one by which a start is known to be ready."""
        rows = [json.loads(line) for line in self.journal(model).read_text().splitlines()]
        return [row["prompt"] for row in rows if row.get("prompt") and row["path"].endswith("completions")]

    def job_of(self, model: str) -> psutil.Process:
        """The process of the running job of a model."""
        found = [job for job in listed_jobs(self.work) if job.node and model in job.written.models]
        assert found[0].node is not None
        return psutil.Process(found[0].node.pid)


@pytest.fixture
def run(stock_task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterRun]:
    monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTED))
    with orphans_come_here(), ClusterMachine(tmp_path / "cluster") as machine:
        yield ClusterRun(machine, stock_task, tmp_path)


def test_the_submitter_and_a_node_are_killed_and_nothing_is_answered_twice(run: ClusterRun) -> None:
    """SIGKILL of `evalflow run`, which is run again and adopts; SIGKILL of a job, which is submitted again."""
    with JudgeServer() as judge:
        run.write(judge, a=4.0, b=0.5)
        first = run.start()
        wait_for(lambda: 0 < run.saved("a") < ITEMS and run.saved("b"), "both answer", 120)
        shown = subprocess.run([BIN / "evalflow", "ps", run.work], capture_output=True, text=True, check=True).stdout
        assert "  a  on " in shown
        assert f"followed by PID {first.pid}" in shown
        first.kill()
        first.communicate(timeout=60)
        second = run.start()
        wait_for(lambda: run.follows(second), "the second run follows", 120)
        process = run.job_of("a")
        below = process.children(recursive=True)
        process.kill()
        _, alive = psutil.wait_procs(below, timeout=20)
        assert [other for other in alive if other.status() != psutil.STATUS_ZOMBIE] == []
        out, err = second.communicate(timeout=240)
        assert second.returncode == 0, err
        for path in [*run.work.rglob("*"), *run.machine.state.rglob("*")]:
            assert not path.is_file() or KEY.encode() not in path.read_bytes()
    for model in ("a", "b"):
        assert f"{ITEMS}/{ITEMS}" in next(line for line in out.splitlines() if f"│ {model} " in line)
        record = json.loads((run.work / model / "evalflow" / "run.json").read_text())
        assert record["state"] == "complete"
        assert (record["engine"], record["answered"]["host"]) == ("scripted", record["host"])
        assert {"load", "infer", "release", "judge"} <= set(record["phases_s"])
        assert "mode" not in record["task"]["evalflow"]
    assert "adopted" in err
    jobs = run.machine.jobs()
    assert [job["name"].split("-")[0] for job in jobs.values()] in (["a", "b", "a"], ["b", "a", "a"])
    assert len(run.asked("b")) == len(set(run.asked("b")))
    again = len(run.asked("a")) - len(set(run.asked("a")))
    assert again <= 2  # the question that was open at the kill, and the one of a new engine's first look
    assert list(job_folder.folders(run.work)) == []


def test_detached_jobs_go_on_alone_and_stop_ends_them(run: ClusterRun) -> None:
    run.write(a=0.4, b=0.4, c=0.4)
    detached = run.start("--detach")
    out, err = detached.communicate(timeout=120)
    assert detached.returncode == 0, err
    assert f"evalflow stop {run.work}" in out
    wait_for(lambda: run.saved("a") > 0, "it answers", 120)
    process = run.job_of("a")
    below = [process, *process.children(recursive=True)]
    stopped = subprocess.run(
        [BIN / "evalflow", "stop", run.work], capture_output=True, text=True, env=dict(os.environ), timeout=120
    )
    assert (stopped.returncode, "3 cluster jobs are gone" in stopped.stdout) == (0, True), stopped.stderr
    _, alive = psutil.wait_procs(below, timeout=0)
    assert [other for other in alive if other.status() != psutil.STATUS_ZOMBIE] == []
    assert {job["stage"] for job in run.machine.jobs().values()} == {"gone"}
    assert list(listed_jobs(run.work)) == []


def test_ctrl_c_ends_what_is_queued_and_what_runs(run: ClusterRun) -> None:
    run.write(a=0.4, b=0.4, c=0.4)
    process = run.start()
    wait_for(lambda: run.saved("a") > 0, "it answers", 120)
    job = run.job_of("a")
    below = [job, *job.children(recursive=True)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    _, alive = psutil.wait_procs(below, timeout=0)
    assert [other for other in alive if other.status() != psutil.STATUS_ZOMBIE] == []
    assert {job["stage"] for job in run.machine.jobs().values()} == {"gone"}
    assert run.saved("c") == 0
    assert not (run.work / "evalflow" / "submitter.json").exists()
