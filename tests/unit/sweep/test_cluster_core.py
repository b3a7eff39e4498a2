"""Cluster executors: what is submitted, adopted, submitted again, ended and left, with a scheduler that obeys."""

import itertools
import json
import pickle
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import ConfigError, EvalFlowError, Stopped
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.sweep.cluster import adoption, cluster_follower, cluster_work, job_folder, node_main
from evalscope_evalflow.sweep.cluster.cluster_executor import ClusterExecutor
from evalscope_evalflow.sweep.cluster.cluster_list import listed_jobs, refuse_cluster_jobs
from evalscope_evalflow.sweep.cluster.cluster_options import ClusterOptions
from evalscope_evalflow.sweep.cluster.job_folder import Fate, NodeResult, NodeState, Outcome
from evalscope_evalflow.sweep.cluster.scheduler import JobStatus, Scheduler, SchedulerSilent, Stage
from evalscope_evalflow.sweep.device_needs import Offer
from evalscope_evalflow.sweep.engine_groups import Group
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.jobs import jobs_of
from evalscope_evalflow.sweep.standby import Standby

WAIT_S = 30.0
stood_by = []  # models for which a worker was to be started ahead
KEY = "sk-a-very-secret-key"


class Obedient(Scheduler):
    """Jobs are where the test puts them; what it is asked for is counted."""

    def __init__(self):
        self.where: dict[str, JobStatus] = {}
        self.folders: dict[str, Path] = {}
        self.requests = self.cancelled = 0
        self.silent = False
        self.trouble: list[str] = []
        self._numbers = itertools.count(1)

    def offer(self):
        return Offer(4)

    def submit(self, submissions):
        self.requests += 1
        ids = [str(next(self._numbers)) for _ in submissions]
        for number, submission in zip(ids, submissions, strict=True):
            self.where[number], self.folders[number] = JobStatus(Stage.QUEUED), submission.folder
        return ids

    def statuses(self, ids):
        self.requests += 1
        if self.silent:
            raise SchedulerSilent("restarting")
        return {number: self.where[number] for number in ids if number in self.where}

    def cancel(self, ids):
        self.cancelled += len(ids)
        for number in ids:
            self.where[number] = JobStatus(Stage.GONE, reason="CANCELLED")

    def problems(self, folders):
        return self.trouble

    def of(self, model):
        """The last job of a model: its id and its folder."""
        found = [
            (number, folder)
            for number, folder in self.folders.items()
            if folder.exists() and model in job_folder.read_submission(folder).models
        ]
        return found[-1]

    def runs(self, model):
        number, folder = self.of(model)
        self.where[number] = JobStatus(Stage.RUNNING, "node1")
        job_folder.write_node(folder, NodeState("first", "node1", 1, time.time(), model, "evaluating"))

    def ends(self, model, reason="COMPLETED", **fates):
        """A job's end; `fates`: what becomes of its models, or nothing where it was killed."""
        number, folder = self.of(model)
        if fates:
            outcomes = {name: Outcome(Fate(fate)) for name, fate in fates.items()}
            job_folder.write_result(folder, NodeResult(outcomes, ended=True))
        self.where[number] = JobStatus(Stage.GONE, reason=reason)


@dataclass(frozen=True)
class Remembered(Job):
    """A job that says what is run here instead of running it."""

    ran: ClassVar[list[tuple[str, str, tuple[str, ...]]]] = []

    def run(self, reporter=None, control=None):
        self.ran.append((self.model.name, self.task.flow.mode, self.phases))
        return ModelResult(self.model, self.task.folder(self.model))


class Cluster(ClusterExecutor):
    """On the test's scheduler."""

    name = "obedient"
    desk: ClassVar[Obedient]

    def make_scheduler(self):
        return self.desk


@pytest.fixture(autouse=True)
def desk(monkeypatch):
    monkeypatch.setattr(Standby, "begin", lambda self, job: stood_by.append(job.model.name))
    stood_by.clear()
    Cluster.desk = Obedient()
    Remembered.ran.clear()
    for module, name, seconds in (
        (cluster_follower, "POLL_S", 0.01),
        (cluster_follower, "ASK_S", 0.02),
        (cluster_follower, "ASK_AT_MOST_S", 0.1),
        (cluster_follower, "LATE_S", 0.05),
        (adoption, "GONE_POLL_S", 0.01),
    ):
        monkeypatch.setattr(module, name, seconds)
    return Cluster.desk


