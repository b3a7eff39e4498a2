"""A real Ray cluster of two nodes, asked by the scheduler alone; jobs are small scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ray_cluster import GPUS, TwoNodes, actor_processes, wait_gone, wait_until

from evalscope_evalflow.sweep.cluster.ray_connection import JOB_CONFIG
from evalscope_evalflow.sweep.cluster.ray_scheduler import RayScheduler, RaySettings
from evalscope_evalflow.sweep.cluster.scheduler import JobStatus, SchedulerSilent, Stage, Submission
from evalscope_evalflow.sweep.device_needs import Offer

pytestmark = pytest.mark.cluster
# Says what it was given, starts a process of its own as an engine would, and waits to be told to end.
SCRIPT = """
import json, os, subprocess, sys, threading
folder = sys.argv[1]
below = subprocess.Popen(["sleep", "600", ], env={**os.environ, "FOLDER": folder}, start_new_session=True)
with open(os.path.join(folder, "new"), "w") as file:
    json.dump({"environment": dict(os.environ), "below": below.pid}, file)
os.replace(os.path.join(folder, "new"), os.path.join(folder, "said.json"))
while not os.path.exists(os.path.join(folder, "end")):
    threading.Event().wait(0.1)
"""


def command(folder: Path) -> list[str]:
    return [sys.executable, "-c", SCRIPT, str(folder)]


class Jobs:
    """Jobs of one test."""

    def __init__(self, folder: Path, scheduler: RayScheduler) -> None:
        self.folder = folder
        self.scheduler = scheduler
        self.ids: dict[str, str] = {}

    def submit(self, **devices: int) -> None:
        submissions = []
        for name, count in devices.items():
            (self.folder / name).mkdir(mode=0o700)
            submissions.append(Submission(name, self.folder / name, count))
        self.ids |= dict(zip(devices, self.scheduler.submit(submissions), strict=True))

    def status(self, name: str) -> JobStatus:
        return self.scheduler.statuses(self.ids.values())[self.ids[name]]

    def wait_for(self, stage: Stage, *names: str) -> None:
        def there() -> bool:
            found = self.scheduler.statuses(self.ids.values())
            return all(found[self.ids[name]].stage is stage for name in names)

        wait_until(there, f"{', '.join(names)} {stage.value}")

    def environment(self, name: str) -> dict[str, str]:
        wait_until(lambda: (self.folder / name / "said.json").exists(), f"{name} has begun")
        found: dict[str, str] = json.loads((self.folder / name / "said.json").read_text())["environment"]
        return found

    def end(self, name: str) -> None:
        (self.folder / name / "end").touch()


@pytest.fixture
def start(ray_nodes: TwoNodes, tmp_path: Path) -> Iterator[Callable[..., Jobs]]:
    """Jobs by settings; all are gone afterwards."""
    made: list[Jobs] = []

    def jobs(**settings: object) -> Jobs:
        options = RaySettings(address=ray_nodes.address, **settings)  # type: ignore[arg-type]
        made.append(Jobs(tmp_path, RayScheduler(options, command, "job.log")))
        return made[-1]

    yield jobs
    for item in made:
        item.scheduler.cancel(item.ids.values())
        item.wait_for(Stage.GONE, *item.ids)
        item.scheduler.close()
    wait_gone(tmp_path)


def test_gpus_of_a_job_are_on_one_node_and_what_has_no_room_waits(start: Callable[..., Jobs]) -> None:
    jobs = start()
    assert jobs.scheduler.offer() == Offer(GPUS)
    jobs.submit(a=2, b=2, c=2, none=0)
    jobs.wait_for(Stage.RUNNING, "a", "b", "none")
    assert {jobs.status("a").nodes, jobs.status("b").nodes} == {"first", "second"}
    assert jobs.status("c") == JobStatus(Stage.QUEUED, reason="waits for resources")
    for name in ("a", "b"):
        assert jobs.environment(name)["CUDA_VISIBLE_DEVICES"] == "0,1"
    jobs.end("a")
    jobs.wait_for(Stage.RUNNING, "c")
    assert jobs.status("a") == JobStatus(Stage.GONE)


def test_a_job_gets_what_pass_env_names_and_nothing_else_of_the_submitter(
    start: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that is a Ray job itself, whose variables Ray would hand on."""
    monkeypatch.setenv("JUDGE_KEY", "sk-not-to-be-passed-on")
    inherited = {"env_vars": {"INHERITED": "no"}}
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"runtime_env": inherited}))
    jobs = start(environment={"NAMED": "yes"})
    jobs.submit(a=1)
    found = jobs.environment("a")
    assert found["NAMED"] == "yes"
    assert not {"JUDGE_KEY", "INHERITED", "OMP_NUM_THREADS"} & set(found)
    assert not [name for name in found if name.startswith("RAY_")]


