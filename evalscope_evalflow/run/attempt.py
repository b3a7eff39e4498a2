"""One engine from its start to its release, and the worker that asks it and then judges what it answered."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.keys import NO_KEY
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.run import fingerprints as fingerprint
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.run.preflight import judges
from evalscope_evalflow.run.worker_process import Worker, data_hint
from evalscope_evalflow.serving import Deployment, Endpoint, Release, Watch
from evalscope_evalflow.serving.warm_pool import clock
from evalscope_evalflow.state import cells as ledger
from evalscope_evalflow.state import disk, failures
from evalscope_evalflow.state.record import Record
from evalscope_evalflow.state.rows import end_torn_rows

PROGRESS_EVERY_S = 1.0
IN_MID_RUN = "in the middle of the evaluation"


class EngineDied(EngineError):
    """The engine died, or hung, while it was needed; what was answered is saved.

    Attributes:
        answers: the number of those that were added since its start.
    """

    def __init__(self, error: EngineError, answers: int) -> None:
        self.answers = answers
        lines = str(error).splitlines()
        if not answers:  # the first line is the one that is always shown
            lines[0] += "; not one answer was added since its start: a prompt that it was asked may be the cause"
        super().__init__("\n".join(lines))


class Attempt:
    """A try at what is left of a model's part of a task."""

    def __init__(
        self,
        task: Task,
        model: ModelConfig,
        phases: list[str],
        *,
        run_id: str,
        record: Record,
        reporter: Reporter,
        entry: Registration,
        control: Control,
    ) -> None:
        """
        Args:
            task: it.
            model: the model.
            phases: what to do, of `infer` and `judge`; without `infer`, no engine is started.
            run_id: identifies every process of the run.
            record: the run's.
            reporter: who says what happens.
            entry: the run's, as `evalflow ps` shows it.
            control: whoever runs it.
        """
        self.task, self.model, self.phases = task, model, phases
        self.run_id, self.record, self.reporter, self.entry = run_id, record, reporter, entry
        self.control = control
        self.folder = task.folder(model)
        self.deploy = task.flow.deploy_for(model)
        self.engine = resolve_engine(model, self.deploy)
        self.backend = load_backend(task.flow.backend)
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.deployment: Deployment | None = None
        self._workers: list[Worker] = []
        self._released = False
        self._keep: bool | None = None  # not decided

    def run(self) -> None:
        """Do it.

        Raises:
            EngineDied: the engine did in mid-run.
            EngineError: it did not start.
            WorkerError: the worker failed.
        """
        for path in end_torn_rows(self.folder):
            self.record.event("an unfinished row was cut off", file=str(path.relative_to(self.folder)))
        with ExitStack() as cleanup:
            cleanup.push(self.entry.as_stopped)
            cleanup.enter_context(self.control.ending(self._end))
            if "infer" in self.phases:
                self._infer(cleanup)
            else:
                self.entry.phase("judging")
                self.worker = self._start_worker(NO_KEY)
                cleanup.callback(self.worker.stop)
                self.control.devices_over()
            if "judge" in self.phases:
                self._judge()

    def _end(self) -> None:
        """Nobody wants it any more: whatever waits for the engine, or the worker, hears of it."""
        self.events.put({"event": "cancelled"})
        if self.deployment is not None and self.deployment.process is not None:
            self.deployment.process.ask_to_stop()
        for worker in self._workers:
            worker.process.ask_to_stop()

    def _infer(self, cleanup: ExitStack) -> None:
        """From the engine's start to its release."""
        name = self.model.name
        self.deployment = deployment = Deployment(
            self.engine, self.model, self.deploy, log=self.record.folder / "engine.log", run_id=self.run_id,
            on_exit=lambda: self.events.put({"event": "engine exited"}), entry=self.entry,
        )  # fmt: skip
        cleanup.callback(self._release)
        with self.record.phase("load"):
            self.entry.set(engine=self.engine.name)
            self._began = time.monotonic()
            deployment.start()
            self._record_engine(deployment)
            if deployment.reused:
                self.reporter.say(f"{name}: {self.engine.name} has been kept since run {deployment.reused}")
            elif self.engine.local:
                self.reporter.say(f"{name}: starting {self.engine.name} (log: {deployment.log})")
            self._worker_began = time.monotonic()
            self.worker = self._start_worker(deployment.api_key)
            cleanup.callback(self.worker.stop)
            self.control.check()  # it may have come before there was anything to end
            with self.reporter.busy(name, "loading"):
                endpoint = self._wait_ready(deployment)
            self._engine_ready = time.monotonic()
            self._record_engine(deployment)
        saved = True
        if endpoint is None:
            self.reporter.say(f"{name}: nothing was left to ask; {self.engine.name} was not needed")
        else:
            if deployment.load_s is not None:
                seconds = f"({deployment.load_s:.1f} s)"
                self.reporter.say(f"{name}: {self.engine.name} is ready at {endpoint.api_url} {seconds}")
            self.entry.phase("evaluating")
            with self.record.phase("infer"), self.reporter.busy(name, "evaluating"), ExitStack() as watching:
                if deployment.process is not None:
                    watching.enter_context(
                        Watch(
                            self.engine, deployment.process, endpoint, self.deploy.stall_timeout_s,
                            lambda symptom: self.events.put({"event": "engine sick", "symptom": symptom}),
                        )
                    )  # fmt: skip
                saved = self._follow_answers(endpoint)
        if saved and "judge" not in self.phases:
            self.worker.process.ask_to_stop()
        if self._keep:
            self._keep_engine()
        self._release()
        self.control.devices_over()
        if not saved:
            self._follow_saving()

    def _judge(self) -> None:
        """The answers are saved, and the engine is gone."""
        judge = fingerprint.verdicts(self.task)
        ledger.update_all(self.folder, {dataset: {"verdicts": judge} for dataset in self.task.datasets})
        self.entry.phase("judging")
        name = self.model.name
        verdicts = answers_in(self.task, self.model) if judges(self.task) else 0
        with ExitStack() as judging:
            with self.reporter.busy(name, "waiting for the judge"):
                at_once = judging.enter_context(self.control.judging(verdicts))
            judging.enter_context(self.record.phase("judge"))
            judging.enter_context(self.reporter.busy(name, "judging"))
            self.worker.judge(at_once)
            while True:
                event = self._next(lambda: "judging")
                if event["event"] == "done":
                    break
                if event["event"] in ("failed", "exited"):
                    disk.probe(self.worker.log.parent)
                    raise self.worker.failure(event)
        self.worker.process.ask_to_stop()

    def _start_worker(self, api_key: str) -> Worker:
        folder = self.folder
        told = {
            **self.backend.worker_task(self.task, self.model, self.engine.max_num_seqs(self.deploy)),
            "backend": self.backend.worker,
            "phases": self.phases,
            "failures": {"file": str(failures.path_in(folder)), "cause": failures.cause(self.task, self.model)},
        }
        worker = Worker(
            told,
            env=Environment.find(self.task.flow.worker_env),
            api_key=api_key,
            log=self.record.folder / "worker.log",
            run_id=self.run_id,
            on_event=self._heard,
            output=self.reporter.output_of(self.model.name) if self.reporter.forward else None,
            entry=self.entry,
        )
        self._workers.append(worker)
        return worker

    def _heard(self, event: dict[str, Any]) -> None:
        """The worker's word, in a thread of its own."""
        if event["event"] == "waiting":
            self._worker_ready = time.monotonic()
        if event["event"] in ("answered", "predicted"):
            self._keep = self._may_keep() if self._keep is None else self._keep
        self.events.put(event)  # before anything that may fail: nobody else will tell
        self.record.event(f"worker {event['event']}", **{key: event[key] for key in event if key != "event"})
        over = event["event"] in ("answered", "predicted", "done", "failed", "exited")
        if over and not self._keep and self.deployment is not None and self.deployment.process is not None:
            self.deployment.process.ask_to_stop()  # nobody will ask it anything, loaded or not

    def _record_engine(self, deployment: Deployment) -> None:
        """What serves, and where; it changes if a start that fails is tried again."""
        kept = {"run_id": deployment.reused, "log": str(deployment.log)} if deployment.reused else None
        self.record.set(
            command=deployment.argv, engine=self.engine.name, placement=deployment.placement_facts,
            **({"reused": kept} if self.deploy.keep_alive_s or kept else {}),
        )  # fmt: skip
        for note in deployment.notes:
            self.reporter.warn(f"{self.model.name}: {note}")
        deployment.notes.clear()

    def _may_keep(self) -> bool:
        """Whether the engine, which has answered all, may stay for whoever wants it next."""
        wanted = self.deploy.keep_alive_s > 0 and self.deployment is not None and self.deployment.is_ready
        return wanted and not self.entry.stopped and self.control.may_keep()

    def _wait_ready(self, deployment: Deployment) -> Endpoint | None:
        """Wait for the engine. A worker that fails ends the waiting; so does one that needs no model: None."""
        try:
            return deployment.wait_ready()
        except EngineError:
            while not self.events.empty():
                event = self.events.get()
                self._take_note(event)
                if event["event"] == "predicted":
                    return None
                self.control.check()
                if event["event"] in ("failed", "exited"):
                    disk.probe(self.worker.log.parent)  # EvalScope's own words for a full disk lack what to do
                    raise self.worker.failure(event) from None
            raise

    def _follow_answers(self, endpoint: Endpoint) -> bool:
        """Let the worker go, and stay with it until all is answered, or it or the engine dies.

        Returns:
            Whether the backend's files are written, too.
        """
        assert self.deployment is not None
        self.worker.go(endpoint.api_url)
        before = answers_in(self.task, self.model)

        def progress() -> str:
            return f"evaluating, {answers_in(self.task, self.model)} answers saved"

        while True:
            event = self._next(progress)
            kind = event["event"]
            if kind in ("answered", "predicted"):
                return bool(kind == "predicted")
            if kind in ("engine exited", "engine sick"):
                self.worker.stop()  # at once: it would take the engine's silence for the model's answers
                error = self.deployment.failure(IN_MID_RUN, event.get("symptom"))
                raise EngineDied(error, answers_in(self.task, self.model) - before)
            if kind in ("failed", "exited"):
                disk.probe(self.worker.log.parent)
                raise self.worker.failure(event)

    def _follow_saving(self) -> None:
        """Every answer is safe, and the engine gone; the worker makes the backend's own files of them."""
        with self.record.phase("save"):
            while True:
                event = self._next(lambda: "saving the answers")
                if event["event"] == "predicted":
                    break
                if event["event"] in ("failed", "exited"):
                    disk.probe(self.worker.log.parent)
                    raise self.worker.failure(event)
        if "judge" not in self.phases:
            self.worker.process.ask_to_stop()

    def _next(self, progress: Callable[[], str]) -> dict[str, Any]:
        """The next event; meanwhile the disk is looked at, and a terminal is shown how far it is."""
        while True:
            try:
                event = self.events.get(timeout=PROGRESS_EVERY_S)
            except queue.Empty:
                disk.probe(self.folder / "evalflow")
                if self.reporter.is_live:
                    self.reporter.update(self.model.name, progress())
                continue
            self.control.check()
            self._take_note(event)
            return event

    def _take_note(self, event: dict[str, Any]) -> None:
        """Write down what the next run should know."""
        name = self.model.name
        if event["event"] == "dataset predicted":
            ledger.update(
                self.folder, event["dataset"], requested=event["requested"], answered=event["answered"],
                cause=failures.cause(self.task, self.model),
            )  # fmt: skip
        elif event["event"] == "verdicts dropped":
            self.reporter.say(
                f"{name}: {event['number']} verdicts on {event['dataset']} were not the judge's own; they are made anew"
            )
        elif event["event"] == "going" and self.engine.local:
            times = self._began, self._worker_began, self._worker_ready, self._engine_ready
            self.record.set(overlap=overlap(*times))
        elif event["event"] == "dataset failed":
            dataset = event["dataset"]
            message = f"{event['message']}{data_hint(event['message'], dataset)}"
            ledger.update(self.folder, dataset, error=message)
            self.reporter.warn(f"{name}: {dataset} failed: {message}; the other datasets go on")
        elif event["event"] == "not split":
            self.reporter.say(f"{name}: {event['dataset']} has an evaluator of its own: judged while the engine runs")

    def _keep_engine(self) -> None:
        """Leave the engine to whoever wants it next, if it is well."""
        deployment, record = self.deployment, self.record
        assert deployment is not None

        def tell(released: Release) -> None:
            record.event("the engine that was kept is released", released=bool(released), left=released.problems())

        until = deployment.keep(tell)
        if until is None:
            return
        self._released = True
        record.event("the engine is kept", until=clock(until))
        with suppress(OSError):
            record.held(time.monotonic() - self._began)
            record.set(release={"released": False, "kept_until": clock(until)})
        self.reporter.say(f"{self.model.name}: {deployment.engine.name} is kept until {clock(until)}")

    def _release(self) -> None:
        """End the engine; record and say what is left of it."""
        deployment, record, reporter = self.deployment, self.record, self.reporter
        if deployment is None or self._released:
            return
        self._released = True
        if deployment.process is None:  # an API that runs elsewhere, or a start that came to nothing
            deployment.release()
            return
        name = deployment.engine.name
        began = time.monotonic()
        with record.phase("release"):
            released = deployment.release()
        ended = time.monotonic()
        record.left += [f"{name} was ended, but {line}" for line in released.problems()]
        self.control.clean = not record.left
        for line in (*released.problems(), *released.warnings()):
            reporter.warn(f"{self.model.name}: {name} was ended, but {line}")
        if released:
            reporter.say(f"{self.model.name}: {name} and all it started are gone ({ended - began:.1f} s)")
        with suppress(OSError):  # a full disk must not keep anything from being said
            record.held(ended - self._began)
            record.set(release={"released": bool(released), **asdict(released)})


def overlap(began: float, worker_began: float, worker_ready: float, engine_ready: float) -> dict[str, float]:
    """How much of the worker's work, up to where it needs the model, was done while the engine started.

    Args:
        began: when the engine was started; all of these are readings of one clock, in seconds.
        worker_began: when the worker was.
        worker_ready: when it had imported EvalScope, and loaded its data.
        engine_ready: when the engine could be asked.

    Returns:
        Seconds from `began` to either's readiness, and the share, from 0 to 1.
    """
    took = worker_ready - worker_began
    hidden = min(max(engine_ready - worker_began, 0.0), took)
    return {
        "engine_ready_s": round(engine_ready - began, 3),
        "worker_ready_s": round(worker_ready - began, 3),
        "share": round(hidden / took, 3) if took > 0 else 1.0,
    }


def answers_in(task: Task, model: ModelConfig) -> int:
    """Number of answers saved so far."""
    backend = load_backend(task.flow.backend)
    saved = backend.look(task, model)
    return sum(saved.answers(dataset) for dataset in task.datasets)
