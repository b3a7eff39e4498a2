"""Jobs on a Ray cluster: each is a detached actor, which holds the job's devices while the job runs as its child."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from evalscope_evalflow import __version__
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.sweep.cluster.ray_connection import WHERE, RayConnection, Refused
from evalscope_evalflow.sweep.cluster.scheduler import JobStatus, Scheduler, SchedulerSilent, Stage, Submission
from evalscope_evalflow.sweep.device_needs import Offer

BATCH = 100  # jobs in one request
NAMES = 8  # of a folder's entries, that a node has to see as well
PROBED = 100  # nodes that are looked at before anything is submitted; others are of the same kinds


@dataclass(frozen=True)
class RaySettings:
    """How a cluster is reached, and what all jobs ask of it.

    Attributes:
        address: as `ray.init` takes it.
        cpus: CPUs that a job reserves.
        memory: bytes of memory that a job reserves; None: none.
        resources: other resources that a job reserves, by Ray's names.
        runtime_env: Ray's runtime environment of jobs.
        environment: variables that jobs get on top of their node's.
        gpus_per_node: GPUs of the largest node; None: as the cluster's nodes say now.
        gpu_bytes: memory of each; None: not known.
        python: the Python on the nodes that has EvalFlow; None: the one that Ray runs on there.
    """

    address: str = "auto"
    cpus: float = 1
    memory: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    gpus_per_node: int | None = None
    gpu_bytes: int | None = None
    python: str | None = None


class RayScheduler(Scheduler):
    """Asks a Ray cluster, which decides where and when jobs run."""

    def __init__(self, settings: RaySettings, command: Callable[[Path], list[str]], log: str) -> None:
        """
        Args:
            settings: how the cluster is reached, and what jobs ask of it.
            command: the command that runs a job, by its folder; its first word is a Python.
            log: name of the file in a job's folder that its output goes to.
        """
        self.settings = settings
        self._command, self._log = command, log
        self._connection = RayConnection(
            settings.address,
            {
                "cpus": settings.cpus,
                "memory": settings.memory,
                "resources": dict(settings.resources),
                "runtime_env": dict(settings.runtime_env),
            },
        )

    def offer(self) -> Offer:
        if self.settings.gpus_per_node is not None:
            return Offer(self.settings.gpus_per_node, self.settings.gpu_bytes)
        with _refusals("its nodes cannot be listed"):
            nodes = self._connection.ask("nodes")
        return Offer(int(max((node["resources"].get("GPU", 0) for node in nodes), default=0)), self.settings.gpu_bytes)

    def submit(self, submissions: Sequence[Submission]) -> list[str]:
        ids = [f"{submission.name}-{token_hex(4)}" for submission in submissions]
        jobs = [
            {
                "id": job,
                "devices": submission.devices,
                "command": self._command(submission.folder),
                "log": str(submission.folder / self._log),
                "environment": dict(self.settings.environment),
                "own_python": self.settings.python is not None,
            }
            for job, submission in zip(ids, submissions, strict=True)
        ]
        try:
            for first in range(0, len(jobs), BATCH):
                self._connection.ask("submit", jobs=jobs[first : first + BATCH])
        except Refused as error:
            self.cancel(ids)
            raise _refused("it takes no job", error) from None
        return ids

    def statuses(self, ids: Collection[str]) -> Mapping[str, JobStatus]:
        try:
            found = self._connection.ask("statuses", ids=list(ids))
        except Refused as error:
            raise SchedulerSilent(str(error)) from None
        return {
            job: JobStatus(
                Stage(status["stage"]), status.get("node", ""), status.get("since"), status.get("reason", "")
            )
            for job, status in found.items()
        }

    def cancel(self, ids: Collection[str]) -> None:
        try:
            self._connection.ask("cancel", ids=list(ids))
        except Refused as error:
            raise SchedulerSilent(str(error)) from None

    def problems(self, folders: Sequence[Path]) -> list[str]:
        with _refusals("its nodes cannot be listed"):
            nodes = self._connection.ask("nodes")
        large = self._too_large(nodes)
        if large:
            return large
        chosen = [node for node in nodes if self._fits(node["resources"])] or nodes
        # The Python that submits need not be on the nodes: jobs run by the one that Ray has there, or that is named.
        shared = [folder for folder in folders if folder.absolute() != Path(sys.prefix).absolute()]
        with _tokens(shared) as wanted, _refusals("its nodes cannot be looked at"):
            found = self._connection.ask(
                "probe", nodes=[node["id"] for node in chosen[:PROBED]], folders=wanted, python=self.settings.python
            )
        names = {node["id"]: node["name"] for node in nodes}
        said: dict[str, list[str]] = {}
        for node, looked in found.items():
            for problem in _problems_of(looked):
                said.setdefault(problem, []).append(names[node])
        return [f"on {_some(where)}: {problem}" for problem, where in said.items()]

    def close(self) -> None:
        self._connection.close()

    def _needs(self) -> dict[str, float]:
        """What every job reserves, by Ray's names; its GPUs, which differ, are compared with the offer."""
        memory = {} if self.settings.memory is None else {"memory": float(self.settings.memory)}
        return {"CPU": self.settings.cpus, **memory, **self.settings.resources}

    def _fits(self, there: Mapping[str, float]) -> bool:
        return all(there.get(name, 0) >= need for name, need in self._needs().items())

    def _too_large(self, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
        """What no node has enough of; nothing where `gpus_per_node` says that nodes are started when needed."""
        if self.settings.gpus_per_node is not None or any(self._fits(node["resources"]) for node in nodes):
            return []
        most = {name: max((node["resources"].get(name, 0) for node in nodes), default=0) for name in self._needs()}
        needs = ", ".join(
            f"{need:g} of {name} (the most that a node has: {most[name]:g})" for name, need in self._needs().items()
        )
        return [
            f"no node of {len(nodes)} has all that a job reserves: {needs}\nLower executor.resources, "
            "or set gpus_per_node if such nodes are started when they are needed."
        ]


def _problems_of(looked: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a node, by what `probe_node` found there; on a second line what to do."""
    if looked.get("error"):
        yield looked["error"]
        return
    for path in looked["missing"]:
        yield f"{path} is not there\nEvery node has to see it under the same path, such as on a shared file system."
    if looked["user"] != os.getuid():
        yield (
            f"Ray runs as user {looked['user']} there, and this is user {os.getuid()}, whose jobs nobody else may read"
            "\nRun evalflow as that user, such as by `ray job submit`."
        )
    python, package = looked["versions"]
    here = platform.python_version()
    if python.split(".")[:2] != here.split(".")[:2]:
        what = f"{looked['python']} is Python {python}, and {here} is used here"
        yield f"{what}\nJobs need the same minor version: give another executor.python."
    if package != __version__:
        has = f"has evalscope-evalflow {package}" if package else "has no evalscope-evalflow"
        todo = f"Add evalscope-evalflow=={__version__} to it or to executor.runtime_env, or give executor.python."
        yield f"{looked['python']} {has}, and {__version__} is used here\n{todo}"


def _some(names: Sequence[str]) -> str:
    """A few names of many."""
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more nodes"


@contextmanager
def _tokens(folders: Sequence[Path]) -> Iterator[dict[str, list[str]]]:
    """Paths, each with names of what a node has to see in it; an empty folder is given a file for as long."""
    wanted: dict[str, list[str]] = {}
    written = []
    try:
        for folder in folders:
            path = folder.absolute()
            while not path.exists():  # what a run has still to make
                path = path.parent
            names = sorted(os.listdir(path))[:NAMES] if path.is_dir() else []
            if path.is_dir() and not names and os.access(path, os.W_OK):
                token = path / f".evalflow-{token_hex(4)}"
                token.touch()
                written.append(token)
                names = [token.name]
            wanted[str(path)] = names
        yield wanted
    finally:
        for token in written:
            token.unlink(missing_ok=True)


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Turns what the cluster refuses, or does not answer, into an error for the user."""
    try:
        yield
    except Refused as error:
        raise _refused(what, error) from None
    except SchedulerSilent as error:
        raise ConfigError(Problem(WHERE, f"{error}", "See `ray status` on a node of the cluster.")) from None


def _refused(what: str, error: Refused) -> ConfigError:
    """The cluster's refusal, in its own words."""
    words = re.sub(r"\s+", " ", str(error))
    return ConfigError(Problem(WHERE, f"Ray refuses: {what}: {words}", "See the options of the executor ray."))
