"""Executors, with jobs that only say when they run."""

import pickle
import threading
from concurrent.futures import wait
from dataclasses import dataclass, field, replace

import pytest

from evalscope_evalflow.config import FlowConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices.claims import Claim
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import ConfigError, EngineError, EvalFlowError, Stopped
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.run.attempt import EngineLost
from evalscope_evalflow.sweep.engine_groups import Group
from evalscope_evalflow.sweep.executors import load_executor
from evalscope_evalflow.sweep.executors.inline import Inline
from evalscope_evalflow.sweep.executors.local import Local
from evalscope_evalflow.sweep.job import Job, single_model_task
from evalscope_evalflow.sweep.jobs import jobs_of, order_of
from evalscope_evalflow.sweep.local_claims import claims_here
from evalscope_evalflow.sweep.size import UNKNOWN_SAMPLES, Size, samples

WAIT_S = 10


class Stage:
    """What the jobs do, as they do it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.events = []
        self.devices = {}
        self.at_once = self.most_at_once = 0
        self.gates = {}

    def gate(self, name):
        return self.gates.setdefault(name, threading.Event())

    def say(self, *event):
        with self.lock:
            self.events.append(event)


@dataclass(frozen=True)
class Scripted(Job):
    """A job that waits for its gate, frees its devices, and is then judged."""

    claim: Claim = field(default=Claim())

    def run(self, reporter=None, control=None):
        stage, name = STAGES[id(self.task.stock)], self.model.name
        deploy = self.task.flow.deploy_for(self.model)
        with stage.lock:
            stage.devices[name] = deploy.devices
            stage.at_once += 1
            stage.most_at_once = max(stage.most_at_once, stage.at_once)
        stage.say(name, "begins")
        ended = threading.Event()
        try:
            if control is not None:
                with control.on_cancel(lambda: (ended.set(), stage.gate(name).set())):
                    assert stage.gate(name).wait(WAIT_S)
                    control.check()
            if name.startswith("bad"):
                raise EvalFlowError(f"{name} fails")
            if name.startswith("dirty"):
                control.clean = False
        finally:
            with stage.lock:
                stage.at_once -= 1
        heir = control is not None and control.heir_waits()
        stage.say(name, "engine kept" if heir else "engine gone")
        if control is not None:
            control.devices_released()
            with control.judging(self.size.verdicts) as share:
                stage.say(name, "judges", share)
        return ModelResult(self.model, self.task.folder(self.model))


STAGES = {}


class Slots(Local):
    """Offers each job what the job itself says, in place of this machine's devices."""

    def claims_of(self, jobs):
        return [job.claim for job in jobs]


@pytest.fixture
def stage():
    return Stage()


@pytest.fixture
def make(stage, tmp_path, gguf_file):
    def jobs(*names, devices="0,1", needs=1, answers=None, **size):
        models = [{"name": name, "path": str(gguf_file)} for name in names]
        section = {"backend": "Native", "models": models, "deploy": {"engine": "llamacpp", "devices": devices}}
        task = Task.parse({"datasets": ["general_qa"], "work_dir": str(tmp_path / "out"), "evalflow": section})
        STAGES[id(task.stock)] = stage
        claim = Claim(tuple(devices.split(",")), needs, assigned=True)
        return [
            Scripted(
                single_model_task(task, model), Size(10**9, (answers or {}).get(model.name, 100), **size), claim=claim
            )
            for model in task.models
        ]

    yield jobs
    STAGES.clear()


@pytest.fixture
def live():
    return LiveReporter(Reporter(quiet=True), [])


def until(condition):
    done = threading.Event()
    for _ in range(WAIT_S * 100):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("it never came true")


def begun(stage):
    return [name for name, what, *_ in stage.events if what == "begins"]