def test_cancelled_jobs_end_with_all_that_they_started_whether_they_run_or_wait(
    start: Callable[..., Jobs], tmp_path: Path
) -> None:
    jobs = start()
    jobs.submit(a=2, b=2, waits=2)
    jobs.wait_for(Stage.RUNNING, "a", "b")
    jobs.environment("a")
    jobs.scheduler.cancel([jobs.ids["a"], jobs.ids["waits"]])
    jobs.wait_for(Stage.GONE, "a", "waits")
    wait_gone(tmp_path / "a")
    assert jobs.status("b").stage is Stage.RUNNING
    assert not (tmp_path / "waits" / "said.json").exists()
    jobs.scheduler.cancel(jobs.ids.values())  # some have gone


def test_when_ray_kills_its_worker_as_the_memory_monitor_does_the_job_ends_with_it(
    start: Callable[..., Jobs], tmp_path: Path
) -> None:
    jobs = start()
    jobs.submit(a=1)
    jobs.environment("a")
    jobs.wait_for(Stage.RUNNING, "a")
    for process in actor_processes():
        process.kill()
    wait_gone(tmp_path)
    jobs.wait_for(Stage.GONE, "a")
    assert "worker process has died" in jobs.status("a").reason


@pytest.mark.parametrize("what", ["kill_raylet", "kill_node"])
def test_when_a_node_is_lost_its_job_ends_and_the_others_go_on(
    start: Callable[..., Jobs], ray_nodes: TwoNodes, tmp_path: Path, what: str
) -> None:
    jobs = start()
    jobs.submit(a=2, b=2)
    jobs.wait_for(Stage.RUNNING, "a", "b")
    for name in ("a", "b"):
        jobs.environment(name)
    lost, kept = ("a", "b") if jobs.status("a").nodes == "second" else ("b", "a")
    getattr(ray_nodes, what)()
    jobs.wait_for(Stage.GONE, lost)
    wait_gone(tmp_path / lost)
    assert "node" in jobs.status(lost).reason
    assert jobs.status(kept).stage is Stage.RUNNING


def test_jobs_outlive_the_process_that_submitted_them(start: Callable[..., Jobs], tmp_path: Path) -> None:
    """That is killed; another one finds them by their ids."""
    jobs = start()
    (tmp_path / "a").mkdir(mode=0o700)
    submit = (
        "import os, pathlib, signal, sys\n"
        "sys.path[:0] = sys.argv[4:]\n"
        "from test_ray_scheduler import *\n"
        "scheduler = RayScheduler(RaySettings(address=sys.argv[1]), command, 'job.log')\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "pathlib.Path(sys.argv[3]).write_text(scheduler.submit([Submission('a', folder, 1)])[0])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    id_file, here = tmp_path / "id", Path(__file__)
    address = jobs.scheduler.settings.address
    paths = [str(here.parent), str(here.parents[2])]
    ran = subprocess.run([sys.executable, "-c", submit, address, str(tmp_path / "a"), str(id_file), *paths])
    assert ran.returncode < 0
    jobs.ids["a"] = id_file.read_text()
    jobs.wait_for(Stage.RUNNING, "a")
    jobs.end("a")
    jobs.wait_for(Stage.GONE, "a")


def test_a_lost_connection_is_made_again(start: Callable[..., Jobs]) -> None:
    jobs = start()
    jobs.submit(a=1)
    jobs.wait_for(Stage.RUNNING, "a")
    for child in psutil.Process().children():
        with suppress(psutil.ZombieProcess):  # of another test, and not yet waited for
            if "evalscope_evalflow.sweep.cluster.ray_bridge" in child.cmdline():
                child.kill()
                child.wait()
    try:
        found = jobs.status("a")
    except SchedulerSilent:
        found = jobs.status("a")
    assert found.stage is Stage.RUNNING


def test_problems_are_found_before_anything_is_submitted(start: Callable[..., Jobs], tmp_path: Path) -> None:
    tmp_path.joinpath("shared").mkdir()
    assert start().scheduler.problems([tmp_path / "shared", Path("/usr")]) == []
    assert os.listdir(tmp_path / "shared") == []  # what nodes were to see there is removed
    (large,) = start(cpus=64, resources={"lamp": 1}).scheduler.problems([])
    assert "64 of CPU (the most that a node has: 4), 1 of lamp (the most that a node has: 0)" in large
    (python,) = start(python="/no/python").scheduler.problems([])
    assert python.startswith("on first, second: ")
    assert "/no/python" in python
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    (package,) = start(python=str(bare / "bin" / "python")).scheduler.problems([])
    assert "has no evalscope-evalflow" in package
