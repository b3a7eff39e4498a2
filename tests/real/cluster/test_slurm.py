"""Sweeps on a real Slurm of two nodes with two GPUs each, against the same sweeps on this machine."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from slurm_cluster import SlurmCluster

from evalscope_evalflow.testing.executor_suite import ExecutorSuite

pytestmark = pytest.mark.cluster
SCRIPTED = Path(__file__).parents[2] / "scripted"
BIN = Path(sys.executable).parent
RUN_S = 300
# Jobs have nothing of the submitting environment but this, which keeps the tests' runs apart.
PASSED = ["EVALFLOW_RUNTIME_DIR", "PYTHONPATH"]


@pytest.mark.usefixtures("slurm")
class TestSlurm(ExecutorSuite):
    """The conformance suite, with two jobs at once, on one node."""

    choice: ClassVar[dict[str, Any]] = {
        "name": "slurm",
        "nodelist": "n1",
        "pass_env": PASSED,
        "max_requeues": 0,
        "poll_s": 1,
        "probe_s": 0,
    }
    model: ClassVar[dict[str, Any]] = {"path": "any", "deploy": {"engine": "scripted"}}
    broken: ClassVar[dict[str, Any]] = {"extra_args": ["--exit-after-start", "7"]}
    slow: ClassVar[dict[str, Any]] = {"extra_args": ["--answer-seconds", "0.5"]}

    @pytest.fixture(autouse=True)
    def _scripted_on_nodes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", str(SCRIPTED))


def run(task: dict[str, Any], file: Path) -> str:
    """Run a task by the command; what it said."""
    file.write_text(yaml.safe_dump(task))
    done = subprocess.run([BIN / "evalflow", "run", file], capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def scores(work: Path) -> list[dict[str, str]]:
    """What the sweep's file of scores says of each model."""
    with (work / "scores.csv").open() as file:
        return sorted(csv.DictReader(file), key=lambda row: row["model"])


def test_a_sweep_of_six_models_has_the_scores_that_it_has_on_this_machine(
    slurm: SlurmCluster, stock_task: dict[str, Any], gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two have the real engine, each with another context, so that no two share an engine; four a scripted one."""
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTED))
    real = [
        {"name": f"real-{context}", "path": str(gguf), "deploy": {"engine": "llamacpp", "max_model_len": context}}
        for context in (512, 640)
    ]
    scripted = [
        {"name": f"scripted-{answer}", "path": "any", "deploy": {"extra_args": ["--answer", f"ANSWER: {answer}"]}}
        for answer in "ABCD"
    ]
    found = {}
    for name, executor in {"local": "local", "slurm": {"name": "slurm", "pass_env": PASSED, "poll_s": 1}}.items():
        section = {
            "backend": "Native",
            "executor": executor,
            "models": [*real, *scripted],
            "deploy": {"engine": "scripted", "devices": "0,1", "tensor_parallel": 1},
        }
        work = tmp_path / name
        said = run({**stock_task, "limit": 2, "work_dir": str(work), "evalflow": section}, tmp_path / f"{name}.yaml")
        assert "6 of 6 models finished" in said
        found[name] = scores(work)
    assert found["slurm"] == found["local"]
    assert [(row["complete"], row["answered"]) for row in found["slurm"]] == [("true", "2")] * len(real + scripted)


def test_preflight_says_what_a_job_would_need_and_what_the_largest_node_has(
    slurm: SlurmCluster, stock_task: dict[str, Any], tmp_path: Path
) -> None:
    section = {
        "backend": "Native",
        "executor": {"name": "slurm", "pass_env": PASSED},
        "models": [{"name": "large", "path": "any", "deploy": {"tensor_parallel": 4}}],
        "deploy": {"engine": "scripted"},
    }
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump({**stock_task, "evalflow": section}))
    done = subprocess.run(
        [BIN / "evalflow", "check", file],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SCRIPTED)},
    )
    assert done.returncode == 2
    assert "large needs 4 devices, and 2 are offered to one job" in done.stderr
    assert slurm.jobs() == []