class TestLocal:
    def test_two_run_at_once_on_two_devices_and_the_third_when_one_is_free(self, make, stage, live):
        futures = Slots(live).submit(make("a", "b", "c"))
        until(lambda: len(begun(stage)) == 2)
        assert sorted(begun(stage)) == ["a", "b"]
        stage.gate("b").set()
        until(lambda: "c" in begun(stage))
        assert stage.devices["c"] == stage.devices["b"]
        assert {stage.devices["a"], stage.devices["b"]} == {"0", "1"}
        for name in "ac":
            stage.gate(name).set()
        assert [future.result(WAIT_S).model.name for future in futures] == ["a", "b", "c"]
        assert stage.most_at_once == 2

    def test_the_next_begins_when_the_engine_is_gone_though_judging_goes_on(self, make, stage, live):
        """With one device, judging overlaps the next load."""
        executor = Slots(live)
        first, second = make("a", "b", devices="0", verdicts=4, verdicts_at_once=4)
        futures = executor.submit([first, second])
        stage.gate("a").set()
        until(lambda: "b" in begun(stage))
        stage.gate("b").set()
        wait(futures, WAIT_S)
        names = [(name, what) for name, what, *_ in stage.events]
        assert names.index(("a", "engine gone")) < names.index(("b", "begins")) < names.index(("b", "engine gone"))

    def test_the_longest_is_begun_first(self, make, stage, live):
        futures = Slots(live).submit(make("a", "b", "c", devices="0", answers={"b": 5000, "c": 1000}))
        for name in "abc":
            stage.gate(name).set()
        wait(futures, WAIT_S)
        assert begun(stage) == ["b", "c", "a"]

    def test_one_that_fails_fails_alone(self, make, stage, live):
        futures = Slots(live).submit(make("a", "bad", "c"))
        for name in ("a", "bad", "c"):
            stage.gate(name).set()
        assert futures[0].result(WAIT_S).model.name == "a"
        assert futures[2].result(WAIT_S).model.name == "c"
        with pytest.raises(EvalFlowError, match="bad fails"):
            futures[1].result(WAIT_S)

    def test_what_is_not_free_of_an_engine_is_given_to_nobody(self, make, stage, live):
        futures = Slots(live).submit(make("dirty", "b", devices="0"))
        stage.gate("dirty").set()
        assert futures[0].result(WAIT_S)
        with pytest.raises(EvalFlowError, match="it needs 1 of the devices 0, and too few are left"):
            futures[1].result(WAIT_S)
        assert begun(stage) == ["dirty"]

    def test_cancelled_what_runs_is_ended_and_what_waits_is_never_begun(self, make, stage, live):
        executor = Slots(live)
        futures = executor.submit(make("a", "b", "c"))
        until(lambda: len(begun(stage)) == 2)
        executor.cancel()
        assert stage.at_once == 0
        for future in futures:
            assert future.done()
            with pytest.raises(Stopped) as caught:
                future.result()
            assert caught.value.everything
        assert sorted(begun(stage)) == ["a", "b"]

    def test_a_model_that_needs_two_devices_has_them_for_itself(self, make, stage, live):
        large, *small = make("large", "b", "c")
        large = replace(large, claim=Claim(("0", "1"), 2, assigned=True))
        futures = Slots(live).submit([large, *small])
        until(lambda: begun(stage) == ["large"])
        assert stage.devices["large"] == "0,1"
        for name in ("large", "b", "c"):
            stage.gate(name).set()
        wait(futures, WAIT_S)
        assert sorted(begun(stage)[1:]) == ["b", "c"]

    def test_what_is_only_judged_needs_no_engine_here(self, make, stage, live):
        jobs = [job.with_deploy(engine="is-not-installed") for job in make("a", "b")]
        jobs = [replace(job, claim=Claim(("judging 0", "judging 1"), 1), phases=("judge",)) for job in jobs]
        futures = Slots(live).submit(jobs)
        for name in "ab":
            stage.gate(name).set()
        assert [future.result(WAIT_S).model.name for future in futures] == ["a", "b"]

    def test_one_that_cannot_be_begun_fails_alone(self, make, stage, live):
        bad, good = make("a", "b")
        futures = Slots(live).submit([bad.with_deploy(engine="is-not-installed"), good])
        stage.gate("b").set()
        assert futures[1].result(WAIT_S).model.name == "b"
        with pytest.raises(ConfigError, match="unknown engine"):
            futures[0].result(WAIT_S)

    def test_no_more_models_are_served_at_once_than_the_option_says(self, make, stage, live):
        futures = Slots(live, Local.Options(max_models=1)).submit(make("a", "b"))
        until(lambda: len(begun(stage)) == 1)
        stage.gate(begun(stage)[0]).set()
        until(lambda: len(begun(stage)) == 2)
        for name in "ab":
            stage.gate(name).set()
        wait(futures, WAIT_S)
        assert stage.most_at_once == 1


