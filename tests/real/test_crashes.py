"""Whatever dies, even by SIGKILL, nothing of a run stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
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


@pytest.mark.parametrize("command", [EVALSCOPE, EVALFLOW], ids=["evalscope", "evalflow"])
def test_sigkill_of_the_command(command: tuple[str, ...], long_task: dict[str, Any], tmp_path: Path) -> None:
    with evaluating(long_task, tmp_path, *command) as run:
        scratch = [Path(run.of(name).environ()["TMPDIR"]) for name in ("llamacpp_server", "worker.py")]
        assert all(folder.is_dir() for folder in scratch)
        assert run.of("guard.py")
        run.process.kill()
        assert run.left() == []
    assert not any(folder.exists() for folder in scratch)


def test_sigkill_of_the_command_on_vllm(
    long_task: dict[str, Any], checkpoint: Path, vllm_deploy: dict[str, Any], tmp_path: Path
) -> None:
    long_task["model"] = str(checkpoint)
    long_task["evalflow"]["deploy"] = vllm_deploy
    with evaluating(long_task, tmp_path, *EVALSCOPE) as run:
        assert len([p for p in run.tree if "VLLM" in p.name() or "vllm" in " ".join(p.cmdline())]) >= 2
        run.process.kill()
        assert run.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_run_in_order(number: int, long_task: dict[str, Any], tmp_path: Path) -> None:
    with evaluating(long_task, tmp_path, *EVALFLOW) as run:
        began = time.monotonic()
        os.kill(run.process.pid, number)
        assert run.process.wait(timeout=20) == 130
        assert time.monotonic() - began < 15
        assert run.left(1) == []
        record = json.loads((run.work / "evalflow" / "run.json").read_text())
        assert record["state"] == "interrupted"
        assert record["release"]["released"] is True


def test_ctrl_c_in_evalscope_ends_the_run(long_task: dict[str, Any], tmp_path: Path) -> None:
    with evaluating(long_task, tmp_path, *EVALSCOPE) as run:
        os.kill(run.process.pid, signal.SIGINT)
        assert run.process.wait(timeout=20) != 0
        assert run.left(1) == []


def test_the_engine_dies(long_task: dict[str, Any], tmp_path: Path) -> None:
    with evaluating(long_task, tmp_path, *EVALFLOW) as run:
        run.of("llamacpp_server").kill()
        assert run.process.wait(timeout=20) == 1
        assert run.left(1) == []
    said = (tmp_path / "output.log").read_text()
    assert "llamacpp stopped in the middle of the evaluation" in said
    assert "engine.log" in said
    saved = sum(len(path.read_text().splitlines()) for path in run.work.glob("predictions/*/*.jsonl"))
    done = subprocess.run(
        [BIN / "evalflow", "run", tmp_path / "task.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "200/200" in done.stdout
    requests = (run.work / "evalflow" / "engine.log").read_text(errors="replace").count("stop processing:")
    assert 5 <= saved < 200
    # Each once: those that were saved are not asked again. One was lost in flight, and each start asks one.
    assert requests <= 200 + 1 + 2


def test_the_engine_dies_and_is_started_again(
    long_task: dict[str, Any], stock_task: dict[str, Any], tmp_path: Path
) -> None:
    """The run goes on from what was saved, and its results are those of an undisturbed one."""
    long_task["limit"] = 24
    long_task["evalflow"]["deploy"]["max_restarts"] = 1
    undisturbed = {**long_task, "work_dir": str(tmp_path / "undisturbed")}
    file = tmp_path / "undisturbed.yaml"
    file.write_text(yaml.safe_dump(undisturbed))
    subprocess.run([BIN / "evalflow", "run", file], check=True, capture_output=True, timeout=300)
    with evaluating(long_task, tmp_path, *EVALFLOW) as run:
        run.of("llamacpp_server").kill()
        assert run.process.wait(timeout=200) == 0
    said = (tmp_path / "output.log").read_text()
    assert "starting it again (1 of 1)" in said
    assert "24/24" in said
    assert _answers_in(run.work) == _answers_in(Path(undisturbed["work_dir"]))
    log = (run.work / "evalflow" / "engine.log").read_text(errors="replace")
    assert log.count("stop processing:") <= 24 + 1 + 2  # each once, one lost in flight, one at each start


def _answers_in(work: Path) -> dict[int, str]:
    found = {}
    for path in work.glob("predictions/*/*.jsonl"):
        for line in path.read_text().splitlines():
            item = json.loads(line)
            assert item["index"] not in found, "answered twice"
            found[item["index"]] = item["model_output"]["choices"][0]["message"]["content"]
    return found


def test_a_task_that_evalscope_refuses_does_not_wait_for_the_engine(
    long_task: dict[str, Any], checkpoint: Path, vllm_deploy: dict[str, Any], tmp_path: Path
) -> None:
    """What only EvalScope itself can tell is told as soon as it does, long before vLLM would be ready."""
    long_task["generation_config"] = {"max_tokens": "many"}
    long_task["model"] = str(checkpoint)
    long_task["evalflow"]["deploy"] = vllm_deploy
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(long_task))
    done = subprocess.run([BIN / "evalflow", "run", file], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "EvalScope failed" in done.stderr
    assert "max_tokens" in done.stderr
    assert "is ready at" not in done.stderr


def test_the_worker_dies(long_task: dict[str, Any], tmp_path: Path) -> None:
    with evaluating(long_task, tmp_path, *EVALFLOW) as run:
        run.of("worker.py").kill()
        assert run.process.wait(timeout=20) == 1
        assert run.left(1) == []
    assert "the EvalScope process ended without a result" in (tmp_path / "output.log").read_text()


def test_the_guard_dies(long_task: dict[str, Any], tmp_path: Path) -> None:
    with evaluating(long_task, tmp_path, *EVALFLOW) as run:
        server = run.of("llamacpp_server")
        psutil.Process(server.ppid()).kill()
        assert run.process.wait(timeout=20) == 1
        assert run.left(1) == []


def test_a_second_run_in_the_same_folder_is_refused(long_task: dict[str, Any], tmp_path: Path) -> None:
    with evaluating(long_task, tmp_path, *EVALFLOW) as run:
        second = subprocess.run(
            [BIN / "evalflow", "run", tmp_path / "task.yaml"], capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode == 2
        assert "is in use by another run" in second.stderr
        assert run.process.poll() is None
        os.kill(run.process.pid, signal.SIGTERM)
        run.process.wait(timeout=20)


def test_an_engine_that_freezes_is_started_again(long_task: dict[str, Any], tmp_path: Path) -> None:
    """It lives, and neither answers nor counts any more. The run goes on as if nothing had been."""
    long_task["limit"] = 24
    long_task["evalflow"]["deploy"].update(max_restarts=1, stall_timeout_s=10)
    with evaluating(long_task, tmp_path, *EVALFLOW) as run:
        run.of("llamacpp_server").send_signal(signal.SIGSTOP)
        assert run.process.wait(timeout=300) == 0
        assert run.left() == []
    said = (tmp_path / "output.log").read_text()
    assert "llamacpp hangs: no counters for 10 s, and no answer to a request of one token" in said
    assert "starting it again (1 of 1)" in said
    assert "24/24" in said
    assert set(_answers_in(run.work)) == set(range(24))
    assert not (run.work / "evalflow" / "failures.jsonl").exists()