@pytest.fixture
def make(tmp_path):
    """Jobs of a task of these models, those behind an API by the names that begin with `api`."""

    def make(*names, **section):
        models = [
            {"name": name, "api_url": "https://api.example.com/v1", "api_key": KEY}
            if name.startswith("api")
            else {"name": name, "path": "any"}
            for name in names
        ]
        task = Task.parse(
            {
                "datasets": ["general_qa"],
                "work_dir": str(tmp_path / "out"),
                "judge": {"models": [{"model_id": "j", "api_url": "https://j.example.com/v1", "api_key": KEY}]},
                "evalflow": {
                    "backend": "Native",
                    "models": models,
                    "deploy": {"engine": "scripted", "api_key": KEY, **section.pop("deploy", {})}
                    if not any(name.startswith("api") for name in names)
                    else {},
                    **section,
                },
            }
        )
        found = []
        for job in jobs_of(task):
            own = {"engine": "scripted", "api_key": KEY} if job.model.path else {}
            job = job.with_deploy(**own) if own and any(name.startswith("api") for name in names) else job
            found.append(Remembered(job.task, job.size, job.phases, job.group))
        return found

    return make


@pytest.fixture
def cluster():
    """Executors, which are ended."""
    made = []

    def begin(jobs, **options):
        executor = Cluster(LiveReporter(Reporter(quiet=True), []), ClusterOptions(**options))
        made.append(executor)
        return executor, executor.submit(jobs)

    yield begin
    for executor in made:
        executor.cancel()


def die(executor):
    """As SIGKILL ends a submitter: nothing is cancelled, and nobody beats for the claim."""
    executor._follower.abandon(EvalFlowError("killed"))
    executor._follower.join()
    executor._release_claim()
    executor._cluster_jobs, executor._follower = [], None


def until(condition):
    tick = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("not in time")


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_engines_run_there_and_verdicts_are_made_here(make, cluster, desk):
    _, futures = cluster(make("a", "b"))
    desk.runs("a")
    desk.runs("b")
    desk.ends("a", a="answered")
    desk.ends("b", b="failed")
    assert futures[0].result(WAIT_S).model.name == "a"
    assert isinstance(futures[1].exception(WAIT_S), EvalFlowError)
    assert Remembered.ran == [("a", "judge", ("judge",))]
    until(lambda: not list(job_folder.folders(make("a")[0].task.work_dir)))


def test_an_api_is_asked_from_here(make, cluster, desk):
    _, futures = cluster(make("api", "a"))
    assert futures[0].result(WAIT_S).model.name == "api"
    assert Remembered.ran == [("api", "all", ("infer", "judge"))]
    assert [job_folder.read_submission(folder).models for folder in desk.folders.values()] == [["a"]]


def test_models_that_share_an_engine_are_one_job_and_each_is_judged_as_it_is_answered(make, cluster, desk):
    family = Group("family", swaps=True)
    jobs = [replace(job, group=family) for job in make("a", "b")] + make("c")
    _, futures = cluster(jobs)
    assert sorted(len(job_folder.read_submission(folder).models) for folder in desk.folders.values()) == [1, 2]
    desk.runs("a")
    _, folder = desk.of("a")
    job_folder.write_result(folder, NodeResult({"a": Outcome(Fate.ANSWERED)}))
    assert futures[0].result(WAIT_S).model.name == "a"
    assert not futures[1].done()
    until(lambda: "b" in stood_by)  # its scoring finds a worker that has imported


def test_no_file_of_a_job_has_a_key_and_nobody_else_can_read_one(make, cluster, desk):
    cluster(make("a"))
    _, folder = desk.of("a")
    (job,) = job_folder.read_work(folder)
    assert job.task.flow.mode == "infer"
    assert "judge" not in job.task.stock
    assert job.deploy.api_key is None
    for path in files(folder):
        assert KEY.encode() not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o755, 0o722])
def test_work_that_others_could_read_or_write_is_not_loaded(make, cluster, desk, mode):
    cluster(make("a"))
    _, folder = desk.of("a")
    folder.chmod(mode)
    with pytest.raises(ConfigError, match="not this user's alone"):
        job_folder.read_work(folder)
    folder.chmod(0o700)
    (folder / job_folder.WORK).chmod(0o666)
    with pytest.raises(ConfigError, match="not this user's alone"):
        job_folder.read_work(folder)


def test_a_key_that_an_engine_needs_is_a_reference_to_a_variable_that_is_passed_on(make):
    (job,) = make("a", deploy={"env_vars": {"HF_TOKEN": KEY}})
    (problem,) = cluster_work.key_problems(cluster_work.answering(job), [])
    assert problem.where.endswith("env_vars.HF_TOKEN")
    assert KEY not in str(problem)
    (job,) = make("a", deploy={"env_vars": {"HF_TOKEN": "${MY_TOKEN}"}})
    (problem,) = cluster_work.key_problems(cluster_work.answering(job), [])
    assert "MY_TOKEN" in problem.what
    assert list(cluster_work.key_problems(cluster_work.answering(job), ["MY_TOKEN"])) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "node7.example"])
