"""The oldest EvalScope that is supported; the newest is the one that all other tests run with."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import environments
import pytest

pytestmark = pytest.mark.real
SECTION = {"backend": "Native", "deploy": {"max_model_len": 1024, "max_num_seqs": 1}}


@pytest.fixture(scope="module")
def old() -> Path:
    """The bin folder of an environment with it."""
    return environments.old_evalscope_env() / "bin"


def test_it_is_the_oldest(old: Path) -> None:
    done = subprocess.run([old / "evalscope", "--version"], capture_output=True, text=True, timeout=120, check=True)
    assert environments.OLDEST_EVALSCOPE in done.stdout


def test_command(old: Path, stock_task: dict[str, Any], gguf: Path) -> None:
    done = subprocess.run(
        [old / "evalscope", "eval", "--eval-backend", "evalflow", "--evalflow", json.dumps(SECTION), "--model", gguf,
         "--model-id", "smol", "--datasets", "general_mcq", "--dataset-args", json.dumps(stock_task["dataset_args"]),
         "--generation-config", json.dumps(stock_task["generation_config"]), "--work-dir", stock_task["work_dir"]],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "8/8" in done.stdout


def test_python_and_resuming(old: Path, stock_task: dict[str, Any], gguf: Path) -> None:
    task = {**stock_task, "model": str(gguf), "model_id": "smol", "evalflow": SECTION}
    code = (
        "import json, sys\nfrom evalscope.run import run_task\ntask = json.loads(sys.argv[1])\n"
        "first = run_task(dict(task)); second = run_task(dict(task))\n"
        "assert first['general_mcq'].num == second['general_mcq'].num == 8\n"
        "assert first['general_mcq'].metrics[0].score == second['general_mcq'].metrics[0].score\nprint('fine')"
    )
    done = subprocess.run(
        [old / "python", "-c", code, json.dumps(task)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split()[-1:] == ["fine"], done.stderr
    log = (Path(task["work_dir"]) / "evalflow" / "engine.log").read_text(errors="replace")
    # And one to see that it answers, at each start, unless the second run was done before that.
    assert log.count("stop processing:") in (8 + 1, 8 + 2)


def test_another_environment_may_run_the_worker(old: Path, stock_task: dict[str, Any], gguf: Path) -> None:
    from evalscope_evalflow import sweep
    from evalscope_evalflow.config.task import Task

    section = {**SECTION, "worker_env": str(old.parent)}
    task = Task.parse({**stock_task, "model": str(gguf), "model_id": "smol", "evalflow": section})
    result = sweep.run(task)
    assert result.models[0].complete
    config = (Path(stock_task["work_dir"]) / "configs" / "task_config.yaml").read_text()
    assert f"evalscope_version: {environments.OLDEST_EVALSCOPE}" in config
    assert os.environ.get("EVALSCOPE_BASE_URL") is None
