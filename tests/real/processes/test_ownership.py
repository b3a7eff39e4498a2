"""Whole runs that are stopped, signalled or killed in any phase: on the scripted engine, and once on llama.cpp."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed
from test_crashes import BIN, EVALFLOW, EVALSCOPE, Run, _heed_signals, evaluating

from evalscope_evalflow.processes import orphans, registry

pytestmark = pytest.mark.real
SCRIPTED = Path(__file__).parents[2] / "scripted"


@pytest.fixture(autouse=True)
def _own_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Apart from the run's shared servers, which `evalflow stop` would end."""
    monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path / "runtime"))


@pytest.fixture
def slow_task(stock_task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A task of 8 × 5 requests on the scripted engine, half a second each; it may be restarted."""
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTED))
    source = Path(stock_task["dataset_args"]["general_mcq"]["local_path"]) / "tiny_val.jsonl"
    (tmp_path / "long_val.jsonl").write_text("\n".join(source.read_text().splitlines() * 5) + "\n")
    settings = {**stock_task["dataset_args"]["general_mcq"], "local_path": str(tmp_path), "subset_list": ["long"]}
    deploy = {"engine": "scripted", "extra_args": ["--answer-seconds", "0.5", "--daemon-children", "--ignore-sigterm"]}
    return {
        **stock_task,
        "dataset_args": {"general_mcq": settings},
        "model": "any/path",
        "model_id": "m",
        "eval_backend": "evalflow",
        "evalflow": {"backend": "Native", "deploy": deploy},
    }


def saved_record(work: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "evalflow" / "run.json").read_text())
    return found


def evalflow(*words: object) -> subprocess.CompletedProcess[str]:
    """`evalflow WORDS`."""
    return subprocess.run(
        [str(BIN / "evalflow"), *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    Retrying(retry=retry_if_result(lambda yes: not yes), stop=stop_after_delay(100), wait=wait_fixed(0.05))(condition)


def entry_of(run: Run) -> registry.Entry:
    """The run, as it is written down."""
    return next(entry for entry in registry.entries() if entry.owner.pid == run.process.pid)


@pytest.mark.parametrize("command", [EVALFLOW, EVALSCOPE], ids=["evalflow", "evalscope"])
def test_stop(command: tuple[str, ...], slow_task: dict[str, Any], tmp_path: Path) -> None:
    """The engine is not started again; the run says that it was stopped, and can go on later."""
    with evaluating(slow_task, tmp_path, *command) as run:
        run_id = entry_of(run).run_id
        listed = evalflow("ps").stdout
        assert run_id in listed
        assert "evaluating" in listed
        done = evalflow("stop", run_id)
        assert (done.returncode, done.stdout) == (0, f"run {run_id} (m) is stopped; nothing of it runs any more.\n")
        assert run.process.wait(timeout=20) == 130
        assert run.left(1) == []
    said = (tmp_path / "output.log").read_text()
    assert "evalflow: stopped by `evalflow stop`; what was saved is kept; run the same command again to resume" in said
    assert "starting it again" not in said
    assert saved_record(run.work)["state"] == "interrupted"
    assert evalflow("ps").stdout == "Nothing runs.\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_evalscope_in_order(number: int, slow_task: dict[str, Any], tmp_path: Path) -> None:
    """Stock EvalScope would die of two of them at once."""
    with evaluating(slow_task, tmp_path, *EVALSCOPE) as run:
        os.kill(run.process.pid, number)
        assert run.process.wait(timeout=20) == 130
        assert run.left(1) == []
    assert saved_record(run.work)["state"] == "interrupted"
    assert saved_record(run.work)["release"]["released"] is True
    said = (tmp_path / "output.log").read_text()
    assert "evalflow: interrupted; what was saved is kept" in said
    assert "Traceback" not in said.split("evalflow: interrupted")[-1]


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        ("loading", signal.SIGTERM),
        ("loading", signal.SIGHUP),
        ("loading", signal.SIGINT),
        ("releasing", signal.SIGTERM),
        ("releasing", signal.SIGINT),
    ],
)
def test_signals_in_other_phases(phase: str, number: int, slow_task: dict[str, Any], tmp_path: Path) -> None:
    if phase == "loading":
        slow_task["evalflow"]["deploy"]["extra_args"] += ["--load-seconds", "60"]
    else:  # deaf to SIGTERM, it takes the whole grace
        slow_task["limit"] = 1
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(slow_task))
    with (tmp_path / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [BIN / "evalflow", "run", file], stdout=output, stderr=output, preexec_fn=_heed_signals
        )
    try:

        def reached() -> bool:
            assert process.poll() is None, (tmp_path / "output.log").read_text()
            return any(entry.phase == phase and entry.guards for entry in registry.entries())

        until(reached)
        tree = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(timeout=20) == 130
        _, alive = psutil.wait_procs(tree, timeout=5)
        assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    finally:
        process.kill()
        process.wait()
    found = saved_record(Path(slow_task["work_dir"]))
    assert (found["state"], found["phases_s"]["release"] > 0) == ("interrupted", True)
    assert registry.entries() == []


def kill_all_that_could_clean_up(run: Run) -> list[Path]:
    """SIGKILL of the command and of both guards, at once; returns the private folders that nobody removes now."""
    entry = entry_of(run)
    assert set(entry.commands) == {"engine", "worker"}
    victims = [run.process.pid, *(guard.pid for guard in entry.guards)]
    assert len(victims) == 3
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in victims:
            os.kill(pid, number)
    run.process.wait()
    return [command.scratch for command in entry.commands.values()]


@pytest.mark.parametrize("how", ["clean", "run"])
def test_sigkill_of_the_command_and_its_guards(how: str, slow_task: dict[str, Any], tmp_path: Path) -> None:
    """`evalflow clean`, or the next start of anything of ours, removes everything."""
    with evaluating(slow_task, tmp_path, *EVALFLOW) as run:
        engine = entry_of(run).commands["engine"]
        until(lambda: len(orphans.noted(engine.scratch)) >= 3)  # server, child, daemon
        scratch = kill_all_that_could_clean_up(run)
        assert len(run.left(1)) >= 2, "the daemons should have survived, or this test shows nothing"
        assert all(folder.is_dir() for folder in scratch)
        if how == "clean":
            done = evalflow("clean")
            assert done.returncode == 0
            assert all(f"removed {folder}" in " ".join(done.stdout.split()) for folder in scratch)
        else:
            slow_task["evalflow"]["deploy"]["extra_args"] = []
            (tmp_path / "task.yaml").write_text(yaml.safe_dump(slow_task))
            done = evalflow("run", tmp_path / "task.yaml")
            assert done.returncode == 0, done.stderr
            assert re.search(r"another run: run \S+ \(m in \S+\) had died: ended ", " ".join(done.stderr.split()))
            events = (run.work / "evalflow" / "events.jsonl").read_text()
            assert '"event": "PreviousRunDied"' in events
        assert run.left(1) == []
        assert not any(folder.exists() for folder in scratch)
    if how == "clean":
        assert saved_record(run.work)["state"] == "died"
    assert registry.entries() == []


def test_sigkill_of_the_command_and_its_guards_on_llamacpp(
    slow_task: dict[str, Any], gguf: Path, tmp_path: Path
) -> None:
    slow_task.update(model=str(gguf))
    slow_task["evalflow"]["deploy"] = {"max_model_len": 1024, "max_num_seqs": 1}
    with evaluating(slow_task, tmp_path, *EVALFLOW) as run:
        scratch = kill_all_that_could_clean_up(run)
        assert evalflow("clean").returncode == 0
        assert run.left(1) == []
        assert not any(folder.exists() for folder in scratch)


def test_a_second_run_is_told_who_has_the_folder(slow_task: dict[str, Any], tmp_path: Path) -> None:
    with evaluating(slow_task, tmp_path, *EVALFLOW) as run:
        run_id = entry_of(run).run_id
        second = evalflow("run", tmp_path / "task.yaml")
        assert second.returncode == 2
        assert f"is in use by another run: {run_id} (PID {run.process.pid} on " in second.stderr
        assert f"evalflow stop {run_id}" in second.stderr
        assert run.process.poll() is None
        assert evalflow("stop", "--all").returncode == 0


NOTEBOOK = """
import signal, sys, yaml
from evalscope.run import run_task
task = yaml.safe_load(open(sys.argv[1]))
before = signal.getsignal(signal.SIGTERM)
for _ in range(2):
    try:
        run_task(task)
    except Exception as error:
        last = error  # as a notebook keeps it, and with it every frame
    print(type(last).__name__, str(last).splitlines()[0], signal.getsignal(signal.SIGTERM) is before, flush=True)
    task["evalflow"]["deploy"]["extra_args"] = ["--exit-after-start", "3"]
"""


def test_a_notebook_lives_on_and_may_use_the_folder_again(slow_task: dict[str, Any], tmp_path: Path) -> None:
    """The kernel is not killed by `evalflow stop`, and its last exception does not hold the folder."""
    (tmp_path / "cell.py").write_text(NOTEBOOK)
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(slow_task))
    with subprocess.Popen(
        [sys.executable, tmp_path / "cell.py", file], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:

        def evaluates() -> bool:
            return any(entry.phase == "evaluating" for entry in registry.entries())

        Retrying(retry=retry_if_result(lambda yes: not yes), stop=stop_after_delay(100), wait=wait_fixed(0.1))(
            evaluates
        )
        assert evalflow("stop", "--all").returncode == 0
        assert process.stdout is not None
        first, second = process.stdout.read().splitlines()[-2:]
        assert process.wait(60) == 0
    assert first.startswith("Stopped stopped by `evalflow stop`; what was saved is kept")
    assert first.endswith("True")
    assert second.startswith("EngineError scripted stopped while it was starting")
