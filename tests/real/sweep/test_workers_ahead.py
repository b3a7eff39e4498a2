"""The next model's worker, started while the present one is asked: it is used, and nothing of it is ever left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from fault_run import orphans_come_here, wait_for

from evalscope_evalflow.processes import registry

pytestmark = pytest.mark.real
SCRIPTED = Path(__file__).parents[2] / "scripted"
BIN = Path(sys.executable).parent
GONE_WITHIN_S = 5.0


@pytest.fixture(autouse=True)
def _nobody_is_overlooked() -> Iterator[None]:
    with orphans_come_here():
        yield


class TwoModels:
    """A sweep of two models on one device, one after the other."""

    def __init__(self, stock_task: dict[str, Any], folder: Path) -> None:
        self.folder, self.work = folder, Path(stock_task["work_dir"])
        self.stock = {**stock_task, "limit": 2}

    def start(self, engine: str, models: list[dict[str, Any]]) -> subprocess.Popen[str]:
        file = self.folder / "task.yaml"
        one_device = {"devices": "0", "tensor_parallel": 1} if engine.startswith("scripted") else {}
        flow = {"backend": "Native", "models": models, "deploy": {"engine": engine, **one_device}}
        file.write_text(yaml.safe_dump({**self.stock, "evalflow": flow}))
        return subprocess.Popen([BIN / "evalflow", "run", file], stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                                text=True, env={**os.environ, "PYTHONPATH": str(SCRIPTED)})  # fmt: skip

    def record(self, model: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.work / model / "evalflow" / "run.json").read_text())
        return found

    def events(self, model: str) -> list[dict[str, Any]]:
        path = self.work / model / "evalflow" / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def metrics(self, model: str) -> list[Any]:
        found = [result["metrics"] for result in self.record(model)["results"].values()]
        assert all(found)
        return found


@pytest.fixture
def two_models(stock_task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoModels:
    monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path / "runtime"))
    return TwoModels(stock_task, tmp_path)


def scripted(seconds: float, *names: str) -> list[dict[str, Any]]:
    script = ["--answer-seconds", str(seconds)]
    return [{"name": name, "path": "any", "deploy": {"extra_args": script}} for name in names]


def standby(killed: Sequence[str] = (), role: str = "worker") -> registry.Entry | None:
    """The entry of the worker, or engine, that waits, once its command runs; not one of those that were killed."""
    found = [entry for entry in registry.entries() if entry.phase == "standby" and entry.run_id not in killed]
    return next((entry for entry in found if entry.guards and role in entry.commands), None)


def worker_of(entry: registry.Entry) -> psutil.Process:
    guard = psutil.Process(entry.guards[0].pid)
    wait_for(guard.children, "the worker below its guard")
    return guard.children()[0]


def imported_s(events: list[dict[str, Any]]) -> float:
    """Seconds from a worker's start, or its task, until all is imported."""
    times = {event["event"]: datetime.fromisoformat(event["time"]) for event in events}
    return (times["WorkerImported"] - times["WorkerStarted"]).total_seconds()


def finish(process: subprocess.Popen[str]) -> str:
    _, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    return err


def test_on_llamacpp_the_second_model_finds_its_worker_ready(two_models: TwoModels, gguf: Path) -> None:
    models = [{"name": name, "path": str(gguf)} for name in ("a", "b")]
    models[1]["deploy"] = {"max_model_len": 1024}  # another engine: nothing is handed over
    finish(two_models.start("llamacpp", models))
    ahead = two_models.record("b")["worker_ahead"]
    assert ahead["import_s"] > imported_s(two_models.events("b"))  # nearly nothing is left to be imported
    assert "worker_ahead" not in two_models.record("a")
    assert two_models.metrics("a") == two_models.metrics("b")
    assert registry.entries() == []


def test_one_that_is_killed_is_replaced_by_an_ordinary_one(two_models: TwoModels) -> None:
    """The second model's worker is killed, and the third one's guard."""
    process = two_models.start("scripted", scripted(1.5, "a", "b", "c"))
    killed: list[str] = []
    for following, kill_guard in (("b", False), ("c", True)):
        entry = wait_for(lambda: standby(killed), "a worker ahead", 120)
        worker = worker_of(entry)
        assert not (two_models.work / following).exists()
        (psutil.Process(entry.guards[0].pid) if kill_guard else worker).kill()
        assert psutil.wait_procs([worker], timeout=GONE_WITHIN_S)[1] == []
        killed.append(entry.run_id)
    finish(process)
    for following in ("b", "c"):
        assert "worker_ahead" not in two_models.record(following)
        assert two_models.metrics(following) == two_models.metrics("a")
    assert registry.entries() == []


def test_the_next_engine_s_process_is_ready_too_and_one_that_is_killed_is_replaced(two_models: TwoModels) -> None:
    """The second model's becomes its engine; the third one's is killed."""
    process = two_models.start("scripted-ahead", scripted(1.5, "a", "b", "c"))
    first = wait_for(lambda: standby(role="engine"), "an engine ahead", 120)
    assert (first.devices, first.port) == ("", None)  # whoever looks for devices finds them free
    assert not (two_models.work / "b").exists()
    second = wait_for(lambda: standby([first.run_id], role="engine"), "another one", 120)
    engine = worker_of(second)
    engine.kill()
    assert psutil.wait_procs([engine], timeout=GONE_WITHIN_S)[1] == []
    finish(process)
    assert [("engine_ahead" in two_models.record(name)) for name in ("a", "b", "c")] == [False, True, False]
    assert two_models.record("b")["engine_ahead"]["stood_by_s"] > 0
    assert "evalflow: imported ahead in" in (two_models.work / "b" / "evalflow" / "engine.log").read_text()
    assert two_models.metrics("a") == two_models.metrics("b") == two_models.metrics("c")
    assert registry.entries() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_goes_with_its_owner_and_leaves_no_folder(two_models: TwoModels, number: signal.Signals) -> None:
    process = two_models.start("scripted-ahead", scripted(5.0, "a", "b"))
    entries = {role: wait_for(lambda role=role: standby(role=role), "it stands by") for role in ("worker", "engine")}
    worker = worker_of(entries["worker"])
    scratch = [entry.commands[role].scratch for role, entry in entries.items()]
    worker_of(entries["engine"])
    below = psutil.Process(process.pid).children(recursive=True)
    assert worker in below
    process.send_signal(number)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(below, timeout=GONE_WITHIN_S)
    assert [other.cmdline() for other in alive if other.status() != psutil.STATUS_ZOMBIE] == []
    assert [folder for folder in scratch if folder.exists()] == []
    assert not (two_models.work / "b").exists()
