"""Slurm, asked by its own commands; jobs are submitted by submitit."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from evalscope_evalflow.errors import ConfigError, Problem, nearest
from evalscope_evalflow.sweep.cluster.scheduler import JobStatus, Scheduler, SchedulerSilent, Stage, Submission
from evalscope_evalflow.sweep.cluster.slurm_files import last_words, private_folder, remove_files
from evalscope_evalflow.sweep.cluster.slurm_probe import probe
from evalscope_evalflow.sweep.cluster.slurm_queue import JOB_FORMAT, NODE_FORMAT, Node, read_jobs, read_nodes, usable
from evalscope_evalflow.sweep.cluster.slurm_settings import SlurmSettings, interpreter, parameters
from evalscope_evalflow.sweep.device_needs import Offer

WHERE = "evalflow.executor"
REQUEST_S = 60.0  # a controller that is busy takes its time
SILENT = ("Unable to contact slurm controller", "Socket timed out", "Connection refused", "Zero Bytes were transmitted")
PROGRAMS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol", "srun")
ARRAY_SIZE = 1000  # Slurm's default: MaxArraySize=1001, and numbers begin at 0
CANCEL_AT_ONCE = 1000  # ids on one command line
FINAL = ("COMPLETED", "CANCELLED")  # states that a job which is put back into the queue never has
DOUBT_S = 5.0  # that any other end has to last
_LISTED = 20  # names that a message gives: a cluster may have a thousand nodes
BEGIN_TIME = "BeginTime"  # squeue's word for a job that may not begin yet


class SlurmScheduler(Scheduler):
    """Slurm, on whatever cluster its commands here belong to.

    Attributes:
        settings: how jobs are submitted.
    """

    def __init__(self, settings: SlurmSettings, command: Callable[[Path], list[str]]) -> None:
        """
        Args:
            settings: how jobs are submitted.
            command: what runs in a job, by the job's folder.
        """
        self.settings = settings
        self._command = command
        self._nodes: list[Node] | None = None
        self._array_size: int | None = None
        self._asked_at = float("-inf")
        self._known: dict[str, JobStatus] = {}
        self._submitted: dict[str, float] = {}  # after squeue was asked last
        self._files: dict[str, tuple[Path, Path]] = {}  # of each job: submitit's folder, and its own
        self._shared: list[Path] = []
        self._given_up: list[str] = []  # jobs that have failed, of which Slurm does not know yet that they stay so
        self._doubted: dict[str, float] = {}  # jobs that were listed as failed, and since when

    def offer(self) -> Offer:
        settings = self.settings
        if settings.gpus_per_node is not None:
            return Offer(settings.gpus_per_node, settings.gpu_bytes)
        most = max((node.count(settings.gpu_type) for node in self._usable()), default=0)
        return Offer(most, settings.gpu_bytes)

    def submit(self, submissions: Sequence[Submission]) -> list[str]:
        alike: dict[int, list[int]] = defaultdict(list)
        for number, submission in enumerate(submissions):
            alike[submission.devices].append(number)
        ids: dict[int, str] = {}
        size = self._most_in_array()
        try:
            for devices, numbers in alike.items():
                for first in range(0, len(numbers), size):
                    part = numbers[first : first + size]
                    found = self._submit_array([submissions[number] for number in part], devices)
                    ids |= dict(zip(part, found, strict=True))
        except ConfigError:
            if ids:
                self.cancel(ids.values())
            raise
        now = time.time()
        self._submitted |= dict.fromkeys(ids.values(), now)
        return [ids[number] for number in range(len(submissions))]

    def statuses(self, ids: Collection[str]) -> Mapping[str, JobStatus]:
        known = self._known.keys() | self._submitted.keys()
        since = monotonic() - self._asked_at
        if since >= self.settings.poll_s or not set(ids) <= known:
            self._ask_queue(ids)
        return {job: self._status(job) for job in ids}

    def cancel(self, ids: Collection[str]) -> None:
        listed = [job for job in ids if self._known.get(job, JobStatus(Stage.QUEUED)).stage is not Stage.GONE]
        for first in range(0, len(listed), CANCEL_AT_ONCE):
            done = self._run(["scancel", *listed[first : first + CANCEL_AT_ONCE]])
            if done.returncode and any(words in done.stderr for words in SILENT):
                raise SchedulerSilent(done.stderr.strip())

    def problems(self, folders: Sequence[Path]) -> list[str]:
        self._shared = list(folders)
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            return [f"{', '.join(missing)} not found\n{_NO_SLURM}"]
        try:
            found = list(self._wrong_choices())
        except ConfigError as error:
            return [f"{problem.what}\n{problem.todo}" for problem in error.problems]
        except SchedulerSilent as error:
            return [f"Slurm does not answer: {error}\n{_NOT_REACHED}"]
        return found or self._refusal() or probe(self.settings, self._excluded(), folders)

    # What is submitted

    def _submit_array(self, submissions: Sequence[Submission], devices: int) -> list[str]:
        """Submit jobs that are alike.

        Raises:
            ConfigError: Slurm refuses.
        """
        import cloudpickle
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError, environment_variables

        from evalscope_evalflow.sweep.cluster import slurm_work

        folder = private_folder(submissions[0].folder)
        cloudpickle.register_pickle_by_value(slurm_work)
        try:
            executor = submitit.SlurmExecutor(
                folder, max_num_timeout=self.settings.max_requeues, python=interpreter(self.settings)
            )
            works = [slurm_work.SlurmWork(item.folder, self._command(item.folder)) for item in submissions]
            name = submissions[0].name if len(submissions) == 1 else f"evalflow-{len(submissions)}-models"
            executor.update_parameters(**self._parameters(name, devices, folder))
            # A variable outweighs what the script says.
            with environment_variables(SBATCH_EXPORT=self.settings.export), executor.batch():
                jobs = [executor.submit(work) for work in works]
        except (FailedJobError, FailedSubmissionError, OSError, RuntimeError) as error:
            raise ConfigError(_refused(str(error))) from None
        finally:
            cloudpickle.unregister_pickle_by_value(slurm_work)
        ids = [job.job_id for job in jobs]
        self._files |= {job: (folder, item.folder) for job, item in zip(ids, submissions, strict=True)}
        return ids

    def _parameters(self, name: str, devices: int, folder: Path) -> dict[str, Any]:
        limit = max((node.limit_min or 0 for node in self._usable()), default=0) or None
        return parameters(
            self.settings,
            name=name,
            devices=devices,
            folders=[folder, *self._shared],
            excluded=self._excluded(),
            limit_min=self.settings.time_limit(limit),
        )

    def _excluded(self) -> list[str]:
        """Nodes of the partition that jobs may not run on. sbatch's own nodelist would give a job all that it names."""
        if not self.settings.nodes:
            return []
        settings = self.settings
        there = usable(self._all_nodes(), partition=settings.partition, constraint="", names=())
        return sorted({node.name for node in there} - set(settings.nodes))

    def _most_in_array(self) -> int:
        if self._array_size is None:
            text = self._run(["scontrol", "show", "config"]).stdout
            named = [line.split("=")[1].strip() for line in text.splitlines() if line.startswith("MaxArraySize")]
            self._array_size = max(1, int(named[0]) - 1) if named and named[0].isdigit() else ARRAY_SIZE
        return self._array_size

    # What is asked

    def _ask_queue(self, ids: Collection[str]) -> None:
        """Ask squeue for all of this user's jobs, in one request, with those that ended in the last minutes.

        Raises:
            SchedulerSilent: there is no answer.
        """
        command = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", f"--format={JOB_FORMAT}"]
        self._asked_at = monotonic()
        before = time.time()
        done = self._run(command)
        if done.returncode:
            raise SchedulerSilent(done.stderr.strip() or f"squeue: exit code {done.returncode}")
        there = read_jobs(done.stdout)
        self._known = {job: self._seen(job, there.get(job)) for job in dict.fromkeys([*self._known, *ids])}
        self._submitted = {job: at for job, at in self._submitted.items() if at > before and job not in there}
        if (
            self._given_up
        ):  # in case that Slurm does put them back, later than it ever should: another job has their work
            self._run(["scancel", *self._given_up])
            self._given_up.clear()
        self._start_again([job for job, status in self._known.items() if status.reason == BEGIN_TIME])

    def _seen(self, job: str, now: JobStatus | None) -> JobStatus:
        """Where a job is, by what squeue says of it now; one that it lists no more keeps the reason that it had.

        A job that is put back into the queue, at its time limit or when its node is lost, is listed as failed for a
        moment before. So a failure is believed when it lasts.
        """
        before = self._known.get(job)
        has_gone = before is not None and before.stage is Stage.GONE
        if now is None:
            return before if before and has_gone else JobStatus(Stage.GONE, reason="Slurm does not list it any more")
        if now.stage is not Stage.GONE:
            self._doubted.pop(job, None)
            return now
        if before is not None and has_gone:
            return before
        if now.reason not in FINAL:
            since = self._doubted.setdefault(job, self._asked_at)
            if self._asked_at - since < DOUBT_S:
                return JobStatus(Stage.RUNNING, now.nodes, now.since)
            self._given_up.append(job)
        if job in self._files:
            files, folder = self._files.pop(job)
            words = last_words(files, job, folder) if now.reason.startswith("FAILED") else ""
            remove_files(files, job)
            return dataclasses.replace(now, reason=f"{now.reason}: {words}" if words else now.reason)
        return now

    def _start_again(self, jobs: Sequence[str]) -> None:
        """Have jobs begin that Slurm has put back into the queue: it lets each of them wait for two minutes."""
        if jobs and "begin" not in self.settings.additional:
            self._run(["scontrol", "update", f"JobId={','.join(jobs)}", "StartTime=now"])

    def _status(self, job: str) -> JobStatus:
        if job in self._submitted:
            return JobStatus(Stage.QUEUED, since=self._submitted[job])
        return self._known[job]

    def _usable(self) -> list[Node]:
        settings = self.settings
        return usable(
            self._all_nodes(), partition=settings.partition, constraint=settings.constraint, names=settings.nodes
        )

    def _all_nodes(self) -> list[Node]:
        """All nodes of all partitions; sinfo is asked once.

        Raises:
            ConfigError: it cannot be asked.
        """
        if self._nodes is None:
            if shutil.which("sinfo") is None:
                raise ConfigError(Problem(WHERE, "sinfo not found", _NO_SLURM))
            done = self._run(["sinfo", "--noheader", "--Node", f"--format={NODE_FORMAT}"])
            if done.returncode:
                raise ConfigError(Problem(WHERE, f"sinfo says: {_words(done.stderr)}", _NOT_REACHED))
            self._nodes = read_nodes(done.stdout)
        return self._nodes

    # What is wrong

    def _wrong_choices(self) -> Iterator[str]:
        """A partition, nodes or a type of GPU that the cluster does not have."""
        settings, nodes = self.settings, self._all_nodes()
        partitions = sorted({node.partition for node in nodes})
        if settings.partition and settings.partition not in partitions:
            yield _unknown("partition", settings.partition, partitions)
            return
        if not settings.partition and not any(node.default for node in nodes):
            yield f"the cluster has no default partition\nSet partition to one of {', '.join(partitions)}."
            return
        there = usable(nodes, partition=settings.partition, constraint="", names=())
        names = sorted({node.name for node in there})
        for name in settings.nodes:
            if name not in names:
                yield _unknown("nodelist", name, names)
        types = sorted({kind for node in there for kind in node.gpus if kind})
        if settings.gpu_type and settings.gpu_type not in types:
            yield _unknown("gpu_type", settings.gpu_type, types)

    def _refusal(self) -> list[str]:
        """What Slurm says of a job as they are submitted, without submitting one."""
        import submitit  # noqa: F401 - it is needed

        excluded = self._excluded()
        options = [f"--{name}={value}" for name, value in self.settings.selection(excluded).items()]
        options += [f"--{name}={value}" for name, value in self.settings.additional.items() if value is not True]
        options += [f"--{name}" for name, value in self.settings.additional.items() if value is True]
        if self.settings.time_min:
            options.append(f"--time={self.settings.time_min}")
        done = self._run(["sbatch", "--test-only", *options, "--wrap=true"])
        return [f"Slurm refuses such a job: {_words(done.stderr)}\n{_CHANGE}"] if done.returncode else []

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands.

        Raises:
            SchedulerSilent: it did not end.
        """
        try:
            return subprocess.run(
                command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=REQUEST_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SchedulerSilent(f"{command[0]}: {error}") from None


_NO_SLURM = "Run this on a machine of the cluster that jobs are submitted from, or choose `executor: local`."
_CHANGE = "Change the options that it names; `sacctmgr show assoc user=$USER` lists accounts, `sinfo` partitions."
_NOT_REACHED = "Is SLURM_CONF right, and does `sinfo` work in this shell?"


def _words(text: str) -> str:
    """What a command of Slurm's says, without its name on every line."""
    lines = [line.split("error: ", 1)[-1].strip() for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines)) or "nothing"


def _refused(text: str) -> Problem:
    """The cluster's refusal in its own words."""
    lines = [line for line in text.splitlines() if "error:" in line] or text.splitlines()
    return Problem(WHERE, f"Slurm refuses the jobs: {_words(chr(10).join(lines))}", _CHANGE)


def _unknown(option: str, value: str, known: Sequence[str]) -> str:
    """The message for a value that the cluster does not have."""
    hint = nearest(value, known)
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    there = (", ".join(known[:_LISTED]) or "none") + more
    return f"{option} {value!r} is not on this cluster\n{hint} There are: {there}."
