"""Runs a cluster job on its node: one engine, and the models that it answers for, one after the other.

    python -m evalscope_evalflow.sweep.cluster.node_main FOLDER

FOLDER is the job's own on the shared file system. SIGTERM, SIGINT and SIGHUP end the job in order: the engine is
released, records are written, and `result.json` says which models were interrupted. If this process is killed, its
engine and its worker end, too, and the next start of the job goes on from what is saved. What happens is reported on
standard error, which is the job's log.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import secrets
import signal
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from evalscope_evalflow.devices.nvml import CUDA_VISIBLE_DEVICES
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import RESUME, EvalFlowError, ExitCode, Stopped
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.processes.signals import interruptible
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.run.dead_runs import clean_up_before
from evalscope_evalflow.sweep.cluster import job_folder
from evalscope_evalflow.sweep.cluster.cluster_work import again, saved_answers
from evalscope_evalflow.sweep.cluster.job_folder import Fate, NodeResult, NodeState, Outcome
from evalscope_evalflow.sweep.executors.inline import Inline, InlineControl
from evalscope_evalflow.sweep.job import Job

WRITE_EVERY_S = 5.0  # what the job says of itself; it is a small file, on a file system that many share
MISSED = 3  # times that its own file is not there, after which a job is given up
_BEGUN = "begun"


def node_command(folder: Path, python: str = sys.executable) -> list[str]:
    """The command that a node has to run.

    Args:
        folder: the job's.
        python: an interpreter with EvalFlow on that node.
    """
    return [python, "-m", "evalscope_evalflow.sweep.cluster.node_main", str(folder)]


def main(argv: list[str]) -> int:
    """Run the job in a folder; returns the exit code."""
    (name,) = argv
    return run_job(Path(name))


def run_job(folder: Path) -> int:
    """Run the job in a folder, in the main thread or, where signals are nobody's concern, in another one.

    Returns:
        The exit code: 0, every model was answered; 1, some could not be; 130, it was ended before that.

    Raises:
        ConfigError: the folder is not this user's alone.
        OSError: there is no work in it, as it was given up.
    """
    jobs = job_folder.read_work(folder)
    reporter = NodeReporter(folder)
    results = _Results(folder)
    left = [job for job in jobs if results.is_open(job)]
    executor = _NodeExecutor(reporter, results)
    ended: BaseException | None = None
    try:
        with interruptible(), reporter:
            clean_up_before(reporter.warn)  # a job before this one may have been killed, guards and all
            executor.submit([_on_its_devices(again(job) if results.was_begun(job) else job) for job in left])
    except KeyboardInterrupt as error:
        ended = error
    finally:
        results.close([job.model.name for job in left])
    if ended is not None or any(item.fate is Fate.INTERRUPTED for item in results.outcomes.values()):
        return ExitCode.INTERRUPTED
    good = all(item.fate is Fate.ANSWERED for item in results.outcomes.values())
    return ExitCode.COMPLETE if good else ExitCode.FAILED


def _on_its_devices(job: Job) -> Job:
    """A job with the devices that the cluster has given it, where it says which and the engine uses any."""
    given = os.environ.get(CUDA_VISIBLE_DEVICES)
    return job.with_deploy(devices=given) if given and job.deploy.devices else job


class _Results:
    """Keeps `result.json`, and which models were begun."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.outcomes: dict[str, Outcome] = dict(job_folder.read_result(folder).outcomes)
        self._begun = {path.name for path in folder.glob(f"{_BEGUN}-*")}

    def is_open(self, job: Job) -> bool:
        """Whether a model has not had its turn, or had it and was interrupted."""
        found = self.outcomes.get(job.model.name)
        return found is None or found.fate is Fate.INTERRUPTED

    def was_begun(self, job: Job) -> bool:
        """Whether an earlier start of this job has archived what a model's folder held."""
        return self._mark(job) in self._begun

    def begin(self, job: Job) -> None:
        """A model's folder holds nothing any more that must not be resumed."""
        if job.task.flow.reuse is False:
            (self._folder / self._mark(job)).touch(mode=0o600)

    def put(self, job: Job, outcome: Outcome) -> None:
        """Write down what became of a model."""
        self.outcomes[job.model.name] = outcome
        job_folder.write_result(self._folder, NodeResult(self.outcomes))

    def close(self, models: list[str]) -> None:
        """The job ends; of these models, those that had no turn were interrupted before it."""
        for name in models:
            self.outcomes.setdefault(name, Outcome(Fate.INTERRUPTED, "the cluster ended the job"))
        job_folder.write_result(self._folder, NodeResult(self.outcomes, ended=True))

    def _mark(self, job: Job) -> str:
        return f"{_BEGUN}-{job.task.folder(job.model).name}"


