"""One engine from its start to its release, and the worker that asks it and then judges what it answered."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.secret_names import NO_KEY
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.engine_events import (
    DevicesFree,
    EngineExited,
    EngineNotNeeded,
    EngineUnwell,
    OwnJudgeLost,
    OwnJudgeUsed,
)
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.events.run_events import Phase, Progress, RunCancelled, UnfinishedRowCut, WorkerStarted
from evalscope_evalflow.events.worker_events import (
    AllAnswered,
    AnswersSaved,
    DatasetFailed,
    WorkerDone,
    WorkerExited,
    WorkerFailed,
    WorkerWaiting,
)
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.run import fingerprints
from evalscope_evalflow.run.context import Run
from evalscope_evalflow.run.engine_session import EngineSession
from evalscope_evalflow.run.inbox import Inbox
from evalscope_evalflow.run.preflight import judges
from evalscope_evalflow.run.worker_process import Worker, data_hint
from evalscope_evalflow.serving import Endpoint
from evalscope_evalflow.state import disk
from evalscope_evalflow.state.rows import end_torn_rows

IN_MID_RUN = "in the middle of the evaluation"
# After these the engine is not asked any more, whatever else happens.
_ENGINE_IS_DONE = (AllAnswered, AnswersSaved, WorkerDone, WorkerFailed, WorkerExited)


class EngineLost(EngineError):
    """The engine died, or hung, while it was needed; what was answered is saved.

    Attributes:
        added: the number of answers that came since its start.
    """

    def __init__(self, error: EngineError, added: int) -> None:
        self.added = added
        lines = str(error).splitlines()
        if not added:  # the first line is the one that is always shown
            lines[0] += "; not one answer was added since its start: a prompt that it was asked may be the cause"
        super().__init__("\n".join(lines))


class JudgeLost(EngineError):
    """The sweep's judge died, or hung, while it was asked; verdicts that came are saved."""


@dataclass(frozen=True)
class Given:
    """What an attempt is given by whoever does the run.

    Attributes:
        entry: the run's entry in the registry.
        output: is called with what EvalScope prints, as it comes; None: it goes to the log alone.
        live: whether somebody watches, so that the answers are counted while they come.
    """

    entry: Registration
    output: Callable[[bytes], None] | None = None
    live: bool = False


