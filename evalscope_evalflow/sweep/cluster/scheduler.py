"""The interface between the cluster executors and a cluster's own scheduler, which decides where and when jobs run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from evalscope_evalflow.sweep.device_needs import Offer


class Stage(str, Enum):
    """Where a submitted job is.

    QUEUED: it waits for room, or to be started again after its node was lost or it was preempted.
    RUNNING: it runs on a node.
    GONE: the scheduler runs it no more; what became of it stands in its folder, or nowhere if it was killed.
    """

    QUEUED = "queued"
    RUNNING = "running"
    GONE = "gone"


@dataclass(frozen=True)
class JobStatus:
    """What the scheduler says of one job.

    Attributes:
        stage: where it is.
        nodes: names of the nodes that it runs on; empty while it waits.
        since: when it was queued, or began to run (s since the epoch); None: the scheduler does not say.
        reason: why it waits or has gone, in the scheduler's words, such as "Resources" or "TIMEOUT"; may be empty.
    """

    stage: Stage
    nodes: str = ""
    since: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Submission:
    """One job on the cluster: one engine, and all that it answers.

    Attributes:
        name: a readable name, as the scheduler lists it; letters, digits, `-`, `_` and `.`.
        folder: its own folder on the shared file system, of mode 0700, with the pickled work; the job's log and its
            result go there.
        devices: devices that it needs, all on one node; 0: none.
    """

    name: str
    folder: Path
    devices: int


class Scheduler(ABC):
    """A cluster's scheduler. All methods may be called from any thread, one at a time."""

    @abstractmethod
    def offer(self) -> Offer:
        """What one job can be given on the largest node.

        Raises:
            ConfigError: the cluster cannot be asked; the message has its own words and what to do.
        """

    @abstractmethod
    def submit(self, submissions: Sequence[Submission]) -> list[str]:
        """Submit jobs that run `node_command(submission.folder)`, as one array where they are alike.

        Args:
            submissions: the jobs.

        Returns:
            The scheduler's id of each, in the same order.

        Raises:
            ConfigError: the cluster refuses; the message has its own words and what to do.
        """

    @abstractmethod
    def statuses(self, ids: Collection[str]) -> Mapping[str, JobStatus]:
        """Where jobs are, in as few requests as possible; one that the scheduler does not know is GONE.

        Raises:
            SchedulerSilent: it cannot be asked at the moment; nothing is known of any job.
        """

    @abstractmethod
    def cancel(self, ids: Collection[str]) -> None:
        """Ask it to end jobs, queued or running, without waiting; of one that has gone, nothing is asked."""

    @abstractmethod
    def problems(self, folders: Sequence[Path]) -> list[str]:
        """What keeps jobs from running there, found before anything is submitted; an empty list if nothing does.

        Args:
            folders: folders that every node has to see under the same path.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of the connection to it; jobs go on."""


class SchedulerSilent(Exception):
    """The scheduler does not answer at the moment, such as while its controller is restarted."""
