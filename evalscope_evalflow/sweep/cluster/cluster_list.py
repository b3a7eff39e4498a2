"""What is known of cluster jobs from the shared folder alone, on any host, without asking a scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.sweep.cluster import job_folder
from evalscope_evalflow.sweep.cluster.cluster_progress import progress_of
from evalscope_evalflow.sweep.cluster.job_folder import NodeState, Written
from evalscope_evalflow.sweep.cluster.submitter_claim import Submitter, living_submitter


@dataclass(frozen=True)
class ListedJob:
    """A cluster job that is queued or running, as far as its folder says.

    Attributes:
        work_dir: the task's folder.
        folder: the job's own.
        written: what was submitted.
        node: what it says of itself; None: it was not started.
        left: models that have had no turn, or have it now.
        submitter: who follows it; None: nobody does.
    """

    work_dir: Path
    folder: Path
    written: Written
    node: NodeState | None
    left: tuple[str, ...]
    submitter: Submitter | None

    @property
    def is_running(self) -> bool:
        """Whether it was started."""
        return self.node is not None

    @property
    def phase(self) -> str:
        """What it is busy with."""
        return self.node.phase if self.node else "queued"

    @property
    def since(self) -> float:
        """When it was submitted, or began to run (s since the epoch)."""
        return self.node.since if self.node else self.written.submitted

    @property
    def progress(self) -> DatasetProgress | None:
        """How far the model is whose turn it is; None where nothing is counted."""
        return progress_of(self.node) if self.node else None

    @property
    def executor(self) -> str:
        """The executor's name."""
        choice: Any = self.written.executor
        return str(choice.get("name") if isinstance(choice, dict) else choice)


def listed_jobs(work_dir: Path) -> Iterator[ListedJob]:
    """The cluster jobs of a task's folder that have not ended, as far as they say so themselves."""
    submitter = None
    for number, folder in enumerate(job_folder.folders(work_dir)):
        if not number:
            submitter = living_submitter(work_dir)
        written, result = job_folder.read_submission(folder), job_folder.read_result(folder)
        if written is None or result.ended or not written.id:
            continue
        left = tuple(name for name in written.models if name not in result.outcomes)
        yield ListedJob(work_dir, folder, written, job_folder.read_node(folder), left, submitter)


def refuse_cluster_jobs(work_dir: Path) -> None:
    """Check, before models of a folder are run on this machine, that no cluster job answers for them.

    Raises:
        ConfigError: one may.
    """
    found = list(listed_jobs(work_dir))
    if found:
        what = (
            f"{work_dir} has {len(found)} cluster jobs that are queued or running, by the executor {found[0].executor}"
        )
        todo = f"Use that executor to adopt them, or end them: evalflow stop {work_dir}"
        raise ConfigError(Problem("work_dir", what, todo))
