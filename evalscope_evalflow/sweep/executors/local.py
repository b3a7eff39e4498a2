"""This machine: jobs on disjoint devices, each as soon as its devices are free; judging goes on beside them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from evalscope_evalflow.config.plugin_options import PluginOptions
from evalscope_evalflow.devices.claims import Claim, busy, settle
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.errors import EvalFlowError, Stopped
from evalscope_evalflow.events.run_events import FilesReadAhead
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.run.control import Control, JudgeUse
from evalscope_evalflow.run.standby_worker import StandbyWorker
from evalscope_evalflow.serving.standby_engine import StandbyEngine
from evalscope_evalflow.sweep.device_shares import among, named, share_of
from evalscope_evalflow.sweep.engine_groups import release_kept_for_heirs
from evalscope_evalflow.sweep.executors.base import Executor
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.jobs import order_of, parts_of
from evalscope_evalflow.sweep.judge_engine import JudgeEngine
from evalscope_evalflow.sweep.judge_limit import JudgeBudget
from evalscope_evalflow.sweep.judge_sharing import lenders
from evalscope_evalflow.sweep.local_claims import claims_here
from evalscope_evalflow.sweep.order import Order, Part, heir
from evalscope_evalflow.sweep.prefetch import Prefetch, weights_of
from evalscope_evalflow.sweep.standby import Standby


@dataclass(eq=False)
class _LocalRun:
    """A job that waits or runs."""

    job: Job
    claim: Claim
    future: Future[ModelResult]
    control: _LocalControl
    number: int
    held: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # of `deploy`, which give it what it holds
    heir: _LocalRun | None = None  # waits, and begins with this one's engine and devices
    ahead: Prefetch | None = None  # reads its files while it waits
    has_worker: bool = False  # it has begun with one, or does so now
    reserved: bool = False  # it is somebody's heir
    lends: bool = False  # the judge can go on with its engine
    thread: threading.Thread | None = field(default=None, repr=False)


class _LocalControl(Control):
    """Gives a job's devices back when its engine is gone, and lets it judge within the judge's limit."""

    def __init__(self, executor: Local, budget: JudgeBudget) -> None:
        super().__init__()
        self._executor, self._budget = executor, budget
        self.run: _LocalRun | None = None

    def cancel(self) -> None:
        super().cancel()
        self._budget.wake()
        if self._executor.judge is not None:
            self._executor.judge.wake()

    def devices_released(self) -> None:
        if self.run is not None and self.run.job.asks_model:
            self._executor.give_back(self.run)

    def may_keep_engine(self) -> bool:
        return not self._executor.waits()

    def engine_ready(self) -> None:
        self._executor.read_next_ahead()
        self._executor.stand_by()

    def standby_engine(self) -> StandbyEngine | None:
        return self._executor.standby.take_engine()

    def standby_worker(self) -> StandbyWorker | None:
        worker = self._executor.standby.take()
        if self.run is not None:
            self.run.has_worker = True
        self._executor.end_standby_if_unneeded()
        return worker

    def read_ahead(self) -> FilesReadAhead | None:
        return None if self.run is None or self.run.ahead is None else self.run.ahead.stop()

    def heir_waits(self) -> bool:
        return self.run is not None and self._executor.reserve_heir(self.run)

    def judge_ahead(self, datasets: Sequence[str]) -> list[str]:
        return self._budget.first_of(datasets)

    def own_judge(self, lost: Callable[[str], None]) -> AbstractContextManager[JudgeUse]:
        assert self._executor.judge is not None
        return self._executor.judge.use(self.check, lost)

    def judging(self, verdicts: int) -> AbstractContextManager[int | None]:
        return self._budget.share(verdicts, self.check)


class Local(Executor):
    """Runs each job in a thread, its engine and its worker being processes of their own."""

    name = "local"
    interface_version = 1

    class Options(PluginOptions):
        """Options of `executor: {name: local, …}`."""

        max_models: int | None = Field(
            None, gt=0, description="models served at once; default: as many as there are devices for"
        )

    def __init__(self, reporter: LiveReporter, options: PluginOptions | None = None) -> None:
        super().__init__(reporter, options)
        assert isinstance(self.options, Local.Options)
        self._most_served = self.options.max_models or math.inf
        self._lock = threading.RLock()
        self._waiting: list[_LocalRun] = []
        self._running: list[_LocalRun] = []
        self._free: dict[str, None] = {}  # in their order
        self._parts: list[Part] = []
        self._order = Order(())
        self.judge: JudgeEngine | None = None
        self._judge_claim = Claim()
        self._lender: _LocalRun | None = None  # the judge goes on with its engine
        self.standby = Standby(reporter.forward)

    def submit(self, jobs: Sequence[Job]) -> list[Future[ModelResult]]:
        judged = [job for job in jobs if job.asks_own_judge]
        if judged:
            self.judge = judge = JudgeEngine(judged[0].task, self.reporter.log, self.reporter.warn)
            self._judge_claim = judge.claim()
            self._free.update(dict.fromkeys(self._judge_claim.devices))
        at_once = max((job.size.verdicts_at_once for job in jobs), default=1)
        if self.judge is not None:
            at_once = min(at_once, self.judge.engine.max_num_seqs(self.judge.deploy))
        budget = JudgeBudget(at_once)
        claims = self.claims_of(jobs)
        order = order_of(jobs, claims)
        runs, lending = [], lenders(jobs)
        for number, (job, claim) in enumerate(zip(jobs, claims, strict=True)):
            control, lends = _LocalControl(self, budget), number in lending
            control.run = _LocalRun(job, claim, Future(), control, number, lends=lends)
            control.shares_engine, control.swaps_weights = bool(job.group) or lends, job.group.swaps or lends
            runs.append(control.run)
        with self._lock:
            self._parts, self._order = parts_of(jobs, claims), order
            self._free.update((name, None) for claim in claims for name in claim.devices)
            self._waiting += [runs[number] for number in order.jobs]
            self._begin_what_fits()
        return [run.future for run in runs]

    def cancel(self) -> None:
        self._drop_waiting()
        self.standby.end(for_good=True)
        with self._lock:
            running = list(self._running)
        for run in running:
            run.control.cancel()
        for run in running:
            if run.thread is not None:
                run.thread.join()

    def claims_of(self, jobs: Sequence[Job]) -> list[Claim]:
        """The devices of this machine that each job may be given.

        Raises:
            ConfigError: a model fits nowhere.
        """
        return claims_here(jobs)

    def waits(self) -> bool:
        """Whether a job waits for devices."""
        with self._lock:
            return bool(self._waiting)

    def give_back(self, run: _LocalRun) -> None:
        """Free a job's devices for its heir or for others, once; if something is left on them, they stay unused."""
        with self._lock:
            following, run.heir = run.heir, None
            lends, self._lender = self._lender is run, None if self._lender is run else self._lender
            if following is not None:
                following.reserved = False
            if run.held and run.control.clean and following in self._waiting:
                assert following is not None
                held, run.held = run.held, ()
                self._start(following, held, run.settings)
            elif run.held and run.control.clean and lends and self._judge_is_wanted():
                assert self.judge is not None
                run.held = ()
                self.judge.begin(run.settings)
            elif run.held and run.control.clean:
                self._free.update(dict.fromkeys(run.held))
            elif run.held:
                left = ", ".join(run.held)
                name = run.job.model.name
                self.reporter.warn(f"{name}: its engine is not wholly gone from {left}, which stays unused")
            run.held = ()
            self._begin_what_fits()

    def read_next_ahead(self) -> None:
        """Read the files of the job that waits at the head of the order, once; of one at a time."""
        with self._lock:
            following = next((run for run in self._waiting if run.job.asks_model and run.job.model.path), None)
            if following is not None and following.ahead is None:
                files = weights_of(following.job)
                following.ahead = Prefetch(files) if files else None

    def stand_by(self) -> None:
        """Start ahead what the next job needs, if one waits whose model is asked."""
        with self._lock:
            following = next((run for run in self._waiting if run.job.asks_model), None)
            if following is not None:
                shared = {run.job.group for run in self._running if run.held and run.job.group}
                self.standby.begin(following.job, with_engine=following.job.group not in shared)

    def end_standby_if_unneeded(self) -> None:
        """End the worker that was started ahead, if no job is left that has not begun one."""
        with self._lock:
            needed = bool(self._waiting) or any(not run.has_worker for run in self._running)
        if not needed:
            self.standby.end()

    def reserve_heir(self, run: _LocalRun) -> bool:
        """Choose who begins with a job's engine, as soon as `give_back` is called: a waiting job, or the judge.

        Returns:
            Whether anybody does.
        """
        with self._lock:
            if run.heir is None and run.held:
                waiting = {other.number: other for other in self._waiting if not other.reserved}
                number = heir(self._parts, list(waiting), set(self._free), run.number, run.held, self._order)
                if number is not None:
                    run.heir = waiting[number]
                    run.heir.reserved = True
                elif self._lends_to_judge(run):
                    self._lender = run
            return run.heir is not None or self._lender is run

    def _lends_to_judge(self, run: _LocalRun) -> bool:
        """Whether the judge begins with a job's engine, on the same devices; the lock is held."""
        wanted = {*self._judge_claim.devices}
        if self._lender is not None or not run.lends or not self._judge_is_wanted() or not {*run.held} <= wanted:
            return False
        return not any(wanted & {*other.claim.devices} for other in self._waiting)

    def _judge_is_wanted(self) -> bool:
        """Whether the judge is needed and was not begun; the lock is held."""
        judge = self.judge
        return judge is not None and not judge.has_begun and any(run.job.asks_own_judge for run in self._running)

    def _begin_what_fits(self) -> None:
        """Begin the jobs that there are devices for, in order; one that waits keeps its devices in a strict order."""
        with self._lock:
            free = dict(self._free)
            chosen: list[tuple[_LocalRun, list[str]]] = []
            for run in [run for run in self._waiting if not run.reserved]:
                if run.job.asks_model and self._served() + len(chosen) >= self._most_served:
                    continue
                mine = among(run.claim, free)
                try:
                    taken = self._choose(run, mine)
                except EvalFlowError as error:  # its future would never be done
                    self._waiting.remove(run)
                    _refuse(run, error)
                    continue
                if taken is not None:
                    chosen.append((run, taken))
                for name in taken if taken is not None else mine if self._order.strict else ():
                    free.pop(name)
            others = len(self._waiting) - len(chosen)
            for number, (run, taken) in enumerate(chosen):
                # Devices that no job waits for become replicas of those that begin.
                spare = [] if others else share_of(among(run.claim, free), len(chosen) - number, run.claim.needs)
                for name in spare:
                    free.pop(name)
                self._begin(run, [*taken, *spare], others)
            if not self._running:
                self._give_up()
            self._begin_judge()

    def _begin_judge(self) -> None:
        """Begin the judge, if it is needed, and its devices are free and no job waits for them; the lock is held."""
        judge, wanted = self.judge, self._judge_claim
        if judge is None or not self._judge_is_wanted() or self._lender is not None:
            return
        if any({*wanted.devices} & {*run.claim.devices} for run in self._waiting):
            return
        holders = [run for run in self._running if {*run.held} & {*wanted.devices}]
        free = [name for name in wanted.devices if name in self._free]
        settings = settle(judge.engine, judge.model, judge.deploy, wanted, free, waiting=1)
        if settings is not None and self._served() < self._most_served:
            for name in named(settings, free[: wanted.needs]):
                self._free.pop(name, None)
            judge.begin(settings)
        elif not holders and not self._served():
            held = "".join(f"; device {name} is in use: {who}" for name, who in busy(free).items())
            need = f"it needs {wanted.needs} of the devices {', '.join(wanted.devices)}, and too few are left{held}"
            judge.refuse(EvalFlowError(f"the judge: {need}"))

    def _served(self) -> int:
        """Models whose engines have devices."""
        return sum(1 for run in self._running if run.held and run.job.asks_model)

    def _choose(self, run: _LocalRun, free: list[str]) -> list[str] | None:
        """The free devices that a job takes, as few as it needs; None: it has to wait."""
        if len(free) < run.claim.needs:
            return None
        settings = self._settle(run, free, waiting=1)
        return None if settings is None else named(settings, free[: run.claim.needs])

    def _settle(self, run: _LocalRun, free: list[str], waiting: int) -> dict[str, Any] | None:
        job = run.job
        if not run.claim.assigned:  # an engine that is not installed here is no obstacle to judging
            return {} if len(free) >= run.claim.needs else None
        deploy = job.deploy
        return settle(resolve_engine(job.model, deploy), job.model, deploy, run.claim, free, waiting)

    def _begin(self, run: _LocalRun, devices: list[str], waiting: int) -> None:
        """Begin a job on those of these devices that it can use."""
        settings = self._settle(run, devices, waiting) or {}
        held = tuple(named(settings, devices))
        for name in held:
            self._free.pop(name, None)
        self._start(run, held, settings)

    def _start(self, run: _LocalRun, held: tuple[str, ...], settings: Mapping[str, Any]) -> None:
        """Start the thread of a job that holds these devices now, by these settings of `deploy`."""
        run.held, run.settings = held, settings
        self._waiting.remove(run)
        self._running.append(run)
        job = run.job.with_deploy(**settings) if settings else run.job
        self.reporter.given(job.model.name, ", ".join(run.held))
        run.thread = threading.Thread(
            target=self._work, args=(run, job), daemon=True, name=f"evalflow {job.model.name}"
        )
        run.thread.start()

    def _work(self, run: _LocalRun, job: Job) -> None:
        """Run a job in a thread of its own."""
        run.future.set_running_or_notify_cancel()
        result: ModelResult | BaseException
        try:
            result = job.run(self.reporter, run.control)
        except BaseException as error:  # noqa: BLE001 - the future carries it
            result = error
        if isinstance(result, Stopped) and result.everything:
            self._drop_waiting()
        with self._lock:
            self._running.remove(run)
            self.give_back(run)
            last = not self._running and not self._waiting
            judged = not any(other.job.asks_own_judge for other in (*self._running, *self._waiting))
        if self.judge is not None and run.job.asks_own_judge and judged:
            self.judge.end()
            if isinstance(result, ModelResult):
                result.left += self.judge.left
        self.end_standby_if_unneeded()
        if last:
            release_kept_for_heirs()
        if isinstance(result, BaseException):
            run.future.set_exception(result)
        else:
            run.future.set_result(result)

    def _give_up(self) -> None:
        """Refuse what waits: nothing runs that could free the devices for it."""
        for run in list(self._waiting):
            self._waiting.remove(run)
            names = [name for name in run.claim.devices if name in self._free]
            held = "".join(f"; device {name} is in use: {who}" for name, who in busy(names).items())
            claim = run.claim
            what = f"it needs {claim.needs} of the devices {', '.join(claim.devices)}, and too few are left{held}"
            _refuse(run, EvalFlowError(what))

    def _drop_waiting(self) -> None:
        """Begin no other job."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for run in waiting:
            _refuse(run, Stopped.all("interrupted before it began"))


def _refuse(run: _LocalRun, error: EvalFlowError) -> None:
    """End a job that was not begun."""
    if run.ahead is not None:
        run.ahead.stop()
    run.future.set_running_or_notify_cancel()
    run.future.set_exception(error)