class Attempt:
    """A try at what is left of a model's part of a task."""

    def __init__(
        self, run: Run, phases: list[str], given: Given, *, look_first: bool = False, own_judge: bool = False
    ) -> None:
        """
        Args:
            run: the run.
            phases: what to do, of `infer` and `judge`; without `infer`, no engine is started.
            given: what it works with.
            look_first: whether the engine is started only when the worker has found that an answer is missing.
            own_judge: whether the judge is the one that the sweep deploys; phases are `judge` alone then.
        """
        self.own_judge = own_judge
        self.run, self.phases, self.given, self.look_first = run, phases, given, look_first
        self.engine = resolve_engine(run.model, run.deploy)
        self.inbox = Inbox()
        self.session: EngineSession | None = None
        self.worker: Worker | None = None
        self._worker_counts = False  # else its answers are counted here, while somebody watches

    def do(self) -> None:
        """Do it.

        Raises:
            EngineLost: the engine died in mid-run.
            EngineError: it did not start.
            WorkerError: the worker failed.
            JudgeLost: the sweep's judge died.
        """
        run = self.run
        for path in end_torn_rows(run.backend.row_files(run.folder)):
            run.emit(UnfinishedRowCut(str(path.relative_to(run.folder))))
        with ExitStack() as cleanup:
            cleanup.push(self.given.entry.as_stopped)
            cleanup.enter_context(run.control.on_cancel(self._cancel))
            if self.own_judge:
                run.emit(DevicesFree())
                self._judge_by_own(cleanup)
                return
            if "infer" in self.phases:
                self._infer(cleanup)
            else:
                self._start_worker(cleanup, NO_KEY)
                run.emit(DevicesFree())
            if "judge" in self.phases:
                self._judge()

    def _cancel(self) -> None:
        """Nobody wants it any more: whatever waits for the engine, or the worker, hears of it."""
        self._notify(RunCancelled())
        if self.session is not None:
            self.session.request_stop()
        if self.worker is not None:
            self.worker.process.ask_to_stop()

    def _infer(self, cleanup: ExitStack) -> None:
        """From the engine's start to its release."""
        run = self.run
        if self.look_first and self.engine.local and self._nothing_to_ask(cleanup):
            run.emit(EngineNotNeeded(self.engine.name))
            run.emit(DevicesFree())
            return
        self.session = session = EngineSession(run, self.engine, self.given.entry, self._notify)
        cleanup.callback(session.release)
        with run.phase(Phase.LOAD):
            session.start()
            worker = self._start_worker(cleanup, session.deployment.api_key)
            run.control.check()  # it may have come before there was anything to end
            endpoint = self._wait_ready(session)
        run.checkpoint.check("while the engine loaded it", deleted_counts=True)
        saved = True
        if endpoint is None:
            run.emit(EngineNotNeeded(self.engine.name))
        else:
            with run.phase(Phase.INFER), session.watched(endpoint):
                saved = self._follow_answers(session, endpoint)
        if saved and "judge" not in self.phases:
            worker.process.ask_to_stop()
        session.close()
        run.emit(DevicesFree())
        run.checkpoint.check("while it was evaluated", deleted_counts=False)
        if not saved:  # every answer is safe, and the engine gone; the backend's own files are made of the answers
            with run.phase(Phase.SAVE):
                self._wait_for(AnswersSaved, phase=Phase.SAVE)
            if "judge" not in self.phases:
                worker.process.ask_to_stop()

    def _nothing_to_ask(self, cleanup: ExitStack) -> bool:
        """Have a worker look whether any answer is missing. If one is, that worker is ended: it has no engine's key."""
        with self.run.phase(Phase.LOAD):
            worker = self._start_worker(cleanup, NO_KEY)
            self.run.control.check()
            event = self._wait_for(WorkerWaiting, AnswersSaved, phase=Phase.LOAD)
        if isinstance(event, AnswersSaved):
            if "judge" not in self.phases:
                worker.process.ask_to_stop()
            return True
        worker.stop()
        while not isinstance(self.inbox.next(), WorkerExited):
            pass
        self.worker = None
        return False

    def _judge(self) -> None:
        """The answers are saved, and the engine is gone."""
        run, worker = self.run, self.worker
        assert worker is not None
        run.update_cells(
            {dataset: {"verdicts": fingerprints.verdicts(run.task, dataset)} for dataset in run.task.datasets}
        )
        verdicts = run.answers() if judges(run.task) else 0
        with ExitStack() as judging:
            with run.phase(Phase.WAIT_FOR_JUDGE):
                at_once = judging.enter_context(run.control.judging(verdicts))
            judging.enter_context(run.phase(Phase.JUDGE))
            worker.judge(at_once)
            self._wait_for(WorkerDone, phase=Phase.JUDGE)
        worker.process.ask_to_stop()

    def _judge_by_own(self, cleanup: ExitStack) -> None:
        """The answers are saved; the judge loads while the worker gets ready.

        Raises:
            JudgeLost: it died or hung meanwhile.
        """
        run = self.run
        facts = {dataset: {"verdicts": fingerprints.verdicts(run.task, dataset)} for dataset in run.task.datasets}
        run.update_cells(facts)
        with ExitStack() as judging:
            with run.phase(Phase.WAIT_FOR_JUDGE):
                judge = judging.enter_context(run.control.own_judge(lambda why: self._notify(OwnJudgeLost(why))))
                worker = self._start_worker(cleanup, NO_KEY, judge.api_key)
                judging.callback(worker.stop)  # before others may use the judge in its place
                url = judge.wait_ready()
                run.emit(OwnJudgeUsed(judge.name, judge.log))
                at_once = judging.enter_context(run.control.judging(run.answers()))
            judging.enter_context(run.phase(Phase.JUDGE))
            worker.judge(at_once, url)
            event = self._wait_for(WorkerDone, OwnJudgeLost, phase=Phase.JUDGE)
            if isinstance(event, OwnJudgeLost):
                worker.stop()  # at once: it would take the judge's silence for missing verdicts
                raise JudgeLost(event.reason)
            worker.process.ask_to_stop()

    def _start_worker(self, cleanup: ExitStack, api_key: str, judge_key: str | None = None) -> Worker:
        run = self.run
        max_num_seqs = self.engine.max_num_seqs(run.deploy)
        self.worker = worker = Worker(
            dataclasses.replace(
                run.backend.start_task(run.task, run.model, self.phases, max_num_seqs),
                own_engine=self.engine.local,
                stall_timeout_s=run.deploy.stall_timeout_s,
            ),
            env=Environment.find(run.task.flow.worker_env),
            api_key=api_key,
            api_url=run.model.api_url,
            judge_key=judge_key,
            log=run.record_folder / "worker.log",
            run_id=run.run_id,
            on_event=self._from_worker,
            output=self.given.output,
            entry=self.given.entry,
            standby=run.control.standby_worker(),
        )
        cleanup.callback(worker.stop)
        run.emit(WorkerStarted())
        return worker

    def _notify(self, event: Event) -> None:
        """Something has happened in another thread: this one has to hear of it, whatever cannot be written down."""
        self.inbox.put(event)
        self._emit(event)

    def _emit(self, event: Event) -> None:
        try:
            self.run.emit(event)
        except OSError as error:
            self.inbox.fail(error)

    def _from_worker(self, event: Event) -> None:
        """The worker's word, in a thread of its own."""
        if isinstance(event, DatasetProgress):  # nothing waits for it
            self._worker_counts = True
            self._emit(event)
            return
        if isinstance(event, DatasetFailed):
            hint = data_hint(event.message, event.dataset)
            event = dataclasses.replace(event, message=f"{event.message}{hint}")
        self._notify(event)
        if isinstance(event, _ENGINE_IS_DONE) and self.session is not None:
            if isinstance(event, (AllAnswered, AnswersSaved)):
                self.session.all_answered()
            elif not self.session.is_kept:
                self.session.request_stop()  # nobody will ask it anything, loaded or not

    def _wait_ready(self, session: EngineSession) -> Endpoint | None:
        """Wait for the engine. A worker that fails ends the waiting; so does one that needs no model: None."""
        try:
            return session.wait_ready()
        except EngineError:
            while not self.inbox.empty:
                event = self.inbox.next()
                if isinstance(event, AnswersSaved):
                    return None
                self.run.control.check()
                self._raise_if_worker_ended(event)
            raise

    def _follow_answers(self, session: EngineSession, endpoint: Endpoint) -> bool:
        """Let the worker ask the model, and stay with it until all is answered.

        Returns:
            Whether the backend's files are written, too.

        Raises:
            EngineLost: the engine died or hung before that.
        """
        worker = self.worker
        assert worker is not None
        worker.go(endpoint.api_url, self._judge_ahead())
        before = self.run.answers()
        event = self._wait_for(AllAnswered, AnswersSaved, EngineExited, EngineUnwell, phase=Phase.INFER)
        if isinstance(event, (EngineExited, EngineUnwell)):
            worker.stop()  # at once: it would take the engine's silence for the model's answers
            cause = event.cause if isinstance(event, EngineUnwell) else None
            error = session.deployment.failure(IN_MID_RUN, cause)
            raise EngineLost(error, self.run.answers() - before)
        return isinstance(event, AnswersSaved)

    def _wait_for(self, *wanted: type[Event], phase: Phase) -> Event:
        """The next event of one of these types; others are passed over.

        Args:
            wanted: the types.
            phase: what goes on meanwhile; it is looked at every second, and so is the disk.

        Raises:
            Stopped: the run was cancelled.
            OSError: the disk is full, or the folder cannot be written.
            WorkerError: the worker has failed or died.
        """

        def look() -> None:
            disk.probe(self.run.record_folder)
            if self.given.live:
                counted_here = phase is Phase.INFER and not self._worker_counts
                self.run.emit(Progress(phase, self.run.answers() if counted_here else None))

        while True:
            event = self.inbox.next(look)
            self.run.control.check()
            if isinstance(event, wanted):
                return event
            self._raise_if_worker_ended(event)

    def _judge_ahead(self) -> list[str]:
        """Datasets of which the judge is asked about one answer ahead: not one that is served here, or not asked."""
        run = self.run
        remote = [judge for judge in judges(run.task) if judge.get("api_url")]
        return run.control.judge_ahead(run.task.datasets) if remote and "judge" in self.phases else []

    def _raise_if_worker_ended(self, event: Event) -> None:
        """
        Raises:
            OSError: a file cannot be written: EvalScope's own words for that lack what to do.
            WorkerError: the worker has failed or died.
        """
        if isinstance(event, (WorkerFailed, WorkerExited)):
            assert self.worker is not None
            disk.probe(self.worker.log.parent)
            if isinstance(event, WorkerFailed) and event.errno:
                raise OSError(event.errno, os.strerror(event.errno), event.file or None)
            raise self.worker.failure(event) from None
