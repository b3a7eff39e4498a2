"""Task life cycle of one model, from top to bottom:

    ─┬─ start engine ── ready ───┐
     └─ start worker, load data ─┴─ infer ─ release ─ judge ─ collect

The engine is started first, before anything slow is imported; the worker loads EvalScope and the data meanwhile, and
asks the model when the engine is ready. The engine is released as soon as the last answer is saved. With every answer
saved already, none is started; with every verdict, nothing is.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack, suppress
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from evalscope_evalflow.backends import DatasetResult
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.model_display import ModelDisplay
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import Stopped
from evalscope_evalflow.events.engine_events import EngineDied
from evalscope_evalflow.events.run_events import (
    NothingLeft,
    Phase,
    ResultsArchived,
    RunFinished,
    RunState,
    WorkPlanned,
)
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.run import fact_values, fingerprints
from evalscope_evalflow.run.answer_batches import BatchesSubscriber
from evalscope_evalflow.run.attempt import Attempt, EngineLost, Given, JudgeLost
from evalscope_evalflow.run.checkpoint_changes import CheckpointChanged, new_archive
from evalscope_evalflow.run.collect import collect, finished, with_samples
from evalscope_evalflow.run.context import Run
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.run.cost_meter import CostMeter
from evalscope_evalflow.run.overlap import OverlapMeter
from evalscope_evalflow.run.resume import Remaining, asks_own_judge, remaining
from evalscope_evalflow.run.saved_identity import settle
from evalscope_evalflow.run.subscribers import CellsSubscriber, ExecutorSubscriber, RegistrySubscriber
from evalscope_evalflow.state import disk, failures
from evalscope_evalflow.state.record import Record


def run_model(
    task: Task, model: ModelConfig, reporter: Reporter | None = None, control: Control | None = None
) -> ModelResult:
    """Do one model's part of a task, from start to release and report, and keep a record of it.

    Args:
        task: what to do; it has passed preflight.
        model: one of its models.
        reporter: shows what happens; default: nobody is shown anything.
        control: whoever runs it; default: nobody else has a say.

    Returns:
        Its results.

    Raises:
        ConfigError: another run uses the folder.
        Stopped: it was ended on purpose.
        EvalFlowError: it could not be finished.
    """
    run = Run(task, model, control or Control())
    try:
        return _do(run, reporter or Reporter(quiet=True))
    except OSError as error:
        raise disk.explain(run.folder, error) from error


def _do(run: Run, reporter: Reporter) -> ModelResult:
    with ExitStack() as cleanup:
        cleanup.enter_context(run.lock_folder())
        run.subscribe(ModelDisplay(reporter, run.model.name))
        saved = run.saved()
        changes = settle(run.task, run.model, saved)
        run.update_cells(changes)
        done = finished(run, run.saved() if changes else saved)
        if done is not None:
            return done
        entry = Registration(run.run_id, model=run.model.name, work_dir=run.folder.absolute())
        cleanup.callback(entry.close)
        cleanup.callback(entry.end_commands)  # those that a Ctrl-C came between
        run.subscribe(CostMeter(run.record_folder, run.run_id))  # before the record, which reads what it has written
        run.subscribe(_record(run))
        run.subscribe(RegistrySubscriber(entry))
        run.subscribe(CellsSubscriber(run))
        run.subscribe(BatchesSubscriber(run))
        run.subscribe(OverlapMeter(run.emit))
        run.subscribe(ExecutorSubscriber(run.control))
        output = reporter.output_of(run.model.name) if reporter.forward else None
        try:
            run.checkpoint.check_first()
            datasets = _evaluate(run, Given(entry, output, live=reporter.is_live))
        except CheckpointChanged as error:
            _void(run)
            with suppress(OSError):
                run.emit(RunFinished(RunState.FAILED, str(error)))
            raise
        except BaseException as error:
            state = RunState.INTERRUPTED if isinstance(error, (KeyboardInterrupt, Stopped)) else RunState.FAILED
            words = str(error) or (state.value if state is RunState.INTERRUPTED else type(error).__name__)
            with suppress(OSError):  # a full disk may be what ends the run
                run.emit(RunFinished(state, words))
            raise
        result = ModelResult(run.model, run.folder, datasets, left=run.left)
        state = RunState.FAILED if result.left else RunState.COMPLETE if result.complete else RunState.INCOMPLETE
        run.emit(RunFinished(state, "; ".join(result.left) or None, result.as_record()))
        return result


def _void(run: Run) -> None:
    """Archive all that was answered with files that have changed."""
    archive = new_archive(run.record_folder)
    if run.backend.archive(run.task, run.model, archive):
        run.emit(ResultsArchived(str(archive), changed=True))


def _record(run: Run) -> Record:
    """The run's record, from its start."""
    env = Environment.find(run.task.flow.worker_env)
    versions = {name: env.version_of(name) for name in run.backend.distributions}
    start = {"task": run.task.part(run.model), "model": run.model.name}
    for name, path in (("checkpoint", run.model.path), ("adapter", run.model.adapter)):
        if path:
            found = fact_values.checkpoint(path)
            digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
            start[name] = {"fingerprint": digest, "files": found}
    return Record(run.folder, run.run_id, versions=versions, continues=run.control.continues, **start)


