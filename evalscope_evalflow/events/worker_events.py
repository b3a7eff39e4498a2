"""What the worker reports to its parent, one JSON line each."""

from __future__ import annotations

import os
from dataclasses import dataclass

from evalscope_evalflow.events.base import Event


class WorkerEvent(Event):
    """Comes from the worker."""


@dataclass(frozen=True)
class WorkerStoodBy(WorkerEvent):
    """The worker was started before its model's turn came, and has imported EvalScope ahead.

    Attributes:
        import_s: seconds that its imports took.
        waited_s: seconds that it then waited for its task; 0 where that came before the imports were done.
    """

    import_s: float
    waited_s: float


@dataclass(frozen=True)
class WorkerImported(WorkerEvent):
    """EvalScope is imported."""


@dataclass(frozen=True)
class WorkerWaiting(WorkerEvent):
    """All that can be done without the model is done."""


@dataclass(frozen=True)
class WorkerAsking(WorkerEvent):
    """The model is asked from now on."""


@dataclass(frozen=True)
class AllAnswered(WorkerEvent):
    """The last answer is safe, before the backend's own files are written."""


@dataclass(frozen=True)
class AnswersSaved(WorkerEvent):
    """Every answer that can be had is in the backend's own files: the engine is not needed any more."""


@dataclass(frozen=True)
class DatasetAnswered(WorkerEvent):
    """A dataset was asked to its end.

    Attributes:
        dataset: its name.
        requested: samples that were to be answered.
        answered: samples that have an answer.
    """

    dataset: str
    requested: int
    answered: int


@dataclass(frozen=True)
class DatasetFailed(WorkerEvent):
    """A dataset ended with an error; the others go on.

    Attributes:
        dataset: its name.
        message: the error, as EvalScope tells it.
    """

    dataset: str
    message: str


@dataclass(frozen=True)
class DatasetNotSplit(WorkerEvent):
    """A benchmark has an evaluator of its own: it is judged while the engine runs.

    Attributes:
        dataset: its name.
    """

    dataset: str


@dataclass(frozen=True)
class VerdictsDropped(WorkerEvent):
    """Saved verdicts that were not the judge's own are removed, and made again.

    Attributes:
        dataset: whose they are.
        number: how many.
    """

    dataset: str
    number: int


@dataclass(frozen=True)
class MetricsFailed(WorkerEvent):
    """A dataset was scored; some of its metrics could not be computed, and have no value.

    Attributes:
        dataset: its name.
        metrics: for each such metric, of how many samples, and what went wrong with the first of them.
    """

    dataset: str
    metrics: dict[str, tuple[int, str]]


@dataclass(frozen=True)
class RowsAligned(WorkerEvent):
    """Saved answers were brought in line with a dataset's rows, which are not those that they were to.

    Attributes:
        dataset: its name.
        put_aside: answers to rows that are not chosen now; they are kept.
        brought_back: answers that had been put aside.
        scored_anew: verdicts that no longer count, as the right answer has changed.
    """

    dataset: str
    put_aside: int = 0
    brought_back: int = 0
    scored_anew: int = 0


@dataclass(frozen=True)
class JudgeProbed(WorkerEvent):
    """The judge was asked about one answer of a dataset while others were still being answered.

    Attributes:
        dataset: whose answer it was.
        requests: requests that it took; they are not made again if the answer is judged in the same way later.
        kind: why there is no verdict, as `MissingVerdict` has it; empty where there is one.
        said: what the judge, or its server, said.
        expected: what the reply has to be.
    """

    dataset: str
    requests: int
    kind: str = ""
    said: str = ""
    expected: str = ""


@dataclass(frozen=True)
class WorkerJudging(WorkerEvent):
    """The saved answers are scored from now on."""


@dataclass(frozen=True)
class WorkerDone(WorkerEvent):
    """The task is done."""


@dataclass(frozen=True)
class WorkerFailed(WorkerEvent):
    """The task cannot be done.

    Attributes:
        kind: the exception's class; empty where the API refuses every request.
        message: its words.
        errno: the number of the error where it is the disk's fault; else 0.
        file: the file that it came with; empty where that is not known.
    """

    kind: str
    message: str
    errno: int = 0
    file: str = ""

    @classmethod
    def of_disk(cls, error: OSError) -> WorkerFailed:
        """The event for an error that is the disk's fault."""
        file = os.fspath(error.filename) if isinstance(error.filename, (str, os.PathLike)) else ""
        return cls(type(error).__name__, str(error), error.errno or 0, file)


@dataclass(frozen=True)
class WorkerExited(WorkerEvent):
    """The worker's processes are gone. Its parent's side says this, after everything that the worker has said."""
