"""What a stock backend of EvalScope is to us: a stock task to make, and results to read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.errors import Problem
from evalscope_evalflow.task import Task

Stamps = Mapping[Path, int]  # report files, and when they were written (ns since the epoch)


@dataclass(frozen=True)
class Metric:
    """One figure of a report.

    Attributes:
        name: such as "mean_acc".
        score: as the report has it (mostly 0 to 1); None where nothing could be scored.
        samples: number of samples that it stands on.
        primary: whether it is the benchmark's own headline figure.
    """

    name: str
    score: float | None
    samples: int
    primary: bool = False


@dataclass(frozen=True)
class DatasetResult:
    """What became of one model on one dataset.

    Attributes:
        dataset: its name.
        metrics: the report's figures.
        requested: samples that were to be answered.
        succeeded: samples that were answered and scored.
        failed: samples that were not.
        report: the report's file; None where there is none.
        notes: what else the score stands on, such as a judge that failed.
        failures: how many samples have no answer or no score, by kind.
    """

    dataset: str
    metrics: list[Metric] = field(default_factory=list)
    requested: int = 0
    succeeded: int = 0
    failed: int = 0
    report: Path | None = None
    notes: list[str] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the score stands on every sample, each judged as it should be."""
        if self.report is None or not self.metrics or self.metrics[0].score is None:
            return False
        return not self.failed and self.succeeded >= self.requested and not self.notes


class Backend(ABC):
    """A stock backend."""

    name: ClassVar[str]

    @abstractmethod
    def check(self, task: Task) -> Iterable[Problem]:
        """What of the task this backend cannot do, as far as files tell."""

    @abstractmethod
    def stock_task(self, task: Task, model: ModelConfig, max_num_seqs: int) -> dict[str, Any]:
        """The stock task for one model, as a dict for TaskConfig, without URL and key of the model's API."""

    @abstractmethod
    def stamps(self, task: Task, model: ModelConfig) -> Stamps:
        """The reports that a run folder holds now, so that none of them is later taken for a new one."""

    @abstractmethod
    def results(self, task: Task, model: ModelConfig, before: Stamps) -> list[DatasetResult]:
        """What a run has made, dataset by dataset; reports that are as they were before it are not its own."""

    def answers(self, task: Task, model: ModelConfig, dataset: str) -> int:
        """Answers of a model on a dataset that earlier runs have saved."""
        return 0
