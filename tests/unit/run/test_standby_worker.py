"""A worker that is started before its task: whose it becomes, what it is told then, and when it is of no use."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.worker_events import WorkerDone, WorkerExited, WorkerStoodBy
from evalscope_evalflow.events.worker_requests import StartTask
from evalscope_evalflow.processes import registry
from evalscope_evalflow.processes.registry import Registration, new_run_id
from evalscope_evalflow.run.standby_worker import StandbyWorker
from evalscope_evalflow.run.worker_process import Worker
from evalscope_evalflow.sweep import standby as standby_module
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.standby import Standby

KEY = "key-of-this-model-alone"
HALF = """
import os, sys
sys.modules["openai"] = None  # nobody is asked, and it takes its time

class Half:
    @classmethod
    def import_ahead(cls):
        print("ahead, with", os.environ.get("EVALSCOPE_API_KEY"), flush=True)

    def __init__(self, request, channel):
        self.request = request

    def prepare(self):
        print("in earnest, with", os.environ["EVALSCOPE_API_KEY"], flush=True)

    def infer(self):
        pass

    def judge(self, at_once):
        pass
"""
WAIT_S = 60.0
Start = Callable[[], StandbyWorker]


@pytest.fixture
def half(tmp_path: Path) -> str:
    (tmp_path / "half.py").write_text(HALF)
    return f"{tmp_path / 'half.py'}:Half"


@pytest.fixture(autouse=True)
def _variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "runtime"))


@pytest.fixture
def started() -> Iterator[list[StandbyWorker]]:
    workers: list[StandbyWorker] = []
    yield workers
    for worker in workers:
        worker.end()


@pytest.fixture
def start(half: str, started: list[StandbyWorker]) -> Start:
    """Starts one in the test itself: pytest has a variable that is another one while its fixtures are made."""

    def start_one() -> StandbyWorker:
        started.append(StandbyWorker(half, None))
        return started[-1]

    return start_one


def work(half: str, folder: Path, ahead: StandbyWorker) -> tuple[Worker, list[Event], Registration]:
    """A worker's whole life, with a task that needs no model."""
    events: queue.Queue[Event] = queue.Queue()
    entry = Registration(new_run_id())
    request = StartTask(half, ["infer"], {}, str(folder / "failures.jsonl"), "")
    worker = Worker(
        request, env=Environment.find(None), api_key=KEY, log=folder / "worker.log", run_id="run", on_event=events.put,
        entry=entry, standby=ahead,
    )  # fmt: skip
    seen = [events.get(timeout=WAIT_S)]
    while not isinstance(seen[-1], WorkerExited):
        seen.append(events.get(timeout=WAIT_S))
    worker.stop()
    return worker, seen, entry


def test_it_becomes_the_run_s_with_log_key_and_entry(half: str, start: Start, tmp_path: Path) -> None:
    ahead = start()
    assert [item.phase for item in registry.entries()] == ["standby"]
    scratch = ahead.process.scratch
    assert ahead.process.log.parent == scratch
    worker, seen, entry = work(half, tmp_path, ahead)
    assert worker.process is ahead.process
    assert isinstance(seen[0], WorkerStoodBy)
    assert WorkerDone() in seen
    # What it printed before it was anybody's is there, and the key, which came later, is not.
    assert (tmp_path / "worker.log").read_text().splitlines() == ["ahead, with None", "in earnest, with **********"]
    assert not scratch.exists()
    entry.close()
    assert registry.entries() == []


def test_other_variables_make_it_useless(
    half: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EvalScope may have looked at them when it was imported."""
    ahead = start()
    monkeypatch.setenv("MODELSCOPE_CACHE", "/elsewhere")
    worker, seen, entry = work(half, tmp_path, ahead)
    assert worker.process is not ahead.process
    assert not any(isinstance(event, WorkerStoodBy) for event in seen)
    assert WorkerDone() in seen
    assert ahead.process.exited.is_set()
    entry.close()
    assert registry.entries() == []


def test_one_that_is_dead_is_not_taken(half: str, start: Start, tmp_path: Path) -> None:
    ahead = start()
    ahead.process.ask_to_stop()
    assert ahead.process.exited.wait(WAIT_S)
    worker, seen, _ = work(half, tmp_path, ahead)
    assert worker.process is not ahead.process
    assert WorkerDone() in seen


def job() -> Job:
    flow = SimpleNamespace(backend="Native", worker_env=None)
    model, settings = ModelConfig(name="m", path="/m"), DeployConfig(engine="vllm")
    return cast(Job, SimpleNamespace(task=SimpleNamespace(flow=flow), model=model, deploy=settings))


def test_one_at_a_time_within_free_memory_and_none_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def start(*about: Any, **options: Any) -> Any:
        found = SimpleNamespace(process=SimpleNamespace(exited=SimpleNamespace(is_set=lambda: False)), ended=False)
        found.end = lambda: setattr(found, "ended", True)
        started.append(found)
        return found

    monkeypatch.setattr(standby_module, "StandbyWorker", start)
    monkeypatch.setattr(standby_module, "StandbyEngine", start)
    rooms = iter([standby_module.ROOM_BYTES - 1, *[standby_module.ROOM_BYTES] * 9])
    monkeypatch.setattr(standby_module, "room_bytes", lambda: next(rooms))
    standby = Standby(forward=False)
    standby.begin(job())
    assert (started, standby.take()) == ([], None)
    standby.begin(job())
    standby.begin(job())
    assert len(started) == 1
    assert standby.take() is started[0]
    standby.begin(job(), with_engine=True)  # there is no room for that
    assert (len(started), standby.take_engine()) == (2, None)
    monkeypatch.setattr(standby_module, "room_bytes", lambda: 1 << 40)
    standby.begin(job(), with_engine=True)
    standby.begin(job(), with_engine=True)
    assert len(started) == 3
    standby.end(for_good=True)
    assert [item.ended for item in started] == [False, True, True]
    standby.begin(job(), with_engine=True)
    assert len(started) == 3