class TestInline:
    def test_cancelled_the_one_that_runs_is_ended_and_the_next_never_begun(self, make, stage, live):
        executor, jobs, futures = Inline(live), make("a", "b"), []
        thread = threading.Thread(target=lambda: futures.extend(executor.submit(jobs)), daemon=True)
        thread.start()
        until(lambda: begun(stage) == ["a"])
        executor.cancel()
        assert stage.at_once == 0
        thread.join(WAIT_S)
        assert [type(future.exception()) for future in futures] == [Stopped, Stopped]
        assert begun(stage) == ["a"]

    def test_one_after_the_other_in_order(self, make, stage, live):
        for name in "ab":
            stage.gate(name).set()
        futures = Inline(live).submit(make("a", "b"))
        assert [future.result().model.name for future in futures] == ["a", "b"]
        assert stage.most_at_once == 1

    def test_one_that_fails_fails_alone(self, make, stage, live):
        for name in ("bad", "b"):
            stage.gate(name).set()
        futures = Inline(live).submit(make("bad", "b"))
        assert isinstance(futures[0].exception(), EvalFlowError)
        assert futures[1].result().model.name == "b"


def load(choice):
    return load_executor(FlowConfig.parse({"executor": choice}).executor)


class TestByName:
    def test_ours_are_there(self):
        assert load("local") == (Local, Local.Options())
        assert load("inline") == (Inline, Inline.Options())

    def test_one_that_is_not(self):
        with pytest.raises(ConfigError, match=r"unknown executor 'locl'\s+Did you mean 'local'"):
            load("locl")

    def test_options_are_the_executors_own(self):
        assert load({"name": "local", "max-models": 3})[1] == Local.Options(max_models=3)

    def test_an_option_that_there_is_not_is_refused_with_those_that_there_are(self):
        with pytest.raises(ConfigError, match=r"evalflow\.executor\.max_model: unknown key\s+.*Known: max_models"):
            load({"name": "local", "max_model": 3})
        with pytest.raises(ConfigError, match="executor 'inline' has no options, and is given max_models"):
            load({"name": "inline", "max_models": 3})

    def test_a_wrong_value_is_refused(self):
        with pytest.raises(ConfigError, match=r"evalflow\.executor\.max_models: .*greater than 0"):
            load({"name": "local", "max_models": 0})


class TestJobs:
    @pytest.fixture
    def task(self, tmp_path, gguf_file, make_env, monkeypatch):
        monkeypatch.setenv("SOME_KEY", "sk-very-secret")
        return Task.parse(
            {
                "datasets": ["general_qa", "gsm8k"],
                "limit": 7,
                "work_dir": str(tmp_path / "out"),
                "judge": {"models": [{"model_id": "j", "api_url": "http://127.0.0.1:9/v1", "api_key": "${SOME_KEY}"}]},
                "evalflow": {
                    "backend": "Native",
                    "judge_max_num_seqs": 5,
                    "models": [
                        {"name": "a", "path": str(gguf_file)},
                        {"name": "b", "api_url": "https://api.example.com/v1", "api_key": "${SOME_KEY}"},
                    ],
                    "deploy": {"env": str(make_env()), "devices": "2,3"},
                },
            }
        )

    def test_a_job_is_pickled_and_has_no_key_in_it(self, task):
        for job in jobs_of(task):
            data = pickle.dumps(job)
            assert b"sk-very-secret" not in data
            again = pickle.loads(data)
            assert again == job
            assert again.task.folder(again.model) == task.folder(job.model)
            assert again.model.name == job.model.name

    def test_each_has_one_model_what_is_left_of_it_and_what_it_may_be_given(self, task, gguf_file):
        here, _ = jobs = jobs_of(task)
        assert [model.name for model in here.task.models] == ["a"]
        assert here.task.flow.models == [here.model]
        assert here.size == Size(gguf_file.stat().st_size, answers=14, verdicts=14, verdicts_at_once=5)
        api = Claim(tuple(f"the API at api.example.com ({number})" for number in (1, 2, 3, 4)), 1)
        assert claims_here(jobs) == [Claim(("2", "3"), 1, assigned=True), api]

    def test_settings_of_its_devices_are_its_own(self, task):
        job = jobs_of(task)[0]
        deploy = job.with_deploy(devices="3", tensor_parallel=1).deploy
        assert (deploy.devices, deploy.tensor_parallel) == ("3", 1)
        assert job.deploy.devices == "2,3"

    def test_a_lower_limit_of_the_judge_is_its_own(self, task):
        job = jobs_of(task)[0]
        limited = job.with_judge_limit(2)
        assert (limited.task.flow.judge_max_num_seqs, limited.size.verdicts_at_once) == (2, 2)
        assert job.task.flow.judge_max_num_seqs == 5

    def test_errors_come_back_from_another_process(self):
        error = pickle.loads(pickle.dumps(Stopped.all("x")))
        assert error.everything
        again = pickle.loads(pickle.dumps(EngineLost(EngineError("it died\nits log"), 3)))
        assert (type(again), again.added) == (EngineLost, 3)
        assert str(again) == "it died\nits log"


