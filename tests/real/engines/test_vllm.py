"""Real vLLM, on a CPU."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from evalscope_evalflow import Endpoint

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent


def test_endpoint_answers_and_keeps_its_key(vllm: Endpoint) -> None:
    answer = vllm.client().chat.completions.create(
        model=vllm.model,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=16,
        temperature=0,
    )
    # Not what it says: vLLM 0.32's kernels for 16 bits get it wrong on processors with AMX, and in 32 bits right.
    assert (answer.choices[0].message.content or "").strip()
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 1
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            assert vllm.api_key not in " ".join(process.cmdline())


def test_remote_engine_uses_it_and_leaves_it_alone(vllm: Endpoint, stock_task: dict[str, Any], tmp_path: Path) -> None:
    """An API that somebody else runs: checked, used, and still there afterwards."""
    file = tmp_path / "task.yaml"
    model = {"name": vllm.model, "api_url": vllm.api_url + "/chat/completions/", "api_key": "${SOME_KEY}"}
    section = {"backend": "Native", "models": [model], "deploy": {"engine": "remote"}}
    file.write_text(yaml.safe_dump({**stock_task, "evalflow": section}))
    env = {**os.environ, "SOME_KEY": vllm.api_key}
    done = subprocess.run(
        [BIN / "evalflow", "run", file], capture_output=True, text=True, env=env, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "8/8" in done.stdout
    assert vllm.client().models.list().data[0].id == vllm.model
    for path in Path(stock_task["work_dir"]).rglob("*"):
        if path.is_file():
            assert vllm.api_key.encode() not in path.read_bytes(), path
    record = json.loads((Path(stock_task["work_dir"]) / vllm.model / "evalflow" / "run.json").read_text())
    assert record["task"]["evalflow"]["models"][0]["api_key"] == "${SOME_KEY}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"api_key": "wrong"}, "refuses the key"),
        ({"name": "smoll"}, "has no model 'smoll'"),
        ({"api_url": "http://127.0.0.1:9/v1"}, "cannot be reached"),
    ],
)
def test_remote_problems_are_told_apart_before_anything_runs(
    vllm: Endpoint, stock_task: dict[str, Any], tmp_path: Path, change: dict[str, str], says: str
) -> None:
    model = {"name": vllm.model, "api_url": vllm.api_url, "api_key": vllm.api_key, **change}
    file = tmp_path / "task.json"
    file.write_text(json.dumps({**stock_task, "evalflow": {"backend": "Native", "models": [model]}}))
    done = subprocess.run([BIN / "evalflow", "run", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert vllm.api_key not in done.stderr
    assert not Path(stock_task["work_dir"]).exists()
