"""The interface of executors: they run jobs on this machine, or on a cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import ClassVar

from evalscope_evalflow.config.plugin_options import PluginOptions
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.sweep.job import Job

INTERFACE_VERSION = 1


class Executor(ABC):
    """Runs jobs, each as soon as there is room for it.

    A new one is a subclass with the four class attributes below and the two methods, and an entry point in the group
    `evalflow.executors`; docs/contributing/add-an-executor.md has a complete example. A job may be pickled and run in
    another process, on another machine: it needs nothing but the files that it names, and `work_dir` in common.
    `evalscope_evalflow.sweep.job_process` is a command that runs a pickled job.

    Attributes:
        name: as in the section's `executor`, and of the entry point.
        interface_version: the version of this interface that it was written for: 1.
        Options: its options in the section, each a typed field with a default and a description.
        on_this_machine: whether jobs run on the machine that submits them. If not, preflight checks neither this
            machine's devices nor its ports.
        can_detach: whether `detach` submits jobs that go on without the process that submits them.
        reporter: reports to the user.
        options: its options, validated.
    """

    name: ClassVar[str]
    interface_version: ClassVar[int]
    on_this_machine: ClassVar[bool] = True
    can_detach: ClassVar[bool] = False

    class Options(PluginOptions):
        """No options."""

    def __init__(self, reporter: LiveReporter, options: PluginOptions | None = None) -> None:
        """
        Args:
            reporter: reports to the user; `reporter.given(model, devices)` when a job begins.
            options: an instance of `Options`; default: none is set.
        """
        self.reporter = reporter
        self.options = self.Options() if options is None else options

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> list[Future[ModelResult]]:
        """Run jobs. Called once, with all of them, so that they can be put into a good order.

        Jobs that hold devices at the same time hold different ones: `Job.needs` says how many of the offered devices
        a job takes, and `Job.with_deploy(devices="0,1")` gives them to it. All jobs together ask the judge for no more
        verdicts at once than `Size.verdicts_at_once`, which is the same for each: `Job.with_judge_limit` lowers it.

        Args:
            jobs: the jobs.

        Returns:
            A future for each job, in the order of `jobs`, with its result or the EvalFlowError that ended it:
            `Stopped.all(…)` for a job that was cancelled, ended or never begun. A job that fails, or whose process
            dies, harms no other.
        """

    @abstractmethod
    def cancel(self) -> None:
        """End every job that runs, begin no other, and return when nothing of them runs any more.

        May be called from another thread than `submit`, at any time, and more than once.
        """

    def check(self, jobs: Sequence[Job]) -> list[Problem]:
        """What keeps jobs from running, found before anything starts, as a part of preflight.

        Args:
            jobs: what would be submitted.
        """
        return []

    def detach(self, jobs: Sequence[Job]) -> list[str]:
        """Submit jobs, and leave them; where `can_detach` says so.

        Args:
            jobs: the jobs.

        Returns:
            What the user is told: how to see them, to end them and to come back.

        Raises:
            ConfigError: they cannot be submitted.
        """
        what = f"{self.name} runs models as long as the command lives, and cannot be detached from"
        raise ConfigError(Problem("--detach", what, "Leave --detach out, or use an executor for a cluster."))

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of what it holds. Called once, when every future has its result or error, or after `cancel`."""