def test_a_model_on_several_devices_is_not_taken_for_a_longer_one(tmp_path):
    """Four devices read and answer together: it is no longer than one a quarter of its size."""
    models = [{"name": name, "api_url": "http://127.0.0.1:1/v1"} for name in ("wide", "long", "short")]
    task = Task.parse({"datasets": ["gsm8k"], "work_dir": str(tmp_path), "evalflow": {"models": models}})
    sizes = (Size(0, 4000), 4), (Size(0, 3000), 1), (Size(0, 500), 1)
    devices = ("0", "1", "2", "3")
    jobs = [Job(single_model_task(task, model), size) for model, (size, _) in zip(task.models, sizes, strict=True)]
    order = order_of(jobs, [Claim(devices, needs) for _, needs in sizes])
    assert order.makespan_s == sizes[0][0].engine_s(4) + sizes[1][0].engine_s(1)


class TestSizes:
    def test_samples_are_those_that_evalscope_publishes_up_to_the_limit(self, tmp_path, gguf_file):
        data = {"work_dir": str(tmp_path), "model": str(gguf_file), "datasets": ["gsm8k", "general_qa"]}
        data |= {"dataset_args": {"general_qa": {"local_path": str(tmp_path)}}, "evalflow": {"backend": "Native"}}
        assert samples(Task.parse(data)) == {"gsm8k": 1319, "general_qa": UNKNOWN_SAMPLES}
        assert samples(Task.parse({**data, "limit": 7})) == {"gsm8k": 7, "general_qa": 7}

    def test_more_bytes_and_more_answers_take_longer_and_more_devices_less(self):
        size = Size(10**10, 1000)
        assert Size(10**11, 1000).engine_s() > size.engine_s() > Size(10**10, 10).engine_s() > 0
        assert size.engine_s(4) < size.engine_s()
        assert Size().engine_s() == 0
        assert Size(verdicts=100, verdicts_at_once=10).judge_s > Size(verdicts=100, verdicts_at_once=50).judge_s


def grouped(jobs, *names):
    return [replace(job, group=Group("one engine")) if job.model.name in names else job for job in jobs]


def test_an_engine_goes_to_the_next_member_of_its_group_on_the_same_devices(stage, make, live):
    jobs = grouped(make("a", "b", "c", "d", devices="0,1", answers={"a": 400, "b": 300, "c": 200}), "a", "d")
    executor = Slots(live)
    for name in "abcd":
        stage.gate(name).set() if name != "b" else None
    futures = executor.submit(jobs)
    assert futures[3].result(WAIT_S)
    stage.gate("b").set()
    wait(futures, WAIT_S)
    order = [name for name, event, *_ in stage.events if event == "begins"]
    assert ("a", "engine kept") in stage.events
    assert ("d", "engine gone") in stage.events
    assert order.index("d") < order.index("c"), "the group's next member comes before the one that is longer"
    assert stage.devices["d"] == stage.devices["a"]


def test_an_heir_is_not_begun_when_everything_is_cancelled(stage, make, live):
    jobs = grouped(make("a", "d", devices="0"), "a", "d")
    executor = Slots(live)
    futures = executor.submit(jobs)
    run = executor._running[0]
    assert executor.reserve_heir(run)
    executor.cancel()
    for future in futures:
        with pytest.raises(Stopped):
            future.result(WAIT_S)
    assert len(stage.devices) == 1


def test_the_inline_executor_runs_a_group_in_one_go(stage, make, live):
    jobs = grouped(make("a", "b", "c"), "a", "c")
    for name in "abc":
        stage.gate(name).set()
    futures = Inline(live).submit(jobs)
    assert [future.result().model.name for future in futures] == ["a", "b", "c"]
    assert [name for name, event, *_ in stage.events if event == "begins"] == ["a", "c", "b"]
    assert [event for name, event, *_ in stage.events if "engine" in event] == [
        "engine kept", "engine gone", "engine gone",
    ]  # fmt: skip
