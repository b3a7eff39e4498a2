"""The way of one model's part of a task, from top to bottom:

    ─┬─ start engine ── ready ───┐
     └─ start worker, load data ─┴─ infer ─ release ─ judge ─ collect

The engine is started first, before anything slow is imported; the worker loads EvalScope and the data meanwhile, and
is let go when the engine is ready. The engine is released as soon as the last answer is saved. With every answer
saved already none is started; with every verdict, nothing is.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from evalscope_evalflow.backends import DatasetResult, load_backend
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import ConfigError, Stopped
from evalscope_evalflow.processes.registry import Registration, new_run_id
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.run import fingerprints as fingerprint
from evalscope_evalflow.run.active_runs import folder_in_use
from evalscope_evalflow.run.attempt import Attempt, EngineDied, answers_in
from evalscope_evalflow.run.collect import collect, finished
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.run.resume import Needs, needs
from evalscope_evalflow.state import cells as ledger
from evalscope_evalflow.state import disk, failures
from evalscope_evalflow.state.record import Record


def run_model(
    task: Task, model: ModelConfig, reporter: Reporter | None = None, control: Control | None = None
) -> ModelResult:
    """One model's part of a task, from start to release and report, with a record of it.

    Args:
        task: what to do; it has passed preflight.
        model: one of its models.
        reporter: who says what happens; default: nobody.
        control: whoever runs it; default: nobody has a say.

    Returns:
        Its results.

    Raises:
        ConfigError: somebody else uses the run folder.
        Stopped: on purpose.
        EvalFlowError: it could not be finished.
    """
    reporter, control = reporter or Reporter(quiet=True), control or Control()
    try:
        return _run_model(task, model, reporter, control)
    except OSError as error:
        raise disk.explain(task.folder(model), error) from error


def _run_model(task: Task, model: ModelConfig, reporter: Reporter, control: Control) -> ModelResult:
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
        done = finished(task, model, reporter)
        if done is not None:
            return done
        entry = Registration(run_id, model=model.name, work_dir=folder.absolute())
        cleanup.callback(entry.close)
        cleanup.callback(entry.end_commands)  # those that a Ctrl-C came between
        record = Record(folder, run_id, task=task.part(model), model=model.name)
        try:
            datasets = _evaluate(task, model, run_id, record, reporter, entry, control)
        except BaseException as error:
            state = "interrupted" if isinstance(error, (KeyboardInterrupt, Stopped)) else "failed"
            with suppress(OSError):  # a full disk may be what ends the run
                record.finish(state, error=str(error) or (state if state == "interrupted" else type(error).__name__))
            raise
        result = ModelResult(model, folder, datasets, left=record.left)
        record.finish(
            "failed" if result.left else "complete" if result.complete else "incomplete",
            **({"error": "; ".join(result.left)} if result.left else {}),
            results=result.as_record(),
        )
        return result


def _evaluate(
    task: Task,
    model: ModelConfig,
    run_id: str,
    record: Record,
    reporter: Reporter,
    entry: Registration,
    control: Control,
) -> list[DatasetResult]:
    """Do what is left to do; if the engine dies on the way, again, going on from the answers that were saved."""
    backend = load_backend(task.flow.backend)
    left = _prepare(task, model, reporter)
    record.set(phases=left.phases)
    before = backend.stamps(task, model)
    if not left.phases:
        reporter.say(f"{model.name}: nothing is left to do; nothing was started")
        before = {}
    else:
        restarts = task.flow.deploy_for(model).max_restarts

        def tell(state: RetryCallState) -> None:
            died = state.outcome.exception() if state.outcome else None
            saved = answers_in(task, model)
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
        attempts(
            lambda: Attempt(
                task, model, left.phases, run_id=run_id, record=record, reporter=reporter, entry=entry, control=control
            ).run()
        )
    entry.phase("collecting")
    return collect(task, model, before, reporter)


def _prepare(task: Task, model: ModelConfig, reporter: Reporter) -> Needs:
    """Put aside what must not be gone on from, and write down what the answers to come depend on."""
    folder = task.folder(model)
    backend = load_backend(task.flow.backend)
    left = needs(task, model)
    kept = _new_folder(folder / "evalflow" / "kept" / time.strftime("%Y%m%d-%H%M%S"))
    if not task.flow.reuse and task.flow.mode != "judge":
        if backend.put_aside(task, model, kept):
            reporter.say(f"{model.name}: reuse is off; earlier results are kept in {kept}")
    elif left.rejudge:
        moved = [dataset for dataset in left.rejudge if backend.put_verdicts_aside(task, model, dataset, kept)]
        if moved:
            reporter.say(f"{model.name}: another judge; earlier verdicts on {', '.join(moved)} are kept in {kept}")
    asked = fingerprint.predictions_on(task, model, left.infer)
    cause = failures.cause(task, model)
    changes: dict[str, dict[str, Any]] = {dataset: {"report": None, "error": None} for dataset in left.judge}
    for dataset, facts in asked.items():
        changes[dataset] = {"predictions": facts, "cause": cause, "report": None, "error": None}
    ledger.update_all(folder, changes)
    return left


def _new_folder(path: Path) -> Path:
    """This path, or one beside it, that nothing is at."""
    paths = (path if number == 1 else path.with_name(f"{path.name}-{number}") for number in count(1))
    return next(path for path in paths if not path.exists())
