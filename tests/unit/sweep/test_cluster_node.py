"""What a cluster job does on its node, with models that do as they are told."""

import json
import os
import threading
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices.nvml import CUDA_VISIBLE_DEVICES
from evalscope_evalflow.errors import EvalFlowError, ExitCode, Stopped
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.sweep.cluster import job_folder, node_main
from evalscope_evalflow.sweep.cluster.job_folder import Fate, NodeResult
from evalscope_evalflow.sweep.engine_groups import Group
from evalscope_evalflow.sweep.job import Job
from evalscope_evalflow.sweep.jobs import jobs_of

WAIT_S = 20.0


@dataclass(frozen=True)
class Told(Job):
    """A job that fails, is stopped or interrupted as its model's name says."""

    ran: ClassVar[list[tuple[str, object, str | None, bool]]] = []

    def run(self, reporter=None, control=None):
        control.work_planned()
        self.ran.append((self.model.name, self.task.flow.reuse, self.deploy.devices, control.heir_waits()))
        reporter.begin(self.model.name, "evaluating")
        if self.model.name == "interrupted":
            raise KeyboardInterrupt
        if self.model.name == "stopped":
            raise Stopped("stopped by `evalflow stop`")
        if self.model.name == "broken":
            raise EvalFlowError("it does not start")
        return ModelResult(self.model, self.task.folder(self.model))


@pytest.fixture
def work(tmp_path):
    """The folder of a job of these models."""
    Told.ran.clear()

    def work(*names, **section):
        models = [{"name": name, "path": "any"} for name in names]
        task = Task.parse(
            {
                "datasets": ["general_qa"],
                "work_dir": str(tmp_path / "out"),
                "evalflow": {"backend": "Native", "models": models, "deploy": {"engine": "scripted"}, **section},
            }
        )
        jobs = [replace(Told(job.task, job.size), group=Group("family")) for job in jobs_of(task)]
        return job_folder.make_folder(tmp_path / "out", "job", jobs)

    return work


def fates(folder):
    return {name: item.fate for name, item in job_folder.read_result(folder).outcomes.items()}


def test_each_has_its_turn_and_hands_its_engine_on(work):
    folder = work("a", "broken", "b")
    assert node_main.run_job(folder) == ExitCode.FAILED
    assert fates(folder) == {"a": Fate.ANSWERED, "broken": Fate.FAILED, "b": Fate.ANSWERED}
    assert [(name, heir) for name, _, _, heir in Told.ran] == [("a", True), ("broken", True), ("b", False)]
    assert job_folder.read_result(folder).outcomes["broken"].message == "it does not start"
    assert job_folder.read_result(folder).ended
    assert job_folder.read_node(folder).pid == os.getpid()


def test_what_was_interrupted_goes_on_and_what_is_done_is_not_done_again(work):
    folder = work("a", "interrupted", "b")
    assert node_main.run_job(folder) == ExitCode.INTERRUPTED
    assert fates(folder) == {"a": Fate.ANSWERED, "interrupted": Fate.INTERRUPTED, "b": Fate.INTERRUPTED}
    job_folder.clear_for_resubmission(folder)
    assert fates(folder) == {"a": Fate.ANSWERED}
    Told.ran.clear()
    node_main.run_job(folder)
    assert [name for name, *_ in Told.ran] == ["interrupted"]


def test_without_reuse_the_second_start_goes_on_from_what_the_first_has_answered(work):
    folder = work("interrupted", reuse=False)
    node_main.run_job(folder)
    node_main.run_job(folder)
    assert [reuse for _, reuse, *_ in Told.ran] == [False, True]


def test_one_that_was_stopped_on_the_node_is_no_failure_and_no_interruption(work):
    folder = work("stopped", "a")
    node_main.run_job(folder)
    assert fates(folder) == {"stopped": Fate.STOPPED, "a": Fate.ANSWERED}


def test_devices_are_those_that_the_cluster_gave(work, monkeypatch):
    monkeypatch.setenv(CUDA_VISIBLE_DEVICES, "GPU-4,GPU-5")
    folder = work("a")
    node_main.run_job(folder)
    assert [devices for _, _, devices, _ in Told.ran] == ["GPU-4,GPU-5"]
    assert job_folder.read_result(folder).outcomes["a"].devices == "GPU-4,GPU-5"


def test_results_are_json_and_nonsense_in_them_is_nothing(work):
    folder = work("a")
    node_main.run_job(folder)
    path = folder / job_folder.RESULT
    data = json.loads(path.read_text())
    data["outcomes"] |= {"b": {"fate": "eaten"}, "c": 7}
    path.write_text(json.dumps(data))
    assert fates(folder) == {"a": Fate.ANSWERED}
    path.write_text("[]")
    assert job_folder.read_result(folder) == NodeResult()


class TestNodeReporter:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch):
        monkeypatch.setattr(node_main, "WRITE_EVERY_S", 0.02)

    @pytest.fixture
    def signals(self, monkeypatch):
        """Set when the job was told to end."""
        told = threading.Event()
        monkeypatch.setattr(os, "kill", lambda pid, number: told.set())
        return told

    def test_it_says_how_far_it_is(self, work, signals):
        folder = work("a")
        progress = DatasetProgress("gsm8k", judging=False, done=3, total=8, failed=0, new=3, number=1, datasets=1)
        with node_main.NodeReporter(folder) as reporter:
            reporter.progress("a", "evaluating", progress, "")
            pause = threading.Event()
            for _ in range(1000):
                if job_folder.read_node(folder).progress:
                    break
                pause.wait(0.02)
        assert job_folder.read_node(folder).progress["done"] == 3
        assert not signals.is_set()

    def test_it_ends_when_another_start_has_taken_over(self, work, signals):
        folder = work("a")
        with node_main.NodeReporter(folder):
            job_folder.write_node(folder, replace(job_folder.read_node(folder), attempt="another"))
            assert signals.wait(WAIT_S)

    def test_it_ends_when_it_was_given_up(self, work, signals):
        folder = work("a")
        with node_main.NodeReporter(folder):
            job_folder.remove(folder)
            assert signals.wait(WAIT_S)


def test_a_folder_that_is_gone_is_no_work(work):
    folder = work("a")
    job_folder.remove(folder)
    with pytest.raises(OSError, match="No such file"):
        node_main.run_job(folder)
