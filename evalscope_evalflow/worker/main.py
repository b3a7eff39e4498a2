"""The phases of a task, on the parent's word."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, Protocol

from .parent import Parent
from .priority import give_way
from .secrets import mask_keys


class Phases(Protocol):
    """What a stock backend does here."""

    def prepare(self) -> None:
        """Import it."""

    def infer(self) -> None:
        """Save every answer that can be had; `parent.wait_for_model()` gives the model's URL when it is needed."""

    def judge(self) -> None:
        """Score what is saved, and report."""


def phases_of(told: dict[str, Any], parent: Parent) -> Phases:
    """The backend that the parent names."""
    if told["backend"] == "Native":
        from .native import Native

        return Native(told, parent)
    if told["backend"] == "VLMEvalKit":
        from .vlmevalkit import VLMEvalKit

        return VLMEvalKit(told, parent)
    raise ValueError(f"no such backend: {told['backend']}")


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
