"""A cluster of one machine, for tests: its scheduler's state is a folder, and whoever has a `ClusterMachine` runs it.

The executor `scripted-cluster` submits by writing files there, as sbatch would by asking slurmctld; jobs run on
whether the submitter lives or not. What goes wrong is up to the test: it kills processes, holds jobs back, or makes the
scheduler silent.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from evalscope_evalflow.sweep.cluster.cluster_executor import ClusterExecutor
from evalscope_evalflow.sweep.cluster.cluster_options import ClusterOptions
from evalscope_evalflow.sweep.cluster.node_main import node_command
from evalscope_evalflow.sweep.cluster.scheduler import JobStatus, Scheduler, SchedulerSilent, Stage, Submission
from evalscope_evalflow.sweep.device_needs import Offer

TICK_S = 0.05


def _write(path: Path, data: Mapping[str, Any]) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    new.write_text(json.dumps(data))
    new.replace(path)


class ScriptedScheduler(Scheduler):
    """Writes what it is asked for into the folder, and counts how often it is asked."""

    def __init__(self, state: Path, options: ClusterOptions) -> None:
        self._state, self._options = state, options
        self.asked = 0

    def offer(self) -> Offer:
        return Offer(2)

    def submit(self, submissions: Sequence[Submission]) -> list[str]:
        numbers = itertools.count(len(list(self._state.glob("*.json"))) + 1)
        ids = []
        for submission in submissions:
            number = f"{next(numbers):06}"
            passed = {name: os.environ[name] for name in self._options.pass_env if name in os.environ}
            argv = node_command(submission.folder, **({"python": self._options.python} if self._options.python else {}))
            about = {"argv": argv, "folder": str(submission.folder), "name": submission.name, "env": passed}
            _write(self._state / f"{number}.json", {**about, "stage": "queued", "since": time.time()})
            ids.append(number)
        return ids

    def statuses(self, ids: Collection[str]) -> Mapping[str, JobStatus]:
        self.asked += 1
        if (self._state / "silent").exists():
            raise SchedulerSilent("the controller is down")
        found = {}
        for number in ids:
            path = self._state / f"{number}.json"
            if path.exists():
                data = json.loads(path.read_text())
                found[number] = JobStatus(Stage(data["stage"]), data.get("node", ""), reason=data.get("reason", ""))
        return found

    def cancel(self, ids: Collection[str]) -> None:
        for number in ids:
            (self._state / f"{number}.cancel").touch()

    def problems(self, folders: Sequence[Path]) -> list[str]:
        unseen = self._state / "unseen"
        hidden = unseen.read_text().split() if unseen.exists() else []
        return [
            f"{path} is not seen by the nodes\nPut it on the shared disk." for path in folders if str(path) in hidden
        ]


class ScriptedCluster(ClusterExecutor):
    """The executor."""

    name = "scripted-cluster"
    interface_version = 1

    class Options(ClusterOptions):
        """Where the cluster is."""

        state: str = Field(description="folder of the scheduler's state")

    def make_scheduler(self) -> Scheduler:
        assert isinstance(self.options, ScriptedCluster.Options)
        return ScriptedScheduler(Path(self.options.state), self.options)


class ClusterMachine:
    """Runs what is submitted, so many jobs at once, each in a session of its own; a context manager."""

    def __init__(self, state: Path, slots: int = 2) -> None:
        self.state, self.slots = state, slots
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.hold = False  # begin nothing
        self._devices: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        state.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> ClusterMachine:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(60)

    @property
    def choice(self) -> dict[str, Any]:
        """For the section's `executor`."""
        return {"name": "scripted-cluster", "state": str(self.state), "pass_env": ["PYTHONPATH"]}

    def jobs(self) -> dict[str, dict[str, Any]]:
        """What the scheduler knows of every job, by its id."""
        return {path.stem: json.loads(path.read_text()) for path in sorted(self.state.glob("*.json"))}

    def _run(self) -> None:
        while not self._over.wait(TICK_S):
            self._tick()

    def _tick(self) -> None:
        for number, job in self.jobs().items():
            path, cancelled = self.state / f"{number}.json", (self.state / f"{number}.cancel").exists()
            process = self.processes.get(number)
            if job["stage"] == "queued":
                if cancelled:
                    _write(path, {**job, "stage": "gone", "reason": "CANCELLED"})
                elif not self.hold and len(self.processes) < self.slots:
                    self.processes[number] = self._start(number, job)
                    _write(path, {**job, "stage": "running", "node": f"node{int(number) % 2}"})
            elif job["stage"] == "running" and process is not None:
                if cancelled and process.poll() is None:
                    process.terminate()
                if process.poll() is not None:
                    reason = "COMPLETED" if process.returncode == 0 else f"exit {process.returncode}"
                    del self.processes[number], self._devices[number]
                    _write(path, {**job, "stage": "gone", "reason": reason})

    def _start(self, number: str, job: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        # As `--export=NONE` does: what a job gets is named, but for what any login gives.
        kept = ("PATH", "HOME", "USER", "LANG", "EVALFLOW_RUNTIME_DIR", "TMPDIR")
        env = {name: os.environ[name] for name in kept if name in os.environ} | job["env"]
        self._devices[number] = next(free for free in range(self.slots) if free not in self._devices.values())
        env["CUDA_VISIBLE_DEVICES"] = str(self._devices[number])
        with open(Path(job["folder"]) / "job.log", "ab") as log:
            return subprocess.Popen(
                job["argv"], env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
