"""What became of a task: model by model, with the exit code that says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends import DatasetResult
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import EvalFlowError, ExitCode


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

    def as_record(self) -> dict[str, Any]:
        """The results as run.json has them."""
        return {
            item.dataset: {
                "metrics": {metric.name: metric.score for metric in item.metrics},
                "requested": item.requested,
                "answered": item.answered,
                "succeeded": item.succeeded,
                "failed": item.failed,
                "judged": item.judged,
                "fallbacks": item.fallbacks,
                "failures": item.failures,
                "notes": item.notes,
            }
            for item in self.datasets
        }


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