class _NodeControl(InlineControl):
    """Notes that a model's run has archived what it had to."""

    def __init__(self, job: Job, following: Job | None, results: _Results) -> None:
        super().__init__(job, following)
        self._job, self._results = job, results

    def work_planned(self) -> None:
        self._results.begin(self._job)


class _NodeExecutor(Inline):
    """One model after the other; what becomes of each is written down at once."""

    name = "a node of a cluster"

    def __init__(self, reporter: LiveReporter, results: _Results) -> None:
        super().__init__(reporter)
        self._results = results

    def control_of(self, job: Job, following: Job | None) -> InlineControl:
        return _NodeControl(job, following, self._results)

    def finished(self, job: Job, future: Future[ModelResult]) -> None:
        self._results.put(job, _outcome(job, future))


def _outcome(job: Job, future: Future[ModelResult]) -> Outcome:
    error = future.exception()
    if error is None:
        left = future.result().left
        fate = Fate.FAILED if left else Fate.ANSWERED
        return Outcome(fate, "; ".join(left), saved_answers(job), job.deploy.devices)
    return Outcome(Fate.STOPPED if isinstance(error, Stopped) else Fate.FAILED, str(error))


class NodeReporter(LiveReporter):
    """Reports on standard error, and keeps `node.json`; ends the job if another start of it has taken over.

    It is a context manager: `node.json` is kept within the block.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(Reporter(), [])
        self._folder = folder
        self._state = NodeState(secrets.token_hex(8), platform.node(), os.getpid(), time.time())
        self._changed = threading.Event()
        self._over = threading.Event()
        self._writer = threading.Thread(target=self._keep, daemon=True, name="evalflow node.json")

    @property
    def is_live(self) -> bool:
        return True  # somebody may watch, from another machine: every progress is of interest

    def __enter__(self) -> NodeReporter:
        job_folder.write_node(self._folder, self._state)
        self._writer.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._changed.set()
        self._writer.join()

    def begin(self, model: str, text: str) -> None:
        self._show(model, text, None)

    def progress(self, model: str, state: str, progress: DatasetProgress, trouble: str) -> None:
        self._show(model, state, dataclasses.asdict(progress))

    def update(self, model: str, text: str) -> None:
        """Nothing is counted, so that there is nothing to say beside the phase."""

    def _show(self, model: str, phase: str, progress: Mapping[str, Any] | None) -> None:
        self._state = dataclasses.replace(self._state, model=model, phase=phase, progress=progress)
        self._changed.set()

    def _keep(self) -> None:
        written, missed = self._state, 0
        while not self._over.wait(WRITE_EVERY_S):
            there = job_folder.read_node(self._folder)
            missed = 0 if there is not None else missed + 1  # a file system may fail for a moment
            if missed >= MISSED or (there is not None and there.attempt != self._state.attempt):
                self.warn("another start of this job has begun, or it was given up: this one ends")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if self._state is not written and there is not None:
                written = self._state
                with suppress(OSError):
                    job_folder.write_node(self._folder, written)


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except EvalFlowError as error:
        sys.stderr.write(f"evalflow: {error}\n")
        code = int(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"evalflow: this job was given up, or its folder cannot be read: {error}; {RESUME}\n")
        code = int(ExitCode.BAD_CONFIG)
    sys.exit(code)
