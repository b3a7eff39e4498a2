"""The results of a task: one for each model, and the exit code."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.backends import DatasetResult
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import EvalFlowError, ExitCode
from evalscope_evalflow.results.run_folders import result_record


@dataclass
class ModelResult:
    """The results of one model.

    Attributes:
        model: the model.
        folder: its run folder.
        datasets: its results, dataset by dataset.
        error: what ended it early; None: nothing did.
        left: what of its engine could not be released, a line each.
    """

    model: ModelConfig
    folder: Path
    datasets: list[DatasetResult] = field(default_factory=list)
    error: EvalFlowError | None = None
    left: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every score covers all of its samples."""
        return self.error is None and all(result.complete for result in self.datasets)

    def as_record(self) -> dict[str, Any]:
        """The results, as run.json holds them."""
        return {item.dataset: result_record(item) for item in self.datasets}


@dataclass
class FlowResult:
    """The results of a task.

    Attributes:
        task: the task.
        models: the results of each of its models, in their order.
        skipped: matches of a pattern that were not evaluated, and why: they are no whole checkpoints.
    """

    task: Task
    models: list[ModelResult]
    skipped: dict[str, str] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, list[DatasetResult], str | None]]:
        """The table's contents: each model's name, results, and error."""
        rows: list[tuple[str, list[DatasetResult], str | None]] = [
            (item.model.name, item.datasets, str(item.error or "; ".join(item.left)) or None) for item in self.models
        ]
        return [*rows, *((name, [], f"skipped: {why}") for name, why in self.skipped.items())]

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the command."""
        if any(result.error is not None or result.left for result in self.models):
            return ExitCode.FAILED
        complete = not self.skipped and all(result.complete for result in self.models)
        return ExitCode.COMPLETE if complete else ExitCode.INCOMPLETE
