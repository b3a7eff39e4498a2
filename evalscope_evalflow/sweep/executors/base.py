"""What runs jobs: here, or on a cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import ClassVar

from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.sweep.job import Job


class Executor(ABC):
    """Runs jobs, each where there is room for it.

    A new one is one file with a subclass, and an entry point in the group `evalflow.executors`. A job is pickled as it
    is (`Job.run()` does it, in whatever process); it needs the files that it names, and `work_dir` in common.

    Attributes:
        name: as in the section's `executor`.
    """

    name: ClassVar[str]

    def __init__(self, reporter: LiveReporter) -> None:
        """
        Args:
            reporter: who says what happens.
        """
        self.reporter = reporter

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> list[Future[ModelResult]]:
        """Have jobs done.

        Args:
            jobs: all of them, so that they can be put into an order. Those that need devices (`Job.needs`) may not
                share them.

        Returns:
            For each job its result to come, or the error that ended it: an EvalFlowError; of one that was cancelled,
            Stopped. One that fails harms no other.
        """

    @abstractmethod
    def cancel(self) -> None:
        """End every job that runs, in order, and begin no other; return when nothing of them runs any more."""
