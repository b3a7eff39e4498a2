"""The way of a task, from top to bottom:

    preflight ─┬─ start engine ── ready ───┐
               └─ start worker, load data ─┴─ run ─ release ─ collect

The engine is started first, before anything slow is imported; the worker loads EvalScope and the data
meanwhile, and is let go when the engine is ready.
"""

from __future__ import annotations

import queue
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from evalscope_evalflow import disk, failures
from evalscope_evalflow.backends import DatasetResult, load_backend
from evalscope_evalflow.backends.native import put_aside
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.engines.environment import Environment
from evalscope_evalflow.errors import ConfigError, EngineError, EvalFlowError, ExitCode, Stopped
from evalscope_evalflow.preflight import preflight
from evalscope_evalflow.record import Record
from evalscope_evalflow.report.console import Reporter
from evalscope_evalflow.runs import folder_in_use, sweep_before
from evalscope_evalflow.serving import Deployment, Endpoint, Watch, new_run_id
from evalscope_evalflow.serving.registry import Registration
from evalscope_evalflow.task import Task
from evalscope_evalflow.workers import Worker

PROGRESS_EVERY_S = 1.0
Events = queue.Queue[dict[str, Any]]


@dataclass
class ModelResult:
    """What became of one model.

    Attributes:
        model: it.
        folder: its run folder.
        datasets: its results.
        error: what ended it, if something did.
        left: what of its engine could not be released, a line each.
    """

    model: ModelConfig
    folder: Path
    datasets: list[DatasetResult] = field(default_factory=list)
    error: EvalFlowError | None = None
    left: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every score stands on all of its samples."""
        return self.error is None and all(result.complete for result in self.datasets)


@dataclass
class FlowResult:
    """What became of a task."""

    task: Task
    models: list[ModelResult]

    def rows(self) -> list[tuple[str, list[DatasetResult], str | None]]:
        """What the table shows: each model's name, results, and error."""
        return [
            (item.model.name, item.datasets, str(item.error or "; ".join(item.left)) or None) for item in self.models
        ]

    @property
    def exit_code(self) -> ExitCode:
        """As documented for the command."""
        if any(result.error is not None or result.left for result in self.models):
            return ExitCode.FAILED
        return ExitCode.COMPLETE if all(result.complete for result in self.models) else ExitCode.INCOMPLETE


def run(task: Task, reporter: Reporter | None = None) -> FlowResult:
    """Do a task: deploy each model, evaluate it, release it.

    Args:
        task: what to do.
        reporter: who says what happens; default: nobody.

    Returns:
        The results of every model. One that failed carries its error; the others were done all the same.

    Raises:
        ConfigError: it cannot work; nothing was started.
        Stopped: by `evalflow stop`.
        EvalFlowError: no model could be finished.
    """
    reporter = reporter or Reporter(quiet=True)
    sweep_before(reporter.warn)
    for note in (*task.notes, *preflight(task, reporter.say)):
        reporter.warn(note)
    results = []
    for model in task.models:
        try:
            results.append(_run_model(task, model, reporter))
        except OSError as error:
            raise disk.explain(task.folder(model), error) from error
        except EvalFlowError as error:
            if len(task.models) == 1 or isinstance(error, Stopped):
                raise
            reporter.warn(f"{model.name}: {error}")
            results.append(ModelResult(model, task.folder(model), error=error))
    if results and all(result.error is not None for result in results):
        raise EvalFlowError("no model could be finished:\n" + "\n".join(f"{r.model.name}: {r.error}" for r in results))
    return FlowResult(task, results)


