"""How far a worker is: what it has counted, and how fast it goes. The worker reports it about once a second."""

from __future__ import annotations

from dataclasses import dataclass

from evalscope_evalflow.events.worker_events import WorkerEvent


@dataclass(frozen=True)
class DatasetProgress(WorkerEvent):
    """How far one dataset is, with answering or with judging.

    Rates are those of the last half minute or so, and count nothing that was saved before. They are None until they
    can be told, and so is the time left.

    Attributes:
        dataset: its name.
        judging: whether answers are judged; else the model is asked.
        done: samples that are answered (or judged), those that were saved before included.
        total: samples that are to be; None: the benchmark's own evaluator does not say.
        failed: samples that were tried in vain in this pass.
        new: those of `done` that this pass has added.
        number: which of the datasets of this pass it is, from 1.
        datasets: how many there are.
        answers_per_s: answers (or verdicts) a second; None, as the next two: there were too few yet, or none come any
            more.
        output_tokens_per_s: tokens a second that the model (or the judge) has written, of requests that are over.
        left_s: seconds until this dataset is done, at this rate.
        input_tokens: of the requests of this pass that are over.
        output_tokens: likewise.
        busy_s: seconds of this pass in which at least one request was on its way.
        ended: whether this is the last report on the dataset in this pass.
    """

    dataset: str
    judging: bool
    done: int
    total: int | None
    failed: int = 0
    new: int = 0
    number: int = 1
    datasets: int = 1
    answers_per_s: float | None = None
    output_tokens_per_s: float | None = None
    left_s: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    busy_s: float = 0.0
    ended: bool = False
