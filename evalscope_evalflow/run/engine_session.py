"""The engine of one attempt, from its start until it is kept or released, with the events that say so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from typing import Any

from evalscope_evalflow.config.api_url import public_url
from evalscope_evalflow.engines import Engine
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.engine_events import (
    EngineExited,
    EngineKept,
    EngineNotice,
    EngineReady,
    EngineReleased,
    EngineReused,
    EngineStarting,
    EngineStoodBy,
    EngineUnwell,
    EngineWeights,
    KeptEngineReleased,
)
from evalscope_evalflow.events.run_events import Phase, PhaseBegan, PhaseEnded
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.run.context import Run
from evalscope_evalflow.serving import Deployment, Endpoint, Release, Watch
from evalscope_evalflow.serving.engine_facts import differences, engine_facts
from evalscope_evalflow.serving.warm_pool import clock
from evalscope_evalflow.state import record

HEIR_WITHIN_S = 120.0  # that an engine is kept for a model which begins at once; its worker may look first


class EngineSession:
    """One engine that a run uses.

    Attributes:
        run: the run.
        engine: the engine's kind.
        deployment: the engine itself.
    """

    def __init__(self, run: Run, engine: Engine, entry: Registration, notify: Callable[[Event], None]) -> None:
        """Prepare; nothing is started.

        Args:
            run: who uses it.
            engine: its kind.
            entry: the run's entry in the registry.
            notify: is called, in whatever thread, when it has exited or does not work any more.
        """
        self.run, self.engine = run, engine
        self.deployment = Deployment(
            engine,
            run.model,
            run.deploy,
            log=run.record_folder / "engine.log",
            run_id=run.run_id,
            on_exit=lambda: notify(EngineExited()),
            entry=entry,
            shared=run.control.shares_engine,
            swaps=run.control.swaps_weights,
            standby=run.control.standby_engine,
        )
        self._entry, self._notify = entry, notify
        self._began = 0.0
        self._keep: bool | None = None  # not decided
        self._has_heir = False
        self._deciding = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Start it, or take the same one where it was kept, and return at once."""
        self._began = time.monotonic()
        self.deployment.start()
        self._announce()

    def wait_ready(self) -> Endpoint:
        """Wait until it can be asked.

        Raises:
            EngineError: it could not be started; the message says why.
        """
        before = self.deployment.argv
        endpoint = self.deployment.wait_ready()
        if self.deployment.argv != before:  # a start that failed was tried again, at another port
            self._announce()
        self.run.emit(EngineReady(self.engine.name, public_url(endpoint.api_url), self.deployment.load_s))
        weights = self.deployment.weights
        if weights is not None:
            self.run.emit(EngineWeights(self.engine.name, **asdict(weights)))
        return endpoint

    def watched(self, endpoint: Endpoint) -> AbstractContextManager[object]:
        """A block in which it is looked after; `EngineUnwell` says when it does not work any more."""
        process = self.deployment.process
        if process is None:
            return nullcontext()
        return Watch(
            self.engine,
            process,
            endpoint,
            self.run.deploy.stall_timeout_s,
            lambda cause: self._notify(EngineUnwell(cause)),
        )

    def request_stop(self) -> None:
        """Begin to end it, without waiting; from any thread."""
        if self.deployment.process is not None:
            self.deployment.process.ask_to_stop()

    def all_answered(self) -> None:
        """Nobody will ask it anything more: decide whether it is kept, and else begin to end it; from any thread."""
        with self._deciding:
            if self._keep is None:
                self._keep = self._may_keep()
        if not self._keep:
            self.request_stop()

    @property
    def is_kept(self) -> bool:
        """Whether it was decided that it is kept."""
        return bool(self._keep)

    def close(self) -> None:
        """Keep it, if that was decided and it is well; else release it. Once."""
        if self._closed:
            return
        if not (self._keep and self._kept()):
            self._release()
        self._closed = True

    def release(self) -> None:
        """End it, whatever was decided. Nothing to do after `close`."""
        if not self._closed:
            self._closed = True
            self._release()

    def _announce(self) -> None:
        deployment, name = self.deployment, self.engine.name
        facts = engine_facts(self.engine, deployment.server) if deployment.server is not None else {}
        answers = self.run.answers()
        note = self._note(facts) if answers else ""
        held = deployment.server.devices.names if deployment.server is not None and facts.get("gpus") else []
        about = str(deployment.log), list(deployment.argv), deployment.placement_facts, facts, answers, note, held
        if deployment.reused:
            self.run.emit(EngineReused(name, facts.get("version"), deployment.reused, *about))
        else:
            self.run.emit(EngineStarting(name, facts.get("version"), self.engine.local, *about))
        if deployment.server is not None and deployment.server.stood_by_s is not None and not deployment.reused:
            self.run.emit(EngineStoodBy(name, deployment.server.stood_by_s))
        if note:
            self.run.emit(EngineNotice(note))
        for note in deployment.notes:
            self.run.emit(EngineNotice(note))
        deployment.notes.clear()

    def _note(self, facts: dict[str, Any]) -> str:
        """What has to be known of answers that are added to those that are saved."""
        before = record.answers_from(self.run.folder)
        changes = differences(before[-1], facts) if before else []
        notes = [f"the saved answers are of {'; of '.join(changes)}"] if changes else []
        why = self.engine.why_answers_differ(self.run.deploy)
        if why:
            notes.append(f"{why}: together with the saved ones they are no run that can be repeated")
        return "; ".join(notes)

    def _may_keep(self) -> bool:
        """Whether it may stay for whoever wants the same one next."""
        if self._entry.stopped or not self.deployment.is_ready:
            return False
        self._has_heir = self.run.control.heir_waits()
        return self._has_heir or (self.run.deploy.keep_alive_s > 0 and self.run.control.may_keep_engine())

    def _kept(self) -> bool:
        def released(found: Release) -> None:
            self._emit(KeptEngineReleased(bool(found), found.problems()))

        until = self.deployment.keep(released, HEIR_WITHIN_S if self._has_heir else 0)
        if until is None:
            return False
        held_s = round(time.monotonic() - self._began, 3)
        self._emit(EngineKept(self.engine.name, clock(until), held_s, self._has_heir))
        return True

    def _release(self) -> None:
        deployment = self.deployment
        if deployment.process is None:  # an API that runs elsewhere, or a start that came to nothing
            deployment.release()
            return
        began = time.monotonic()
        self._emit(PhaseBegan(Phase.RELEASE))
        try:
            released = deployment.release()
        finally:  # a signal may come between; what is left of the release is done, and timed, after that
            ended = time.monotonic()
            self._emit(PhaseEnded(Phase.RELEASE, round(ended - began, 3)))
        problems = released.problems()
        self.run.left += [f"{self.engine.name} was ended, but {line}" for line in problems]
        self._emit(
            EngineReleased(
                self.engine.name,
                released=bool(released),
                seconds=round(ended - began, 3),
                held_s=round(ended - self._began, 3),
                problems=problems,
                warnings=released.warnings(),
                details=asdict(released),
            )
        )

    def _emit(self, event: Event) -> None:
        """Tell of its end, as far as that can be: a full disk must not keep an engine from being released."""
        with suppress(OSError):
            self.run.emit(event)