def _run_model(task: Task, model: ModelConfig, reporter: Reporter) -> ModelResult:
    """One model, from start to release, with a record of it."""
    folder = task.folder(model)
    (folder / "evalflow").mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "evalflow" / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(folder_in_use(folder)) from None
    run_id = new_run_id()
    with ExitStack() as cleanup:
        cleanup.callback(lock.release)
        entry = Registration(run_id, model=model.name, work_dir=folder.absolute())
        cleanup.callback(entry.close)
        section = task.flow.model_dump(mode="json", exclude_unset=True)
        record = Record(folder, run_id, task={**task.stock, "evalflow": section}, model=model.name)
        try:
            datasets = _evaluate(task, model, run_id, record, reporter, entry)
        except BaseException as error:
            state = "interrupted" if isinstance(error, (KeyboardInterrupt, Stopped)) else "failed"
            with suppress(OSError):  # a full disk may be what ends the run
                record.finish(state, error=str(error))
            raise
        result = ModelResult(model, folder, datasets, left=record.left)
        record.finish(
            "failed" if result.left else "complete" if result.complete else "incomplete",
            **({"error": "; ".join(result.left)} if result.left else {}),
            results={
                item.dataset: {
                    "metrics": {metric.name: metric.score for metric in item.metrics},
                    "requested": item.requested,
                    "succeeded": item.succeeded,
                    "failed": item.failed,
                    "failures": item.failures,
                    "notes": item.notes,
                }
                for item in datasets
            },
        )
        return result


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


def _evaluate(
    task: Task, model: ModelConfig, run_id: str, record: Record, reporter: Reporter, entry: Registration
) -> list[DatasetResult]:
    """Deploy and evaluate; if the engine dies on the way, again, going on from the answers that were saved."""
    folder = task.folder(model)
    if not task.flow.reuse:
        kept = put_aside(folder)
        if kept:
            reporter.say(f"{model.name}: reuse is off; earlier results are kept in {kept}")
    backend = load_backend(task.flow.backend)
    before = backend.stamps(task, model)
    restarts = task.flow.deploy_for(model).max_restarts

    def tell(state: RetryCallState) -> None:
        died = state.outcome.exception() if state.outcome else None
        saved = _answers(folder)
        added = died.answers if isinstance(died, EngineDied) else 0
        reporter.warn(f"{model.name}: {str(died).splitlines()[0]}")
        reporter.warn(
            f"{model.name}: starting it again ({state.attempt_number} of {restarts}); {saved} answers are saved, "
            f"{added} of them since its last start"
        )
        record.event("engine died", error=str(died), answers=saved, added=added)

    attempts = Retrying(
        stop=stop_after_attempt(1 + restarts),
        retry=retry_if_exception_type(EngineDied),
        before_sleep=tell,
        reraise=True,
    )
    attempts(_attempt, task, model, run_id, record, reporter, entry)
    entry.phase("collecting")
    results = backend.results(task, model, before)
    _tell(results, model, reporter)
    return results


def _attempt(
    task: Task, model: ModelConfig, run_id: str, record: Record, reporter: Reporter, entry: Registration
) -> None:
    """One engine from its start to its release, and the worker beside it."""
    deploy = task.flow.deploy_for(model)
    engine = resolve_engine(model, deploy)
    folder = task.folder(model)
    events: Events = queue.Queue()
    deployment = Deployment(
        engine, model, deploy, log=record.folder / "engine.log", run_id=run_id,
        on_exit=lambda: events.put({"event": "engine exited"}), entry=entry, waiting=task.waiting(model),
    )  # fmt: skip

    def heard(event: dict[str, Any]) -> None:
        events.put(event)  # before anything that may fail: nobody else will tell
        record.event(f"worker {event['event']}")
        if event["event"] in ("done", "failed", "exited") and deployment.process is not None:
            deployment.process.ask_to_stop()  # nobody will ask it anything, loaded or not

    with ExitStack() as cleanup:
        cleanup.push(entry.as_stopped)
        cleanup.callback(_release, deployment, record, reporter)
        loading = cleanup.enter_context(ExitStack())
        loading.enter_context(record.phase("load"))
        entry.set(engine=engine.name)
        deployment.start()
        record.set(command=deployment.argv, engine=engine.name, placement=deployment.placement_facts)
        if engine.local:
            reporter.say(f"{model.name}: starting {engine.name} (log: {deployment.log})")
        worker = Worker(
            load_backend(task.flow.backend).stock_task(task, model, engine.max_num_seqs(deploy)),
            env=Environment.find(task.flow.worker_env),
            api_key=deployment.api_key,
            failures={"file": str(failures.path_in(folder)), "cause": failures.cause(task, model)},
            log=record.folder / "worker.log",
            run_id=run_id,
            on_event=heard,
            output=reporter.output if reporter.forward else None,
            entry=entry,
        )
        cleanup.callback(worker.stop)
        with reporter.busy(f"{model.name}: loading"):
            endpoint = _wait_ready(deployment, worker, events)
        loading.close()
        if endpoint is None:
            reporter.say(f"{model.name}: nothing was left to ask; {engine.name} was not needed")
            return
        if deployment.seconds is not None:
            reporter.say(f"{model.name}: {engine.name} is ready at {endpoint.api_url} ({deployment.seconds:.1f} s)")
        entry.phase("evaluating")
        with record.phase("evaluate"), reporter.busy(f"{model.name}: evaluating"), ExitStack() as watching:
            if deployment.process is not None:
                tell = partial(_engine_is_sick, events)
                watching.enter_context(Watch(engine, deployment.process, endpoint, deploy.stall_timeout_s, tell))
            _follow(worker, deployment, endpoint, events, folder, reporter)
        worker.process.ask_to_stop()