def _evaluate(run: Run, given: Given) -> list[DatasetResult]:
    """Do what is left to do; if the engine dies meanwhile, start again from the answers that were saved."""
    left = _prepare(run)
    run.emit(WorkPlanned(left.phases))
    found = run.control.read_ahead()
    if found is not None:
        run.emit(found)
    before = run.backend.stamps(run.task, run.model)
    if not left.phases:
        run.emit(NothingLeft())
        before = {}
    else:
        restarts = run.deploy.max_restarts

        def say(state: RetryCallState) -> None:
            lost = state.outcome.exception() if state.outcome else None
            added = lost.added if isinstance(lost, EngineLost) else 0
            run.emit(EngineDied(str(lost), run.answers(), added, state.attempt_number, restarts))

        attempts = Retrying(
            stop=stop_after_attempt(1 + restarts),
            retry=retry_if_exception_type(EngineLost),
            before_sleep=say,
            reraise=True,
        )
        own_judge = asks_own_judge(run.task, left)
        phases = [phase for phase in left.phases if phase != "judge" or not own_judge]
        if phases:
            attempts(lambda: Attempt(run, phases, given, look_first=left.may_ask_nothing).do())
        if own_judge:
            _judge_by_own(run, given)
    with run.phase(Phase.COLLECT):
        return with_samples(run, collect(run, before))


def _judge_by_own(run: Run, given: Given) -> None:
    """Judge what is saved with the judge that the sweep deploys, which says how often it may die."""
    if not run.answers():
        return
    again = Retrying(retry=retry_if_exception_type(JudgeLost), reraise=True)
    again(lambda: Attempt(run, ["judge"], given, own_judge=True).do())


def _prepare(run: Run) -> Remaining:
    """Archive what must not be resumed, and write down what the answers to come depend on."""
    task, model, backend = run.task, run.model, run.backend
    left = remaining(task, model)
    archive = new_archive(run.record_folder)
    if not task.flow.reuse and task.flow.mode != "judge":
        if backend.archive(task, model, archive):
            run.emit(ResultsArchived(str(archive)))
    elif left.rejudge:
        moved = [dataset for dataset in left.rejudge if backend.archive_verdicts(task, model, dataset, archive)]
        if moved:
            run.emit(ResultsArchived(str(archive), moved))
    cause = failures.cause(task, model)
    # From here on, what verdicts there are on these datasets are this judge's.
    changes: dict[str, dict[str, Any]] = {
        dataset: {"verdicts": fingerprints.verdicts(task, dataset), "report": None, "error": None}
        for dataset in left.judge
    }
    for dataset, facts in fingerprints.predictions_on(task, model, left.infer).items():
        changes.setdefault(dataset, {}).update(predictions=facts, cause=cause, report=None, error=None)
    saved = run.saved()
    for dataset in left.infer:
        if saved.cell(dataset).accepted:
            changes[dataset]["mixed"] = True
    run.update_cells(changes)
    return left
