"""Runs the phases of a task, one after the other, when the parent asks for them."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any, Protocol

from evalscope_evalflow.events.disk_errors import disk_error
from evalscope_evalflow.events.worker_events import (
    AnswersSaved,
    WorkerDone,
    WorkerFailed,
    WorkerImported,
    WorkerJudging,
    WorkerStoodBy,
)
from evalscope_evalflow.events.worker_requests import ImportAhead, SetVariables, StartTask
from evalscope_evalflow.worker.api_calls import ApiCalls
from evalscope_evalflow.worker.api_clients import patch_clients
from evalscope_evalflow.worker.channel import Channel, open_channel
from evalscope_evalflow.worker.circuit import Pace
from evalscope_evalflow.worker.credentials import mask_keys
from evalscope_evalflow.worker.priority import give_way
from evalscope_evalflow.worker.request_slots import RequestSlots
from evalscope_evalflow.worker.unicode_text import mend_texts

BACKENDS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "backends")
OURS = "evalscope_evalflow.backends"
HALF = "evalflow_worker_half"  # the package that a worker half of another package is in, here


class WorkerHalf(Protocol):
    """What a stock backend does in the worker. It is made with the StartTask request and the channel.

    A class method `import_ahead()`, if there is one, imports what every task needs; nothing of the task is known yet.
    """

    def prepare(self) -> None:
        """Import it."""

    def infer(self) -> None:
        """Save every answer that can be had; `channel.wait_for_model()` gives the model's URL when it is needed."""

    def judge(self, at_once: int | None) -> None:
        """Score what is saved, and report; `at_once` answers at a time."""


def load_half(worker_half: str) -> Any:
    """The class of the worker half that a request names.

    It is loaded by its path, as its package need not be installed in this environment: its folder is a package here,
    so that it may import the files beside it.
    """
    path, _, name = worker_half.rpartition(":")
    folder, file = os.path.split(path)
    inside = os.path.relpath(folder, BACKENDS)
    package = HALF if inside.startswith(os.pardir) else f"{OURS}.{inside.replace(os.sep, '.')}"
    if package not in sys.modules:
        module = types.ModuleType(package)
        module.__path__ = [folder]
        sys.modules[package] = module
    return getattr(importlib.import_module(f"{package}.{os.path.splitext(file)[0]}"), name)


def stand_by(request: ImportAhead, channel: Channel) -> tuple[StartTask, Channel, Callable[[], None]]:
    """Import what the task will need, at a low priority, and wait for it.

    Returns:
        What `run` is called with: the task, the channel, and what gives this process its priority again.
    """
    began = time.monotonic()
    restore = give_way()
    try:
        getattr(load_half(request.worker_half), "import_ahead", lambda: None)()
    except Exception:  # noqa: BLE001 - the task that needs it will say so
        traceback.print_exc()
    imported = time.monotonic()
    for name, value in channel.receive(SetVariables).variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    task = channel.receive(StartTask)
    waited_s = time.monotonic() - imported
    channel.emit(WorkerStoodBy(round(imported - began, 3), round(waited_s, 3)))
    return task, channel, restore


def run(request: StartTask, channel: Channel, restore: Callable[[], None] | None = None) -> None:
    """Do what the request says.

    Args:
        request: it.
        channel: to the parent.
        restore: gives this process its priority again, where that was lowered.
    """
    mask_keys()
    if "infer" in request.phases:
        channel.on_model_ready = restore or give_way()
    elif restore is not None:
        restore()
    half: WorkerHalf = load_half(request.worker_half)(request, channel)
    half.prepare()
    calls = ApiCalls(
        Pace(request.stall_timeout_s),
        channel.emit,
        lambda: channel.api_url,
        own_engine=request.own_engine,
        own_judge=request.own_judge,
        slots=RequestSlots(*request.request_slots) if request.request_slots else None,
        judge_slots=RequestSlots(*request.judge_slots) if request.judge_slots else None,
    )
    with contextlib.suppress(ImportError):  # a backend of somebody's own may ask models by other means
        patch_clients()
        mend_texts()
        calls.install()
    channel.emit(WorkerImported())
    if "infer" in request.phases:
        half.infer()
        channel.on_model_ready()  # it was not needed
        channel.emit(AnswersSaved())
    if "judge" in request.phases:
        at_once = channel.wait_to_judge()
        calls.begin_judging()
        channel.emit(WorkerJudging())
        half.judge(at_once if at_once and request.judge_batch_size else request.judge_batch_size)


def main() -> None:
    """Run the task, and report how it ended."""
    channel = open_channel()
    first = channel.receive(StartTask, ImportAhead)
    code, folder = 0, os.getcwd()
    try:
        restore = None
        if isinstance(first, ImportAhead):
            first, channel, restore = stand_by(first, channel)
        folder = os.path.dirname(os.path.dirname(first.failures_file))
        run(first, channel, restore)
        channel.emit(WorkerDone())
    except Exception as error:  # noqa: BLE001 - whatever a benchmark raises is the parent's to report
        traceback.print_exc()
        found = disk_error(error, folder)
        failed = WorkerFailed.of_disk(found) if found else WorkerFailed(type(error).__name__, str(error))
        channel.emit(failed)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # results are on disk; EvalScope's threads and imports take a second to unwind
