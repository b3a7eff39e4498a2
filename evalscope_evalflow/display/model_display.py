"""What a person is shown of one model's run: a line for each event that matters, and what it is busy with."""

from __future__ import annotations

import time

from evalscope_evalflow.backends.missing_verdicts import MissingVerdict, reasons
from evalscope_evalflow.display.api_lines import ApiLines
from evalscope_evalflow.display.progress_text import sentence
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.events import api_events as api
from evalscope_evalflow.events import engine_events as engine
from evalscope_evalflow.events import run_events as run
from evalscope_evalflow.events import worker_events as worker
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.events.run_events import Phase

BUSY = {
    Phase.LOAD: "loading",
    Phase.INFER: "evaluating",
    Phase.SAVE: "saving the answers",
    Phase.WAIT_FOR_JUDGE: "waiting for the judge",
    Phase.JUDGE: "judging",
}
LINE_EVERY_S = 60.0


class ModelDisplay:
    """Shows the events of one model's run, in the voice of a reporter."""

    def __init__(self, reporter: Reporter, model: str) -> None:
        """
        Args:
            reporter: whose terminal it is.
            model: the model's name, with which each line begins.
        """
        self._reporter, self._model = reporter, model
        self._api = ApiLines()
        self._failed: set[str] = set()  # datasets, whose reason is on the screen already
        self._phase: Phase | None = None
        self._progress: DatasetProgress | None = None  # of this phase
        self._said = 0.0  # when a line of it was last printed

    def on_event(self, event: Event) -> None:
        """Show it, if a person should know."""
        match event:
            case run.PhaseBegan(phase) if phase in BUSY:
                self._phase, self._said = phase, time.monotonic()
                self._reporter.begin(self._model, BUSY[phase])
            case run.PhaseEnded(phase) if phase in BUSY:
                self._phase, self._progress = None, None
                self._reporter.end(self._model)
            case DatasetProgress():
                if self._phase is (Phase.JUDGE if event.judging else Phase.INFER):
                    self._progress = event
                    self._show_progress(event, self._phase)
            case run.Progress(phase) if self._progress is not None and phase is self._phase:
                self._show_progress(self._progress, phase)
            case run.Progress(phase, answers):
                more = "" if answers is None else f", {answers} answers saved"
                trouble = self._api.trouble(answers)
                self._reporter.update(self._model, f"{BUSY[phase]}{more}{trouble}")
            case api.ApiEvent():
                text, warns = self._api.line(event)
                say = self._reporter.warn if warns else self._reporter.log
                say(f"{self._model}: {text}")
            case run.RunStarted() | run.WorkPlanned() | run.PhaseBegan() | run.PhaseEnded():
                pass
            case run.DatasetIncomplete(dataset, reported=False) if dataset in self._failed:
                pass
            case _:
                if isinstance(event, worker.DatasetFailed):
                    self._failed.add(event.dataset)
                self._say(event)

    def _show_progress(self, progress: DatasetProgress, phase: Phase) -> None:
        """Keep the terminal up to date; without one, print a line a minute."""
        trouble = self._api.trouble(progress.done)
        if self._reporter.is_live:
            self._reporter.progress(self._model, BUSY[phase], progress, trouble)
        elif time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            self._reporter.log(f"{self._model}: {sentence(progress)}{trouble}")

    def _say(self, event: Event) -> None:
        for text in _warnings(event):
            self._reporter.warn(f"{self._model}: {text}")
        line = _line(event)
        if line:
            self._reporter.log(f"{self._model}: {line}")


def _line(event: Event) -> str:
    """What happened as it should, in words; empty for all else."""
    match event:
        case run.NothingLeft():
            return "nothing is left to do; nothing was started"
        case run.ResultsArchived(folder, None, changed) if changed:
            return f"the checkpoint's files changed; what was answered is kept in {folder}, and does not count"
        case run.ResultsArchived(folder, None):
            return f"reuse is off; earlier results are kept in {folder}"
        case run.ResultsArchived(folder, datasets) if datasets:
            return f"another judge; earlier verdicts on {', '.join(datasets)} are kept (reports: {folder})"
        case engine.EngineReused(name, run_id=run_id):
            return f"{name} has been kept since run {run_id}"
        case engine.EngineStarting(name, local=True, log=log):
            return f"starting {name} (log: {log})"
        case engine.EngineReady(name, api_url, load_s) if load_s is not None:
            return f"{name} is ready at {api_url} ({load_s:.1f} s)"
        case engine.EngineWeights(name, took_from=before, swap_s=seconds, proof_s=proof) if before:
            return f"{name} goes on from {before} with these weights ({seconds:.1f} s, {proof:.1f} s of it for proof)"
        case engine.EngineNotNeeded(name):
            return f"nothing was left to ask; {name} was not needed"
        case engine.EngineKept(name, has_heir=True):
            return f"{name} goes to the next model"
        case engine.EngineKept(name, until):
            return f"{name} is kept until {until}"
        case engine.EngineReleased(name, released=True, seconds=seconds):
            return f"{name} and all it started are gone ({seconds:.1f} s)"
        case worker.VerdictsDropped(dataset, number):
            return f"{number} verdicts on {dataset} were not the judge's own; they are made again"
        case worker.RowsAligned(dataset):
            return f"{dataset}: {_aligned(event)}"
        case worker.DatasetNotSplit(dataset):
            return f"{dataset} has an evaluator of its own: it is judged while the engine runs"
    return ""


def _aligned(event: worker.RowsAligned) -> str:
    parts = [
        (event.put_aside, "not used, as their samples are not chosen now; kept for when they are"),
        (event.brought_back, "of earlier runs, used again"),
        (event.scored_anew, "to be scored anew, as the right answer has changed"),
    ]
    return "; ".join(f"{number} saved answer{'s' * (number != 1)} {words}" for number, words in parts if number)


def _warnings(event: Event) -> list[str]:
    """What did not happen as it should, in words."""
    match event:
        case engine.EngineNotice(text):
            return [text]
        case engine.EngineDied(error, answers, added, restart, max_restarts):
            return [
                error.splitlines()[0],
                f"starting it again ({restart} of {max_restarts}); {answers} answers are saved, {added} of them since "
                "its last start",
            ]
        case engine.OwnJudgeLost(reason):
            return [f"{reason.splitlines()[0]}; verdicts that came are saved"]
        case engine.EngineReleased(name, problems=problems, warnings=warnings):
            return [f"{name} was ended, but {line}" for line in (*problems, *warnings)]
        case worker.DatasetFailed(dataset, message):
            return [f"{dataset} failed: {message}; the other datasets go on"]
        case worker.JudgeProbed(dataset, _, kind, said, expected) if kind:
            why = reasons([MissingVerdict(kind, said, expected)], 1)[0]
            return [f"{dataset}: the judge was asked about one answer ahead, and gave no verdict: {why}"]
        case run.DatasetIncomplete():
            return [_incomplete(event)]
        case run.SamplesUnreadable():
            return [f"scores have no intervals, as the saved samples could not be read again: {event.reason}"]
        case run.FailuresStand():
            return ["samples that failed permanently are asked again when their cause changes, or with `reuse: false`"]
    return []


def _incomplete(event: run.DatasetIncomplete) -> str:
    notes = "".join(f"; {note}" for note in event.notes)
    if event.failures_file:
        notes += f" (each of them: {event.failures_file})"
    if not event.reported:
        return f"no report for {event.dataset}{notes}"
    return f"{event.dataset} is incomplete: {event.answered} of {event.requested} answered{notes}"
