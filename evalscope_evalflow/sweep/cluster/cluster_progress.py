"""Shows how far cluster jobs are, by the scheduler's word and by what running jobs say of themselves."""

from __future__ import annotations

from collections.abc import Collection

from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.events.base import parse
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.sweep.cluster import job_folder
from evalscope_evalflow.sweep.cluster.cluster_job import ClusterJob
from evalscope_evalflow.sweep.cluster.job_folder import NodeState
from evalscope_evalflow.sweep.cluster.scheduler import Stage


def progress_of(state: NodeState) -> DatasetProgress | None:
    """How far the model is whose turn it is; None where nothing is counted."""
    found = parse({"event": DatasetProgress.__name__, **(state.progress or {})})
    return found if state.progress and isinstance(found, DatasetProgress) else None


class ShownProgress:
    """Keeps the live view, and prints a line when a job begins to run."""

    def __init__(self, reporter: LiveReporter, models: Collection[str]) -> None:
        """
        Args:
            reporter: whose view it is.
            models: those that it shows.
        """
        self._reporter, self._models = reporter, models
        self._shown: dict[str, tuple[str, str]] = {}  # what each model is shown to do, and where

    def status(self, job: ClusterJob) -> None:
        """The scheduler has said something new of a job."""
        stage, where = job.status.stage, job.status.nodes
        for name in sorted(job.open):
            if stage is Stage.RUNNING:
                self._show(name, "starting", where)
            elif name in self._shown:  # else it waits, as it is shown to do from the start
                self._show(name, "queued", where)
        if stage is Stage.RUNNING:
            self._reporter.log(f"{job.written.name}: job {job.id} runs on {where or 'a node'}")

    def node(self, job: ClusterJob) -> None:
        """Show what a running job says of itself."""
        state = job_folder.read_node(job.folder)
        if state is None or state.model not in job.open:
            return
        self._show(state.model, state.phase, job.status.nodes or state.host)
        progress = progress_of(state)
        if progress is not None and state.model in self._models:
            self._reporter.progress(state.model, state.phase, progress, "")

    def _show(self, name: str, phase: str, where: str) -> None:
        before = self._shown.get(name)
        if name not in self._models or before == (phase, where):
            return
        self._shown[name] = (phase, where)
        if where and (before is None or before[1] != where):
            self._reporter.given(name, where)
        self._reporter.begin(name, phase)
