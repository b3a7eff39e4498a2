"""What is killed, cancelled or out of time on a real Slurm goes on from its saved answers and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from slurm_cluster import NODES, SlurmCluster, ask, wait_for

pytestmark = pytest.mark.cluster
SCRIPTED = Path(__file__).parents[2] / "scripted"
EVALFLOW = Path(sys.executable).parent / "evalflow"
ITEMS = 8
WAIT_S = 200.0
RUN_S = 400.0
GONE_S = 60.0


class Run:
    """A task of scripted models on Slurm, run by the command.

    Attributes:
        cluster: the cluster.
        work: the task's folder.
        process: the command.
    """

    process: subprocess.Popen[str]

    def __init__(self, cluster: SlurmCluster, stock: dict[str, Any], folder: Path) -> None:
        self.cluster, self.work = cluster, Path(stock["work_dir"])
        self._stock, self._file, self._log = stock, folder / "task.yaml", folder / "output.log"
        self._env = {**os.environ, "PYTHONPATH": str(SCRIPTED)}

    def write(self, answer_s: dict[str, float], **options: Any) -> None:
        """The task: how long an answer of each model takes (s); options of the executor."""
        section = {
            "backend": "Native",
            "executor": {"name": "slurm", "poll_s": 1, "probe_s": 0, **options}
            | {"pass_env": ["EVALFLOW_RUNTIME_DIR", "PYTHONPATH"]},
            "models": [
                {"name": name, "path": "any", "deploy": {"extra_args": ["--answer-seconds", str(seconds)]}}
                for name, seconds in answer_s.items()
            ],
            "deploy": {"engine": "scripted", "devices": "0,1", "tensor_parallel": 1},
        }
        self._file.write_text(yaml.safe_dump({**self._stock, "evalflow": section}))

    def start(self) -> None:
        with self._log.open("a") as log:
            self.process = subprocess.Popen([EVALFLOW, "run", self._file], stdout=log, stderr=log, env=self._env)

    def finish(self) -> str:
        """Wait until it has ended well; what it said."""
        code = self.process.wait(RUN_S)
        assert code == 0, self._log.read_text()
        return self._log.read_text()

    def end(self) -> None:
        """End what a failed test has left of the command."""
        with suppress(AttributeError):
            self.process.kill()
            self.process.wait()

    def job_of(self, model: str) -> str:
        """The id of a model's job; empty: it has none yet."""
        for path in (self.work / "evalflow" / "jobs").glob("*/submission.json"):
            with suppress(OSError, ValueError):
                written = json.loads(path.read_text())
                if model in written["models"]:
                    return str(written["id"])
        return ""

    def rows(self, model: str) -> list[str]:
        """The answers that are saved."""
        files = (self.work / model).glob(f"predictions/{model}/*.jsonl")
        return [line for path in files for line in path.read_text().splitlines()]

    def answers(self, *models: str) -> bool:
        """Whether each of these has saved an answer, and not all."""
        return all(0 < len(self.rows(model)) < ITEMS for model in models)

    def assert_nothing_was_answered_twice(self, *models: str) -> None:
        for model in models:
            assert sorted(json.loads(row)["index"] for row in self.rows(model)) == list(range(ITEMS)), model


@pytest.fixture
def a_run(slurm: SlurmCluster, stock_task: dict[str, Any], tmp_path: Path) -> Iterator[Run]:
    run = Run(slurm, stock_task, tmp_path)
    yield run
    run.end()
    for job in slurm.jobs():
        ask(["scancel", job], {0, 1})


def are_gone(processes: list[psutil.Process]) -> Callable[[], bool]:
    """Whether none of these runs any more."""
    return lambda: not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_jobs_that_are_cancelled_killed_or_out_of_time_and_those_whose_slurmd_dies_all_finish(a_run: Run) -> None:
    """All at once, as each costs a minute: their models wait, and do not compute."""
    struck = ("cancelled", "killed", "slurmd", "limit")
    a_run.write({**dict.fromkeys(struck, 2.0), "limit": 6.0})
    a_run.start()
    cluster = a_run.cluster
    wait_for(lambda: a_run.answers(*struck), "all models answer", WAIT_S)
    before = {model: set(a_run.rows(model)) for model in struck}
    processes = {model: cluster.processes_of(a_run.job_of(model)) for model in struck}
    first = {model: a_run.job_of(model) for model in struck}
    assert all(processes.values())

    ask(["scontrol", "update", f"JobId={first['limit']}", "TimeLimit=1"], {0})  # Slurm warns it within half a minute
    ask(["scancel", first["cancelled"]], {0})
    for process in processes["killed"]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    node = cluster.node_of(first["slurmd"])
    cluster.kill(node)
    for model in ("cancelled", "killed"):
        wait_for(are_gone(processes[model]), f"nothing is left of {model}", GONE_S)
    cluster.bring_back(node)

    said = a_run.finish()
    a_run.assert_nothing_was_answered_twice(*struck)
    for model in struck:
        assert before[model] <= set(a_run.rows(model))
    assert "4 of 4 models finished" in said
    assert f"job {first['cancelled']} was lost (CANCELLED" in said
    assert f"job {first['killed']} was lost (FAILED" in said
    assert f"job {first['slurmd']} was lost" not in said
    assert engine_starts(a_run.work, "limit") > 1  # put back by Slurm, or by the command where its signal came too late


def engine_starts(work: Path, model: str) -> int:
    """How often a model's engine was started, over all runs."""
    lines = (work / model / "evalflow" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return sum(event["event"] == "PhaseBegan" and event.get("phase") == "load" for event in events)


def test_jobs_outlive_their_submitter_a_lost_node_and_a_preemption_and_are_adopted(a_run: Run) -> None:
    """What Slurm puts back into the queue keeps its number, and begins sooner than in two minutes."""
    a_run.write(dict.fromkeys(("a", "b", "c"), 1.5))
    a_run.start()
    wait_for(lambda: a_run.answers("a", "b", "c"), "three models answer", WAIT_S)
    jobs = {model: a_run.job_of(model) for model in "abc"}
    a_run.process.send_signal(signal.SIGKILL)
    a_run.process.wait()
    lost = next(node for node in NODES if a_run.cluster.node_of(jobs["a"]) == node)
    preempted = next(model for model in "bc" if a_run.cluster.node_of(jobs[model]) != lost)
    ask(["scancel", "--batch", "--signal=USR2", jobs[preempted]], {0})  # as Slurm warns a job
    processes = a_run.cluster.processes(lost)
    a_run.cluster.kill_node(lost)
    wait_for(are_gone(processes), "nothing is left on the node", GONE_S)
    a_run.cluster.bring_back(lost)

    a_run.start()
    said = a_run.finish()
    assert "cluster jobs of an earlier run are adopted" in said
    assert "3 of 3 models finished" in said
    assert f"job {jobs[preempted]} was lost" not in said
    assert engine_starts(a_run.work, preempted) == 2
    a_run.assert_nothing_was_answered_twice("a", "b", "c")


def test_ctrl_c_ends_jobs_that_run_and_those_that_wait_and_returns_when_all_are_gone(a_run: Run) -> None:
    a_run.write(dict.fromkeys("abcdef", 2.0))
    a_run.start()
    wait_for(lambda: any(a_run.answers(model) for model in "abcdef"), "a model answers", WAIT_S)
    processes = [process for node in NODES for process in a_run.cluster.processes(node)]
    assert processes
    a_run.process.send_signal(signal.SIGINT)
    assert a_run.process.wait(RUN_S) == 130
    assert a_run.cluster.jobs() == []
    assert are_gone(processes)()