def test_no_engine_of_a_cluster_is_reached_over_the_network(make, host):
    (job,) = make("a", deploy={"host": host})
    (problem,) = cluster_work.host_problems(job)
    assert (problem.where, host in problem.what) == ("deploy.host", True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_is_where_an_engine_of_a_cluster_listens(make, host):
    (job,) = make("a", deploy={"host": host})
    assert list(cluster_work.host_problems(job)) == []


class TestAdoption:
    def test_after_sigkill_of_the_submitter_the_same_command_takes_the_same_jobs(self, make, cluster, desk):
        executor, _ = cluster(make("a", "b"))
        desk.runs("a")
        die(executor)
        _, futures = cluster(make("a", "b"))
        assert len(desk.folders) == 2
        desk.ends("a", a="answered")
        desk.ends("b", b="answered")
        assert [future.result(WAIT_S).model.name for future in futures] == ["a", "b"]

    def test_those_that_ended_meanwhile_are_not_submitted_again_unless_something_is_left(self, make, cluster, desk):
        executor, _ = cluster(make("a"))
        die(executor)
        desk.ends("a", a="failed")
        cluster(make("a"))
        assert len(desk.folders) == 2
        assert len(list(listed_jobs(make("a")[0].task.work_dir))) == 1

    def test_jobs_that_do_something_else_are_refused_without_a_terminal(self, make, cluster, desk):
        executor, _ = cluster(make("a", "b"))
        die(executor)
        with pytest.raises(ConfigError, match="a is to be answered with other settings") as caught:
            cluster(make("a", "b", deploy={"max_model_len": 512}))
        assert "evalflow stop" in caught.value.problems[0].todo
        with pytest.raises(ConfigError, match="b is not to be answered now"):
            cluster(make("a"))
        assert desk.cancelled == 0

    def test_after_a_yes_they_are_cancelled_and_gone_before_others_are_submitted(
        self, make, cluster, desk, monkeypatch
    ):
        executor, _ = cluster(make("a"))
        die(executor)
        monkeypatch.setattr(LiveReporter, "ask", lambda self, question: "other settings" in question)
        cluster(make("a", deploy={"max_model_len": 512}))
        assert (desk.cancelled, len(desk.folders)) == (1, 2)

    def test_whoever_died_before_it_knew_the_id_leaves_nothing_that_answers(self, make, cluster, desk):
        executor, _ = cluster(make("a"))
        _, folder = desk.of("a")
        die(executor)
        job_folder.write_submission(folder, replace(job_folder.read_submission(folder), id=""))
        cluster(make("a"))
        assert not folder.exists()
        with pytest.raises(OSError, match="No such file"):
            node_main.run_job(folder)

    def test_a_thousand_are_adopted_in_seconds_with_one_request(self, make, cluster, desk):
        names = [f"m{number:04}" for number in range(1000)]
        jobs = make(*names)
        began = time.monotonic()
        executor, _ = cluster(jobs)
        submitted_s = time.monotonic() - began
        die(executor)
        asked, began = desk.requests, time.monotonic()
        cluster(jobs)
        adopted_s = time.monotonic() - began
        print(f"submitted in {submitted_s:.1f} s, adopted in {adopted_s:.1f} s")
        assert len(desk.folders) == 1000
        assert desk.requests - asked < 5
        assert adopted_s < 20  # 5 s on an idle machine of today
        assert submitted_s < 40


class TestLost:
    def test_a_job_that_was_killed_is_submitted_again_from_its_folder_as_often_as_may_be(self, make, cluster, desk):
        _, (future,) = cluster(make("a"), max_requeues=2)
        for number in "123":
            until(lambda n=number: n in desk.folders)
            desk.runs("a")
            (desk.of("a")[1] / job_folder.LOG).write_text("loading\nslurmstepd: error: oom_kill\n")
            desk.ends("a", reason="TIMEOUT")
        error = future.exception(WAIT_S)
        assert isinstance(error, EvalFlowError)
        assert "TIMEOUT" in str(error)
        assert "2 times, which is max_requeues; its log ends with: slurmstepd: error: oom_kill" in str(error)
        assert len(set(desk.folders.values())) == 1

    def test_it_goes_on_where_it_was_interrupted(self, make, cluster, desk):
        jobs = [replace(job, group=Group("family")) for job in make("a", "b")]
        _, futures = cluster(jobs)
        desk.runs("a")
        desk.ends("a", reason="PREEMPTED", a="answered", b="interrupted")
        until(lambda: len(desk.folders) == 2)
        _, folder = desk.of("a")
        assert {name: item.fate for name, item in job_folder.read_result(folder).outcomes.items()} == {
            "a": Fate.ANSWERED
        }
        desk.runs("b")
        desk.ends("b", a="answered", b="answered")
        assert [future.result(WAIT_S).model.name for future in futures] == ["a", "b"]

    def test_a_scheduler_that_is_silent_is_waited_for(self, make, cluster, desk):
        _, (future,) = cluster(make("a"))
        desk.silent = True
        before = desk.requests
        until(lambda: desk.requests > before + 3)
        assert not future.done()
        desk.silent = False
        desk.runs("a")
        desk.ends("a", a="answered")
        assert future.result(WAIT_S)


class TestEnd:
    def test_cancelled_every_job_is_gone_and_every_future_done(self, make, cluster, desk):
        executor, futures = cluster(make("a", "b"))
        desk.runs("a")
        executor.cancel()
        assert {status.stage for status in desk.where.values()} == {Stage.GONE}
        for future in futures:
            assert isinstance(future.exception(0), Stopped)
            assert future.exception().everything
        assert list(job_folder.folders(make("a")[0].task.work_dir)) == []

    def test_one_that_was_stopped_on_purpose_is_not_submitted_again(self, make, cluster, desk):
        _, (future,) = cluster(make("a"))
        _, folder = desk.of("a")
        job_folder.mark_stopped(folder)
        desk.ends("a", reason="CANCELLED")
        assert isinstance(future.exception(WAIT_S), Stopped)
        assert len(desk.folders) == 1

    def test_detached_they_stay_and_the_next_run_adopts_them(self, make, cluster, desk):
        executor = Cluster(LiveReporter(Reporter(quiet=True), []))
        lines = executor.detach(make("a", "api"))
        executor.close()
        assert "--detach" in " ".join(lines)
        assert "api" in lines[-1]
        assert desk.cancelled == 0
        cluster(make("a", "api"))
        assert len(desk.folders) == 1

    def test_this_machine_does_not_answer_beside_them(self, make, cluster):
        (job,) = make("a")
        refuse_cluster_jobs(job.task.work_dir)
        cluster([job])
        with pytest.raises(ConfigError, match="has 1 cluster jobs"):
            refuse_cluster_jobs(job.task.work_dir)


class TestPreflight:
    def check(self, jobs, **options):
        return Cluster(LiveReporter(Reporter(quiet=True), []), ClusterOptions(**options)).check(jobs)

    def test_the_cluster_is_asked_with_the_folders_that_nodes_need(self, make, desk, monkeypatch):
        desk.trouble = ["partition gpux does not exist\nPartitions: gpu"]
        asked = []
        monkeypatch.setattr(desk, "problems", lambda folders: asked.extend(folders) or desk.trouble)
        (problem,) = self.check(make("a"))
        assert (problem.what, problem.todo) == ("partition gpux does not exist", "Partitions: gpu")
        assert any(path in make("a")[0].task.work_dir.parents for path in asked)

    def test_one_that_fits_no_node_is_refused_with_what_is_offered(self, make):
        (problem,) = self.check(make("a", deploy={"tensor_parallel": 8}))
        assert "needs 8 devices, and 4 are offered" in problem.what
        (problem,) = self.check(make("a", deploy={"tensor_parallel": 4}), gpus_per_node=2)
        assert "2 are offered" in problem.what

    def test_nothing_is_asked_of_a_cluster_that_is_not_needed(self, make, desk):
        assert self.check(make("api")) == []
        assert desk.requests == 0


def test_what_is_pickled_is_what_the_node_reads(make, cluster, desk):
    (job,) = make("a")
    cluster([job])
    _, folder = desk.of("a")
    (found,) = job_folder.read_work(folder)
    assert found == pickle.loads(pickle.dumps(cluster_work.answering(job)))
    assert json.loads((folder / job_folder.SUBMITTED).read_text())["identities"]["a"] == cluster_work.identity(found)


def test_how_far_a_job_is_does_not_change_what_it_is(make):
    (job,) = make("a")
    later = replace(job, size=replace(job.size, answers=3), phases=("infer",))
    assert cluster_work.identity(cluster_work.answering(later)) == cluster_work.identity(cluster_work.answering(job))


def test_a_second_start_does_not_archive_what_the_first_has_answered(make):
    (job,) = make("a", reuse=False)
    assert cluster_work.again(job).task.flow.reuse is True
    (job,) = make("a", reuse={"accept": ["extra_args"]})
    assert cluster_work.again(job) == job
