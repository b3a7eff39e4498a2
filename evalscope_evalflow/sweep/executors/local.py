"""This machine: jobs on disjoint devices, the next one as soon as there are some for it, judged beside all that."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from evalscope_evalflow.devices.claims import busy, settle
from evalscope_evalflow.devices.nvml import split
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.errors import EvalFlowError, Stopped
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.sweep.executors.base import Executor
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.jobs import order_of
from evalscope_evalflow.sweep.judge_limit import JudgeBudget


@dataclass(eq=False)
class _Run:
    """A job that waits or runs."""

    job: Job
    future: Future[ModelResult]
    control: _Hold
    held: tuple[str, ...] = ()
    thread: threading.Thread | None = field(default=None, repr=False)


class _Hold(Control):
    """Gives a job's devices back when its engine is gone, and lets it judge within the judge's limit."""

    def __init__(self, executor: Local, budget: JudgeBudget) -> None:
        super().__init__()
        self._executor, self._budget = executor, budget
        self.run: _Run | None = None

    def cancel(self) -> None:
        super().cancel()
        self._budget.wake()

    def devices_over(self) -> None:
        if self.run is not None and self.run.job.serves:
            self._executor.give_back(self.run)

    def may_keep(self) -> bool:
        return not self._executor.waits()

    def judging(self, verdicts: int) -> AbstractContextManager[int | None]:
        return self._budget.share(verdicts, self.check)


class Local(Executor):
    """Runs each job in a thread, its engine and its worker being processes of their own."""

    name = "local"

    def __init__(self, reporter: LiveReporter) -> None:
        super().__init__(reporter)
        self._lock = threading.RLock()
        self._waiting: list[_Run] = []
        self._running: list[_Run] = []
        self._free: dict[str, None] = {}  # in their order
        self._strict = False

    def submit(self, jobs: Sequence[Job]) -> list[Future[ModelResult]]:
        budget = JudgeBudget(max((job.size.verdicts_at_once for job in jobs), default=1))
        order = order_of(jobs)
        runs = []
        for job in jobs:
            control = _Hold(self, budget)
            control.run = _Run(job, Future(), control)
            runs.append(control.run)
        with self._lock:
            self._strict = order.strict
            self._free.update((name, None) for job in jobs for name in job.claim.devices)
            self._waiting += [runs[number] for number in order.jobs]
            self._begin_what_fits()
        return [run.future for run in runs]

    def cancel(self) -> None:
        self._drop_waiting()
        with self._lock:
            running = list(self._running)
        for run in running:
            run.control.cancel()
        for run in running:
            if run.thread is not None:
                run.thread.join()

    def waits(self) -> bool:
        """Whether a job waits for devices."""
        with self._lock:
            return bool(self._waiting)

    def give_back(self, run: _Run) -> None:
        """A job's devices are free for others, once; if something is left on them, nobody is given them any more."""
        with self._lock:
            if run.held and run.control.clean:
                self._free.update(dict.fromkeys(run.held))
            elif run.held:
                left = ", ".join(run.held)
                self.reporter.warn(
                    f"{run.job.model.name}: its engine is not wholly gone from {left}, which stays unused"
                )
            run.held = ()
            self._begin_what_fits()

    def _begin_what_fits(self) -> None:
        """Begin what there are devices for, in order. What waits for more keeps them from others only if `_strict`."""
        with self._lock:
            free = dict(self._free)
            chosen: list[tuple[_Run, list[str]]] = []
            for run in list(self._waiting):
                mine = _among(run, free)
                try:
                    taken = self._choose(run, mine)
                except EvalFlowError as error:  # whoever waits for it would do so for ever
                    self._waiting.remove(run)
                    _refuse(run, error)
                    continue
                if taken is not None:
                    chosen.append((run, taken))
                for name in taken if taken is not None else mine if self._strict else ():
                    free.pop(name)
            others = len(self._waiting) - len(chosen)
            for number, (run, taken) in enumerate(chosen):
                # What nobody waits for becomes replicas of those that begin.
                spare = [] if others else _part(_among(run, free), len(chosen) - number, run.job.claim.needs)
                for name in spare:
                    free.pop(name)
                self._begin(run, [*taken, *spare], others)
            if not self._running:
                self._give_up()

    def _choose(self, run: _Run, free: list[str]) -> list[str] | None:
        """Devices of these that a job takes, as few as it needs; None where it has to wait."""
        if len(free) < run.job.claim.needs:
            return None
        settings = self._settle(run, free, waiting=1)
        return None if settings is None else _named(settings, free[: run.job.claim.needs])

    def _settle(self, run: _Run, free: list[str], waiting: int) -> dict[str, Any] | None:
        job = run.job
        if not job.claim.assigned:  # an engine that is not installed here is no obstacle to judging
            return {} if len(free) >= job.claim.needs else None
        deploy = job.task.flow.deploy_for(job.model)
        return settle(resolve_engine(job.model, deploy), job.model, deploy, job.claim, free, waiting)

    def _begin(self, run: _Run, devices: list[str], waiting: int) -> None:
        """Begin a job on these devices, or on those of them that it can use."""
        settings = self._settle(run, devices, waiting) or {}
        run.held = tuple(_named(settings, devices))
        for name in run.held:
            self._free.pop(name, None)
        self._waiting.remove(run)
        self._running.append(run)
        job = run.job.served(**settings) if settings else run.job
        self.reporter.given(job.model.name, ", ".join(run.held))
        run.thread = threading.Thread(
            target=self._work, args=(run, job), daemon=True, name=f"evalflow {job.model.name}"
        )
        run.thread.start()

    def _work(self, run: _Run, job: Job) -> None:
        """A job, from its begin to its end, in a thread of its own."""
        run.future.set_running_or_notify_cancel()
        result: ModelResult | BaseException
        try:
            result = job.run(self.reporter, run.control)
        except BaseException as error:  # noqa: BLE001 - whoever waits for the future gets it
            result = error
        if isinstance(result, Stopped) and result.everything:
            self._drop_waiting()
        with self._lock:
            self._running.remove(run)
            self.give_back(run)
        if isinstance(result, BaseException):
            run.future.set_exception(result)
        else:
            run.future.set_result(result)

    def _give_up(self) -> None:
        """Nothing runs whose end could change that there are no devices for what waits."""
        for run in list(self._waiting):
            self._waiting.remove(run)
            names = [name for name in run.job.claim.devices if name in self._free]
            held = "".join(f"; device {name} is in use: {who}" for name, who in busy(names).items())
            claim = run.job.claim
            what = f"it needs {claim.needs} of the devices {', '.join(claim.devices)}, and not so many are left{held}"
            _refuse(run, EvalFlowError(what))

    def _drop_waiting(self) -> None:
        """Begin nothing more."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for run in waiting:
            _refuse(run, Stopped.all("interrupted before it was begun"))


def _refuse(run: _Run, error: EvalFlowError) -> None:
    """A job that will never be begun."""
    run.future.set_running_or_notify_cancel()
    run.future.set_exception(error)


def _among(run: _Run, free: Iterable[str]) -> list[str]:
    """The devices of these that a job may be given."""
    there = set(free)
    return [name for name in run.job.claim.devices if name in there]


def _named(settings: Mapping[str, Any], otherwise: list[str]) -> list[str]:
    """The devices that settings of `deploy` name."""
    named = settings.get("devices")
    return otherwise if named is None else list(split(named))


def _part(spare: list[str], jobs: int, size: int) -> list[str]:
    """A job's part of devices that it shares with others, in multiples of what it needs."""
    groups = len(spare) // max(1, size)
    return spare[: -(-groups // jobs) * size]
