"""The phases of a task, on the parent's word."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any, Protocol

from evalscope_evalflow.worker.channel import Parent
from evalscope_evalflow.worker.credentials import mask_keys
from evalscope_evalflow.worker.priority import give_way


class Phases(Protocol):
    """What a stock backend does here."""

    def prepare(self) -> None:
        """Import it."""

    def infer(self) -> None:
        """Save every answer that can be had; `parent.wait_for_model()` gives the model's URL when it is needed."""

    def judge(self) -> None:
        """Score what is saved, and report."""


def phases_of(told: dict[str, Any], parent: Parent) -> Phases:
    """The worker half of the backend that the parent names, as `module:class`."""
    module, _, name = told["backend"].partition(":")
    phases: Phases = getattr(importlib.import_module(module), name)(told, parent)
    return phases


def run(told: dict[str, Any], parent: Parent) -> None:
    """Do what we were told."""
    mask_keys()
    if "infer" in told["phases"]:
        parent.once_the_engine_is_there = give_way()
    backend = phases_of(told, parent)
    backend.prepare()
    parent.say("imported")
    if "infer" in told["phases"]:
        backend.infer()
        parent.once_the_engine_is_there()  # it was not needed
        parent.say("predicted")
    if "judge" in told["phases"]:
        at_once = parent.wait_to_judge()
        if at_once and told.get("judge_batch_size"):
            told["judge_batch_size"] = at_once  # other models ask the same judge
        parent.say("judging")
        backend.judge()


def main() -> None:
    """Do it, and say how it ended."""
    parent = Parent(int(os.environ.pop("EVALFLOW_STATUS_FD")))
    told = parent.listen()
    code = 0
    try:
        run(told, parent)
        parent.say("done")
    except Exception as error:  # noqa: BLE001 - whatever a benchmark raises is the parent's to report
        traceback.print_exc()
        parent.say("failed", kind=type(error).__name__, message=str(error))
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # results are on disk; EvalScope's threads and imports take a second to unwind