def _wait_ready(deployment: Deployment, worker: Worker, events: Events) -> Endpoint | None:
    """Wait for the engine. A worker that fails meanwhile ends the waiting; so does one that is done: None.

    A worker can be done before it may ask anything: with every answer saved, it only reviews and reports.
    """
    try:
        return deployment.wait_ready()
    except EngineError:
        while not events.empty():
            event = events.get()
            if event["event"] == "done":
                return None
            if event["event"] in ("failed", "exited"):
                disk.probe(worker.log.parent)  # EvalScope's own words for a full disk lack what to do
                raise worker.failure(event) from None
        raise


def _follow(
    worker: Worker,
    deployment: Deployment,
    endpoint: Endpoint,
    events: Events,
    folder: Path,
    reporter: Reporter,
) -> None:
    """Let the worker go, and stay with it until it is done, or it or the engine dies."""
    name = deployment.model.name
    worker.go(endpoint.api_url)
    began = time.monotonic()
    saved_before = _answers(folder)
    when = "in the middle of the evaluation"
    while True:
        try:
            event = events.get(timeout=PROGRESS_EVERY_S)
        except queue.Empty:
            disk.probe(folder / "evalflow")
            if reporter.is_live:
                saved, seconds = _answers(folder), time.monotonic() - began
                reporter.update(f"{name}: evaluating, {saved} answers saved, {seconds:.0f} s")
            continue
        kind = event["event"]
        if kind == "done":
            return
        if kind == "engine exited":
            worker.stop()  # at once: it would take the engine's silence for the model's answers
            raise EngineDied(deployment.failure(when), _answers(folder) - saved_before)
        if kind == "engine sick":
            worker.stop()
            raise EngineDied(deployment.failure(when, event["seen"]), _answers(folder) - saved_before)
        if kind in ("failed", "exited"):
            disk.probe(worker.log.parent)
            raise worker.failure(event)


def _engine_is_sick(events: Events, seen: str) -> None:
    events.put({"event": "engine sick", "seen": seen})


def _answers(folder: Path) -> int:
    """Number of answers saved so far."""
    total = 0
    for path in (folder / "predictions").rglob("*.jsonl"):
        with path.open("rb") as file:
            total += sum(1 for _ in file)
    return total


def _release(deployment: Deployment, record: Record, reporter: Reporter) -> None:
    """End the engine; record and say what is left of it."""
    if deployment.process is None:  # an API that runs elsewhere, or a start that came to nothing
        deployment.release()
        return
    name = deployment.engine.name
    began = time.monotonic()
    with record.phase("release"):
        released = deployment.release()
    seconds = time.monotonic() - began
    record.left += [f"{name} was ended, but {line}" for line in released.problems()]
    for line in (*released.problems(), *released.warnings()):
        reporter.warn(f"{deployment.model.name}: {name} was ended, but {line}")
    if released:
        reporter.say(f"{deployment.model.name}: {name} and all it started are gone ({seconds:.1f} s)")
    with suppress(OSError):  # a full disk must not keep anything from being said
        record.set(release={"released": bool(released), **asdict(released)})


def _tell(results: list[DatasetResult], model: ModelConfig, reporter: Reporter) -> None:
    """Warn of every result that is not whole."""
    for result in results:
        if result.report is None:
            reporter.warn(f"{model.name}: no report for {result.dataset}")
        elif not result.complete:
            reporter.warn(
                f"{model.name}: {result.dataset} is incomplete: {result.succeeded} of {result.requested} answered"
                + "".join(f"; {note}" for note in result.notes)
            )
