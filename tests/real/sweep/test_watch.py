"""Watching a training with real workers and a scripted engine: killed, started again, and a checkpoint that changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import checkpoints
import psutil
import pytest
import yaml
from fault_run import orphans_come_here, wait_for

pytestmark = pytest.mark.real
SCRIPTED = Path(__file__).parents[2] / "scripted"
BIN = Path(sys.executable).parent
ITEMS = 8
POLL_S = 0.5
GENEROUS_S = 20  # for a machine on which other tests run


@pytest.fixture(autouse=True)
def _nobody_is_overlooked() -> Iterator[None]:
    with orphans_come_here():
        yield


def write(folder: Path) -> None:
    """A checkpoint without its marker."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096})
    )
    (folder / "tokenizer.json").write_text("{}")
    checkpoints.write_file(folder / "model.safetensors", [("model.norm.weight", "BF16", (64,))])


def asked(work: Path, model: str) -> list[int]:
    """Which questions have a saved answer, each as often as it has one."""
    files = (work / model).glob(f"predictions/{model}/*.jsonl")
    return [json.loads(line)["index"] for path in files for line in path.read_text().splitlines()]


def events(work: Path, model: str) -> list[dict[str, Any]]:
    path = work / model / "evalflow" / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def state(work: Path, model: str) -> str:
    path = work / model / "evalflow" / "run.json"
    return str(json.loads(path.read_text())["state"]) if path.exists() else ""


def test_killed_and_started_again_each_checkpoint_is_asked_once_and_a_torn_one_has_no_score(
    stock_task: dict[str, Any], tmp_path: Path
) -> None:
    work, folder = Path(stock_task["work_dir"]), tmp_path / "ckpts"
    section = {
        "backend": "Native",
        "models": [{"path": f"{folder}/step-*"}],
        "deploy": {
            "engine": "scripted-swap",
            "devices": "0",
            "extra_args": ["--answer-seconds", "0.3"],
            "keep_alive_s": 300,
        },
        "watch": {"poll_s": POLL_S, "quiet_s": 3600, "until": 2},
        "exporters": ["jsonl"],
    }
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump({**stock_task, "evalflow": section}))
    env = {**os.environ, "PYTHONPATH": str(SCRIPTED), "EVALFLOW_RUNTIME_DIR": str(tmp_path / "runtime")}

    def start() -> subprocess.Popen[str]:
        argv = [str(BIN / "evalflow"), "watch", str(file)]
        return subprocess.Popen(argv, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    process = start()  # there is nothing yet
    write(folder / "step-1")
    (folder / "step-1" / "STABLE").touch()
    wait_for(lambda: 0 < len(asked(work, "step-1")) < ITEMS, "it answers", 200)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(below, timeout=10)
    assert [other.cmdline() for other in alive if other.status() != psutil.STATUS_ZOMBIE] == []
    before = asked(work, "step-1")

    process = start()
    write(folder / "step-2")  # it is not marked, and an hour would have to pass
    wait_for(lambda: state(work, "step-1") == "complete", "the first one is evaluated", 200)
    assert sorted(asked(work, "step-1")) == list(range(ITEMS))
    assert set(before) < set(range(ITEMS))
    assert not (work / "step-2").exists()
    marked = datetime.now().astimezone()
    (folder / "step-2" / "STABLE").touch()
    wait_for(lambda: len(asked(work, "step-2")) > 0, "the second one answers", 200)
    begun = datetime.fromisoformat(events(work, "step-2")[0]["time"])
    assert (begun - marked).total_seconds() <= POLL_S + 2 + GENEROUS_S
    (folder / "step-2" / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"]}))
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    assert "changed while it was evaluated: config.json differs" in err
    assert "step-2: scripted-swap goes on from step-1 with these weights" in err, err
    assert "watch: step 2 is reached" in err

    # What was answered with the other files is archived; all of the score is of the new ones.
    assert sorted(asked(work, "step-2")) == list(range(ITEMS))
    archived = [*(work / "step-2" / "evalflow" / "kept").glob("*/predictions/step-2/*.jsonl")]
    assert len(archived) == 1
    for name in ("step-1", "step-2"):
        assert f"{ITEMS}/{ITEMS}" in next(line for line in out.splitlines() if f"│ {name} " in line)
    summary = json.loads((work / "summary.json").read_text())
    assert {name: item["state"] for name, item in summary["models"].items()} == dict.fromkeys(
        ("step-1", "step-2"), "complete"
    )
    exported = [json.loads(line) for path in work.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert {row["model"] for row in exported} >= {"step-1", "step-2"}

    # Everything is done: the same command again asks nothing.
    logs = {path: path.stat().st_size for path in work.glob("*/evalflow/*.log")}
    done = subprocess.run([BIN / "evalflow", "run", file, "--watch", "--once"], env=env, capture_output=True, text=True,
                          check=False, timeout=100)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert logs == {path: path.stat().st_size for path in work.glob("*/evalflow/*.log")}
    assert "starting" not in done.stderr
