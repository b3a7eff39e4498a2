"""Whatever dies, even by SIGKILL, nothing of `evalscope eval` stays behind. `evalflow` itself: test_faults.py."""

from __future__ import annotations

import contextlib
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
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent
GONE_WITHIN_S = 5.0


class Run:
    """An evaluation in the middle of its requests, and every process that belongs to it."""

    def __init__(self, process: subprocess.Popen[bytes], work: Path) -> None:
        self.process, self.work = process, work
        self.tree = psutil.Process(process.pid).children(recursive=True)

    def of(self, word: str) -> psutil.Process:
        """The one process of the tree whose command line holds a word."""
        found = [process for process in self.tree if any(word in part for part in process.cmdline())]
        return max(found, key=lambda process: process.create_time())

    def left(self, within_s: float = GONE_WITHIN_S) -> list[list[str]]:
        """What is still alive some seconds later."""
        _, alive = psutil.wait_procs(self.tree, timeout=within_s)
        lines = []
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    lines.append(process.cmdline())
        return lines


def _heed_signals() -> None:
    """The tests themselves may run under nohup, or in a script's background, which their children would inherit."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def evaluating(task: dict[str, Any], tmp_path: Path, *command: str) -> Iterator[Run]:
    """Start a command on a task; continue when its first answers are saved."""
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(task))
    log = tmp_path / "output.log"
    with log.open("wb") as output:
        words = [str(BIN / command[0]), *command[1:], str(file)]
        process = subprocess.Popen(
            words, stdout=output, stderr=output, start_new_session=True, preexec_fn=_heed_signals
        )
    work = Path(task["work_dir"])

    def answers() -> int:
        if process.poll() is not None:
            raise AssertionError(f"it ended too early:\n{log.read_text()}")
        return sum(len(path.read_text().splitlines()) for path in work.glob("predictions/*/*.jsonl"))

    try:
        Retrying(retry=retry_if_result(lambda n: n < 5), stop=stop_after_delay(400), wait=wait_fixed(0.1))(answers)
        yield Run(process, work)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def long_task(stock_task: dict[str, Any], gguf: Path, tmp_path: Path) -> dict[str, Any]:
    """A task of 200 requests on llama.cpp, so that it is in its middle for a while."""
    source = Path(stock_task["dataset_args"]["general_mcq"]["local_path"]) / "tiny_val.jsonl"
    lines = source.read_text().splitlines()
    (tmp_path / "long_val.jsonl").write_text("\n".join(lines * 25) + "\n")
    settings = {**stock_task["dataset_args"]["general_mcq"], "local_path": str(tmp_path), "subset_list": ["long"]}
    return {
        **stock_task,
        "dataset_args": {"general_mcq": settings},
        "model": str(gguf),
        "model_id": "smol",
        "eval_backend": "evalflow",
        "evalflow": {"backend": "Native", "deploy": {"max_model_len": 1024, "max_num_seqs": 1, "max_restarts": 0}},
    }


EVALSCOPE = ("evalscope", "eval", "--eval-backend", "evalflow", "--eval-config")
EVALFLOW = ("evalflow", "run")


def test_sigkill_of_evalscope(long_task: dict[str, Any], tmp_path: Path) -> None:
    with evaluating(long_task, tmp_path, *EVALSCOPE) as run:
        scratch = [
            Path(run.of(name).environ()["TMPDIR"]) for name in ("llamacpp_launcher", "evalscope_evalflow/worker")
        ]
        assert all(folder.is_dir() for folder in scratch)
        assert run.of("guard.py")
        run.process.kill()
        assert run.left() == []
    assert not any(folder.exists() for folder in scratch)


def test_ctrl_c_in_evalscope_ends_the_run(long_task: dict[str, Any], tmp_path: Path) -> None:
    with evaluating(long_task, tmp_path, *EVALSCOPE) as run:
        os.kill(run.process.pid, signal.SIGINT)
        assert run.process.wait(timeout=20) != 0
        assert run.left(1) == []


def test_a_task_that_evalscope_refuses_does_not_wait_for_the_engine(
    long_task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only EvalScope itself can tell is told as soon as it does, long before the engine would be ready."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2] / "scripted"))
    long_task["judge"] = {"min_valid_judges": 0}  # it is a number, and so is taken for one before a start
    long_task["evalflow"]["deploy"] = {"engine": "scripted", "extra_args": ["--load-seconds", "600"]}
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(long_task))
    done = subprocess.run([BIN / "evalflow", "run", file], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "EvalScope failed" in done.stderr
    assert "min_valid_judges" in done.stderr
    assert "is ready at" not in done.stderr
