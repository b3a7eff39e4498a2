"""What happens to one model's run, from its start to its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from evalscope_evalflow.events.base import Event


class Phase(str, Enum):
    """A part of a run. The value is what run.json and `evalflow ps` show."""

    LOAD = "load"
    INFER = "infer"
    SAVE = "save"
    RELEASE = "release"
    WAIT_FOR_JUDGE = "wait for the judge"
    JUDGE = "judge"
    COLLECT = "collect"


class RunState(str, Enum):
    """How a run ended."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class RunStarted(Event):
    """A run has its folder and begins.

    Attributes:
        run_id: its name.
    """

    run_id: str


@dataclass(frozen=True)
class PreviousRunDied(Event):
    """The last run of this folder was killed before it could write how it ended.

    Attributes:
        run_id: its name.
        pid: its process.
    """

    run_id: str | None
    pid: int | None


@dataclass(frozen=True)
class WorkPlanned(Event):
    """What is left to do is known.

    Attributes:
        phases: `infer` and `judge`, or one of them, or neither.
    """

    phases: list[str]


@dataclass(frozen=True)
class NothingLeft(Event):
    """Every answer and verdict is there already; nothing was started."""


@dataclass(frozen=True)
class PhaseBegan(Event):
    """A phase begins.

    Attributes:
        phase: which.
    """

    phase: Phase


@dataclass(frozen=True)
class PhaseEnded(Event):
    """A phase has ended, well or not.

    Attributes:
        phase: which.
        seconds: how long it took.
    """

    phase: Phase
    seconds: float


@dataclass(frozen=True)
class Progress(Event):
    """How far a phase is; emitted about every second while somebody watches.

    Attributes:
        phase: which.
        answers: answers that are saved; None where that does not change.
    """

    phase: Phase
    answers: int | None = None


@dataclass(frozen=True)
class ResultsArchived(Event):
    """Earlier results were moved out of the way.

    Attributes:
        folder: where they are now.
        datasets: those whose verdicts another judge gave; None: everything.
        changed: whether that is because the checkpoint's files changed; else `reuse` is off.
    """

    folder: str
    datasets: list[str] | None = None
    changed: bool = False


@dataclass(frozen=True)
class UnfinishedRowCut(Event):
    """The last row of a file was never finished, by a process that was killed, and is cut off.

    Attributes:
        file: its path in the run folder.
    """

    file: str


@dataclass(frozen=True)
class OverlapMeasured(Event):
    """How much of the worker's preparation the engine's start hid.

    Attributes:
        engine_ready_s: seconds from the engine's start until it could be asked.
        worker_ready_s: seconds from the engine's start until the worker needed the model.
        share: of the worker's preparation, from 0 to 1.
    """

    engine_ready_s: float
    worker_ready_s: float
    share: float


@dataclass(frozen=True)
class WorkerStarted(Event):
    """The process that runs EvalScope was started."""


@dataclass(frozen=True)
class DatasetIncomplete(Event):
    """At the end, a score does not cover every sample, or there is none.

    Attributes:
        dataset: its name.
        requested: samples that were to be answered.
        answered: samples that have an answer.
        reported: whether there is a report.
        notes: why, in words.
        failures_file: where each failed sample is listed; empty where none failed.
    """

    dataset: str
    requested: int
    answered: int
    reported: bool
    notes: list[str] = field(default_factory=list)
    failures_file: str = ""


@dataclass(frozen=True)
class SamplesUnreadable(Event):
    """At the end, the saved samples could not be read: scores have no intervals, and there is no cache of samples.

    Attributes:
        reason: what went wrong, in words.
    """

    reason: str


@dataclass(frozen=True)
class FailuresStand(Event):
    """Nothing is left to do, although some samples failed permanently."""


@dataclass(frozen=True)
class RunFinished(Event):
    """The run has ended.

    Attributes:
        state: how.
        error: what ended it, or what was left behind; None: nothing.
        results: as run.json has them; None where it did not come to that.
    """

    state: RunState
    error: str | None = None
    results: dict[str, Any] | None = None


@dataclass(frozen=True)
class RunCancelled(Event):
    """Somebody wants the run to end: Ctrl-C, or whoever runs several."""


@dataclass(frozen=True)
class FilesReadAhead(Event):
    """Files of the checkpoint were read into the page cache while the model before it answered.

    Attributes:
        bytes: that were read, or were there already.
        seconds: how long that took.
        why_not: why it was not all; empty: it was.
    """

    bytes: int = 0
    seconds: float = 0.0
    why_not: str = ""
